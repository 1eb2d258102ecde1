"""Hostile packets and lines, among good ones of which it is known what must become of them."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.console.rows import record, request

PIECES = [
    b":",
    b"|",
    b"|c",
    b"|ms",
    b"|g",
    b"|s",
    b"|@0.5",
    b"|@0",
    b"|@-1",
    b"|@1e-400",
    b"|#a:b,c",
    b"|#,,:",
    b"|T99999999999999",
    b"|c:x",
    b"1",
    b"-1",
    b"+1e308",
    b"1e999",
    b"nan",
    b"-inf",
    b"0x1F",
    b"1_000",
    "\u0661".encode(),
    b"9" * 400,
    b".",
    b"..",
    b"\0",
    b"\xff\xfe",
    b"\r",
    b"\t",
    b" ",
    b"constructor",
    b"__proto__",
    b"front.view.x.GET",
    b"'; DROP TABLE series; --",
    b"<script>",
    b"\x1b[2J",
    b"_e{9999,1}:",
    b"_e{1,1}:a|b",
    b"_sc|x|0",
    "\u202e\u0000\U0001f600".encode(),
    b"x" * 1000,
]


@dataclass
class Packets:
    """StatsD packets, each with at most one good line among hostile ones."""

    rng: random.Random
    expected: Counter[str] = field(default_factory=Counter)
    """Sum that each good counter must have."""

    def next(self) -> bytes:
        """Make one more."""
        lines = [self._hostile() for _ in range(self.rng.randrange(4))]
        if self.rng.random() < 0.5:
            name, value = f"good{self.rng.randrange(20)}", self.rng.randrange(1, 100)
            self.expected[name] += value
            lines.insert(self.rng.randrange(len(lines) + 1), f"{name}:{value}|c".encode())
        return b"\n".join(lines)

    def _hostile(self) -> bytes:
        rng = self.rng
        kind = rng.random()
        if kind < 0.2:
            return b"bad" + rng.randbytes(rng.randrange(60)).replace(b"\n", b"")
        if kind < 0.3:
            return b"bad%d:1|c" % rng.randrange(10**9)
        if kind < 0.5:  # a good line with a byte changed
            line = bytearray(b"bad.view.shop_views_basket.GET:12.345|ms|@0.5|#env:prod,method:GET")
            for _ in range(rng.randrange(1, 4)):
                line[rng.randrange(3, len(line))] = rng.randrange(11, 256)
            return bytes(line)
        return b"bad" + b"".join(rng.choices(PIECES, k=rng.randrange(1, 7)))


@dataclass
class Lines:
    """JSON lines, good and hostile."""

    rng: random.Random
    messages: set[str] = field(default_factory=set)
    """What good log records say."""
    paths: set[str] = field(default_factory=set)
    """Of good canonical lines."""
    sent: int = 0
    """Lines that are not empty."""

    def next(self) -> bytes:
        """Make one more, with its newline."""
        make: Callable[[], bytes] = self.rng.choices(
            (self._good_record, self._good_request, self._bytes, self._mutated, self._odd),
            (2, 2, 1, 3, 3),
        )[0]
        line = make().replace(b"\n", b"")
        self.sent += bool(line.strip())
        return line + b"\n"

    def _good_record(self) -> bytes:
        message = f"good {self.rng.getrandbits(60)} \u202e<script>'\"; DROP TABLE logs; --\x1b[2J"
        self.messages.add(message)
        return _dump(record(message=message))

    def _good_request(self) -> bytes:
        path = f"/good/{self.rng.getrandbits(60)}/\U0001f600"
        self.paths.add(path)
        return _dump(request(path=path))

    def _bytes(self) -> bytes:
        return self.rng.randbytes(self.rng.randrange(200))

    def _mutated(self) -> bytes:
        whole = {"message": "bad", "path": "/bad/"}
        line = bytearray(_dump(self.rng.choice((record, request))(**whole)))
        for _ in range(self.rng.randrange(1, 6)):
            at = self.rng.randrange(len(line))
            if self.rng.random() < 0.3:
                del line[at:]
                break
            line[at] = self.rng.randrange(256)
        return bytes(line)

    def _odd(self) -> bytes:
        rng = self.rng
        fields = rng.choice((record, request))(message="bad", path="/bad/")
        for name in rng.sample(sorted(fields), rng.randrange(1, 5)):
            if rng.random() < 0.3:
                del fields[name]
            else:
                fields[name] = self._value(3)
        fields["events"] = self._value(3)
        fields["exception"] = self._value(2)
        fields["extra"] = self._value(4)
        text = json.dumps(fields)
        return rng.choice(
            (
                text,
                text.replace("200", "1e999"),
                text.replace("12.5", "-1e308"),
                "[" * rng.randrange(3000),
                '{"message": ' * rng.randrange(3000),
                text[1:-1],
                f"[{text}]",
            )
        ).encode(errors="surrogatepass")

    def _value(self, depth: int) -> object:
        rng = self.rng
        simple = (
            None,
            True,
            -1,
            10**30,
            2**63,
            0.1,
            1e300,
            "",
            "bad\0\ud800",
            "x" * rng.randrange(3000),
            "2026-13-45T99:99:99Z",
            "9999-12-31T23:59:59Z",
            "0001-01-01T00:00:00+23:59",
        )
        kind = rng.random()
        if not depth or kind < 0.6:
            return rng.choice(simple)
        if kind < 0.8:
            return [self._value(depth - 1) for _ in range(rng.randrange(4))]
        keys = ("offset_ms", "ms", "kind", "name", "statement", "class", "span_id", "status")
        return {rng.choice(keys): self._value(depth - 1) for _ in range(rng.randrange(6))}


def _dump(fields: dict[str, object]) -> bytes:
    fields.pop("timestamp", None)
    return json.dumps(fields).encode()
