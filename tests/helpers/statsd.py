"""A StatsD receiver with a strict grammar, on a real socket."""

from __future__ import annotations

import math
import re
import select
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.ports import LOOPBACK

# What every StatsD server in use reads alike: plain decimals, the rate before the tags, no tag without a value.
_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+):(?P<value>-?\d+(?:\.\d+)?)\|(?P<kind>c|g|ms)"
    r"(?:\|@(?P<rate>0?\.\d+|1(?:\.0+)?))?"
    r"(?:\|#(?P<tags>[a-z][a-z0-9_.-]*:[^,|:#@\s]+(?:,[a-z][a-z0-9_.-]*:[^,|:#@\s]+)*))?",
    re.ASCII,
)
_LONGEST_NAME = 200
_LONGEST_PART = 80

_LINES_SHOWN = 200

_MARK = "mark"


def send_mark(
    address: tuple[str, int] | str,
    family: int = socket.AF_INET,
    kind: int = socket.SOCK_DGRAM,
) -> str:
    """Count a name that nobody else has, and return it: once it has arrived, so has all that was sent before."""
    name = f"{_MARK}.{uuid.uuid4().hex}"
    with socket.socket(family, kind) as sender:
        sender.connect(address)
        sender.sendall(f"{name}:1|c\n".encode())
    return name


class MalformedLineError(ValueError):
    """A line that some StatsD server would refuse, misread or drop; the message says why."""


@dataclass(frozen=True)
class Line:
    """One measurement as it came over the wire."""

    name: str
    value: float
    kind: str
    rate: float = 1.0
    tags: dict[str, str] = field(default_factory=dict)
    raw: str = ""

    @property
    def weight(self) -> float:
        """How many events the line stands for: its value if it counts, else 1; divided by the sample rate."""
        return (self.value if self.kind == "c" else 1) / self.rate


def parse_line(raw: str) -> Line:
    """Return the measurement that one line of a datagram holds; `MalformedLineError` if it bends any rule."""
    match = _LINE.fullmatch(raw)
    if match is None:
        raise MalformedLineError(
            f"not <dotted name>:<decimal>|c, g or ms[|@rate][|#tag:value,…]: {raw!r}"
        )
    name, value = match["name"], float(match["value"])
    if len(name) > _LONGEST_NAME or max(map(len, name.split("."))) > _LONGEST_PART:
        raise MalformedLineError(
            f"name over {_LONGEST_NAME} or part over {_LONGEST_PART} characters: {raw!r}"
        )
    if match["kind"] == "ms" and value < 0:
        raise MalformedLineError(f"negative timer: {raw!r}")
    rate = float(match["rate"] or 1)
    if not 0 < rate <= 1:
        raise MalformedLineError(f"sample rate outside 0 to 1: {raw!r}")
    pairs = [pair.split(":", 1) for pair in match["tags"].split(",")] if match["tags"] else []
    tags = dict(pairs)
    if len(tags) < len(pairs):
        raise MalformedLineError(f"the same tag twice: {raw!r}")
    return Line(name, value, match["kind"], rate, tags, raw)


class StatsdListener:
    """A StatsD server for one test: it receives in a thread and keeps what came.

    `address` is what INTROSPECT_STATSD takes: UDP by default, `tcp`, or a Unix socket at `path`, which takes datagrams
    (`unix-datagram`) or connections (`unix-stream`).  A line that bends the grammar is kept in `malformed`, and
    `close()` fails the test that received it.
    """

    def __init__(self, way: str = "udp", path: Path | None = None) -> None:
        is_datagram = way in ("udp", "unix-datagram")
        self.socket = socket.socket(
            socket.AF_INET if path is None else socket.AF_UNIX,
            socket.SOCK_DGRAM if is_datagram else socket.SOCK_STREAM,
        )
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind((LOOPBACK, 0) if path is None else str(path))
        if path is None:
            self.host, self.port = self.socket.getsockname()
            self.address = f"{way}://{self.host}:{self.port}"
        else:
            self.address = f"unix://{path}"
        if not is_datagram:
            self.socket.listen()
        # Each connection, with what has come of a line whose end has not.
        self._connections: dict[socket.socket, bytes] = {}
        self.malformed: list[str] = []
        self._datagrams: list[bytes] = []
        self._lines: list[Line] = []
        self._marks: set[str] = set()
        self._changed = threading.Condition()
        self._closing, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._receive, name="statsd-listener", daemon=True)
        self._thread.start()

    @property
    def lines(self) -> list[Line]:
        """All well-formed lines so far, in the order in which they came."""
        with self._changed:
            return list(self._lines)

    @property
    def datagrams(self) -> list[bytes]:
        """All datagrams so far, as they came."""
        with self._changed:
            return list(self._datagrams)

    def named(self, name: str) -> list[Line]:
        """Return the lines so far whose name is exactly `name`."""
        return [line for line in self.lines if line.name == name]

    def values(self, name: str) -> list[float]:
        """Return the values so far of `name`, in the order in which they came."""
        return [line.value for line in self.named(name)]

    def count(self, name: str) -> int:
        """Return how many events `name` has reported so far, what sampling left out included."""
        return round(math.fsum(line.weight for line in self.named(name)))

    def names(self) -> set[str]:
        """Return every name so far."""
        return {line.name for line in self.lines}

    def wait_for(
        self, predicate: Callable[[StatsdListener], object], timeout: float = 10.0
    ) -> None:
        """Return as soon as `predicate(self)` is true; `AssertionError` with the latest lines after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not predicate(self):
                left = deadline - time.monotonic()
                if left <= 0:
                    latest = self._lines[-_LINES_SHOWN:]
                    received = "\n".join(
                        [f"{len(self._lines)} lines, the latest:", *(line.raw for line in latest)]
                    )
                    raise AssertionError(
                        f"not received within {timeout} s; what came:\n{received}\n{self.malformed}"
                    )
                self._changed.wait(left)

    def wait_for_count(self, name: str, expected: int, timeout: float = 10.0) -> None:
        """Wait until `name` has reported at least `expected` events; a surplus is for the test to find afterwards."""
        self.wait_for(lambda listener: listener.count(name) >= expected, timeout)

    def catch_up(self) -> None:
        """Return once all that has been sent here by now has come: nothing is to be waited for that was never sent."""
        name = send_mark(self.socket.getsockname(), self.socket.family, self.socket.type)
        self.wait_for(lambda listener: name in listener._marks)

    def settle(self, quiet: float = 0.3) -> None:
        """Return once nothing has come for `quiet` seconds: what is counted after that is all there is."""
        seen = -1
        while seen != (seen := len(self.datagrams)):
            time.sleep(quiet)

    def clear(self) -> None:
        """Forget the lines and datagrams so far; malformed lines stay."""
        with self._changed:
            self._lines.clear()
            self._datagrams.clear()

    def close(self) -> None:
        """Stop receiving; `AssertionError` if any line was malformed."""
        self._wake.close()
        self._thread.join()
        self._closing.close()
        self.socket.close()
        assert not self.malformed, "\n".join(self.malformed)

    def _receive(self) -> None:
        while True:
            ready, _, _ = select.select([self.socket, *self._connections, self._closing], [], [])
            if ready == [self._closing]:
                break
            for readable in ready:
                if readable is not self._closing:
                    self._take_from(readable)
        for connection in self._connections:
            connection.close()

    def _take_from(self, readable: socket.socket) -> None:
        if self.socket.type == socket.SOCK_DGRAM:
            self._keep(readable.recv(65_535))
        elif readable is self.socket:
            self._connections[readable.accept()[0]] = b""
        else:
            data = readable.recv(65_536)
            lines, _, rest = (self._connections.pop(readable) + data).rpartition(b"\n")
            if lines:
                self._keep(lines)
            if data:
                self._connections[readable] = rest
                return
            readable.close()
            if rest:
                self.malformed.append(f"cut off by the end of its connection: {rest!r}")

    def _keep(self, datagram: bytes) -> None:
        lines = datagram.decode("utf-8", "backslashreplace").rstrip("\n").split("\n")
        with self._changed:
            if lines[0].startswith(f"{_MARK}."):
                self._marks.add(lines[0].partition(":")[0])
            else:
                self._datagrams.append(datagram)
                self._lines += self._well_formed(lines)
            self._changed.notify_all()

    def _well_formed(self, raw_lines: list[str]) -> Iterator[Line]:
        for raw in raw_lines:
            try:
                yield parse_line(raw)
            except MalformedLineError as error:
                self.malformed.append(str(error))
