"""StatsD lines to points: what came in since last asked, added up by series.

Understood: counters, timers (``ms``, ``h``, ``d``), gauges and their deltas, sets, sample rates,
DogStatsD tags, timestamps and events, several values behind one name in both dialects
(``a:1:2|ms``, ``a:1|c:2|c``), any number of lines per packet.  Whatever else comes is counted as
bad, with its reason, and changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from introspect.console import names, sketch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BUCKET: Final = 10
"""Seconds: points are added up in steps of this."""

MAX_SERIES: Final = 20_000
"""Distinct series between two calls of ``take`` and cached beyond it: bounds hostile names."""

LONGEST_NAME: Final = 300
LONGEST_TAGS: Final = 1000
MAX_TAGS: Final = 30
SMALLEST_RATE: Final = 1e-9

KINDS: Final = {
    b"c": names.COUNTER,
    b"ms": names.TIMER,
    b"h": names.TIMER,
    b"d": names.TIMER,
    b"g": names.GAUGE,
    b"s": names.SET,
}

_NUMBER: Final = rb"[-+]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][-+]?\d{1,2})?"
_match_line: Final = re.compile(rb"([^:|]+):(" + _NUMBER + rb")\|(.+)").fullmatch
_match_number: Final = re.compile(_NUMBER).fullmatch
_RATE: Final = rb"0?\.\d{1,20}|1(?:\.0*)?|\d(?:\.\d{1,20})?[eE]-\d{1,2}"
_match_rate: Final = re.compile(_RATE).fullmatch
_match_seconds: Final = re.compile(rb"\d{1,12}").fullmatch
_match_event: Final = re.compile(rb"_e\{(\d{1,5}),(\d{1,5})\}:(.*)", re.DOTALL).fullmatch


class Series(NamedTuple):
    """Who measured what."""

    metric: str
    kind: str
    service: str
    env: str
    tags: tuple[tuple[str, str], ...]


@dataclass
class Point:
    """What one series said in one bucket so far."""

    count: float = 0
    sum: float = 0
    min: float | None = None
    max: float | None = None
    last: float | None = None
    sketch: sketch.Sketch | None = None
    members: set[bytes] | None = None

    def add(self, other: Point) -> None:
        """Take in what the same series said later in the same bucket."""
        self.count += other.count
        self.sum += other.sum
        if other.min is not None and other.max is not None:
            self.min = other.min if self.min is None else min(self.min, other.min)
            self.max = other.max if self.max is None else max(self.max, other.max)
        if other.last is not None:
            self.last = other.last
        if other.sketch:
            mine = self.sketch = {} if self.sketch is None else self.sketch
            for key, count in other.sketch.items():
                mine[key] = mine.get(key, 0) + count
        if other.members:
            self.members = other.members | (self.members or set())

    def packed(self) -> bytes | None:
        """Return the sketch or the members as the file keeps them."""
        if self.members is not None:
            return sketch.pack_members(self.members)
        return sketch.pack(self.sketch) if self.sketch else None


@dataclass
class Bad:
    """How often something was refused, and what it looked like the last time."""

    count: int
    example: bytes


@dataclass
class Taken:
    """What came in since last asked."""

    points: dict[tuple[int, Series], Point] = field(default_factory=dict)
    events: list[tuple[int, str, str]] = field(default_factory=list)
    """Epoch seconds, title, text."""
    bad: dict[str, Bad] = field(default_factory=dict)
    lines: int = 0
    packets: int = 0


class BadLineError(ValueError):
    """This line cannot be counted; the text is the reason."""


class Slot(NamedTuple):
    """Where values of one series with one weight are kept until the next ``take``."""

    series: Series
    weight: float
    may_be_negative: bool
    start: int | None
    """The bucket that a timestamp asks for; ``None``: the present one."""


class Aggregate:
    """Adds up packets.  One thread feeds and takes; nothing here is locked."""

    def __init__(self, gauges: Mapping[Series, float] | None = None) -> None:
        """Start from the last known ``gauges``, the base of their deltas."""
        self._gauges = dict(gauges or {})
        self._appends: dict[tuple[bytes, bytes], Callable[[bytes], None]] = {}
        self._slots: dict[Slot, list[bytes]] = {}
        self._taken = Taken()

    def feed(self, packet: bytes, now: float) -> None:
        """Count one packet that arrived at ``now`` (epoch seconds)."""
        # PERF: at 50,000 lines a second this loop is the console.  Values stay bytes, a known
        # (name, rest) goes straight to its list's append, and all else happens in take().
        appends = self._appends
        lines = packet.split(b"\n")
        for line in lines:
            match = _match_line(line)
            if match is None:
                self._odd_line(line, now)
                continue
            name, value, rest = match.groups()
            append = appends.get((name, rest))
            if append is None:
                self._new_line(line, name, value, rest, now)
            else:
                append(value)
        self._taken.packets += 1
        self._taken.lines += len(lines) - lines.count(b"")

    def take(self, now: float) -> Taken:
        """Hand over what came in; call it at least as often as a bucket is long."""
        present = int(now) // BUCKET * BUCKET
        taken, self._taken = self._taken, Taken()
        for slot, values in self._slots.items():
            if values:
                start = present if slot.start is None else slot.start
                self._add_up(taken, slot, values, start)
                values.clear()
        if len(self._appends) >= MAX_SERIES or len(self._slots) >= MAX_SERIES:
            self._appends.clear()
            self._slots.clear()
        while len(self._gauges) > MAX_SERIES:
            del self._gauges[next(iter(self._gauges))]
        return taken

    def _new_line(self, line: bytes, name: bytes, value: bytes, rest: bytes, now: float) -> None:
        """Find or make the list that lines with this name and this rest go to."""
        try:
            kind, _, fields = rest.rstrip(b"\r ").partition(b"|")
            if b":" in kind:
                self._packed_line(line, now)
                return
            slot = read_slot(name, kind, fields, now)
            if slot.series.kind == names.SET:
                self._slot_values(slot).append(value)
                return
            values = self._slot_values(slot)
            values.append(value)
            if slot.start is None:
                self._appends[name, rest] = values.append
        except BadLineError as reason:
            self._refuse(str(reason), line)

    def _odd_line(self, line: bytes, now: float) -> None:
        """Count a line that is not ``name:number|rest``: sets, several values, events, rubbish."""
        line = line.strip(b"\r ")
        if not line:
            return
        try:
            if line.startswith(b"_e{"):
                self._taken.events.append((int(now), *read_event(line)))
            elif line.startswith(b"_sc|"):
                raise BadLineError("service check: not kept")
            else:
                self._packed_line(line, now)
        except BadLineError as reason:
            self._refuse(str(reason), line)

    def _packed_line(self, line: bytes, now: float) -> None:
        name, colon, rest = line.partition(b":")
        if not colon:
            raise BadLineError("no value")
        head, bar, tail = rest.partition(b"|")
        if not bar:
            raise BadLineError("no type")
        kind, _, fields = tail.partition(b"|")
        if kind == b"s":
            if not 0 < len(head) <= LONGEST_NAME:
                raise BadLineError("not a set member")
            self._slot_values(read_slot(name, kind, fields, now)).append(head)
            return
        if b":" in kind and b"#" not in rest:  # a:1|c:2|c, as Etsy's statsd reads it
            # The type of each value stands in front of the next colon.
            readings = [
                (reading.partition(b"|")[0], *reading.partition(b"|")[2].partition(b"|")[::2])
                for reading in rest.split(b":")
            ]
        else:  # a:1:2|ms, as DogStatsD 1.1 reads it
            readings = [(value, kind, fields) for value in head.split(b":")]
        slots = [(read_slot(name, kind, fields, now), value) for value, kind, fields in readings]
        for slot, value in slots:
            if slot.series.kind == names.SET or not _match_number(value):
                raise BadLineError("not a number")
        for slot, value in slots:
            self._slot_values(slot).append(value)

    def _slot_values(self, slot: Slot) -> list[bytes]:
        values = self._slots.get(slot)
        if values is None:
            if len(self._slots) >= MAX_SERIES:
                raise BadLineError("too many names at once")
            values = self._slots[slot] = []
        return values

    def _refuse(self, reason: str, line: bytes, count: int = 1) -> None:
        refuse(self._taken, reason, line, count)

    def _add_up(self, taken: Taken, slot: Slot, raw: list[bytes], start: int) -> None:
        point = taken.points.setdefault((start, slot.series), Point())
        kind = slot.series.kind
        if kind == names.SET:
            point.add(Point(count=len(raw), members=set(raw)))
            return
        values = list(map(float, raw))
        if kind == names.GAUGE:
            point.add(self._gauge_point(slot.series, raw, values))
            return
        lowest = -sketch.LARGEST if slot.may_be_negative else 0
        if min(values) < lowest or max(values) > sketch.LARGEST:
            fitting = [value for value in values if lowest <= value <= sketch.LARGEST]
            refuse(
                taken,
                "negative time or absurd number",
                slot.series.metric.encode(),
                len(values) - len(fitting),
            )
            values = fitting
            if not values:
                if not point.count:
                    del taken.points[start, slot.series]
                return
        weight = slot.weight
        added = Point(len(values) * weight, sum(values) * weight, min(values), max(values))
        if kind == names.TIMER:
            added.sketch = {}
            sketch.add(added.sketch, values, weight)
        point.add(added)

    def _gauge_point(self, series: Series, raw: list[bytes], values: list[float]) -> Point:
        levels = []
        level = self._gauges.get(series, 0.0)
        for text, value in zip(raw, values, strict=True):
            level = level + value if text[:1] in b"+-" else value
            level = max(-sketch.LARGEST, min(sketch.LARGEST, level))
            levels.append(level)
        self._gauges[series] = level
        return Point(len(levels), sum(levels), min(levels), max(levels), level)


def refuse(taken: Taken, reason: str, line: bytes, count: int = 1) -> None:
    """Note that ``line`` could not be counted."""
    bad = taken.bad.setdefault(reason, Bad(0, b""))
    bad.count += count
    bad.example = line[:200]


def read_slot(name: bytes, kind_code: bytes, fields: bytes, now: float) -> Slot:
    """Read what stands around a value; raise ``BadLineError`` if it cannot be understood."""
    kind = KINDS.get(kind_code)
    if kind is None:
        raise BadLineError("unknown type")
    rate = 1.0
    tags: dict[str, str] | None = None
    start = None
    for part in fields.split(b"|") if fields else ():
        if part.startswith(b"@"):
            rate = read_rate(part[1:])
        elif part.startswith(b"#"):
            tags = read_tags(part[1:])
        elif part.startswith(b"T"):
            start = read_timestamp(part[1:], now)
        elif not part.startswith((b"c:", b"e:", b"card:")):  # container, external data, cardinality
            raise BadLineError("unknown field")
    series = read_series(read_text(name, LONGEST_NAME, "name"), kind, tags)
    weight = 1.0 if kind in (names.GAUGE, names.SET) else 1 / rate
    return Slot(series, weight, kind_code != b"ms", start)


def read_series(name: str, kind: str, tags: dict[str, str] | None) -> Series:
    """Say which series a name and its tags are."""
    if tags is None:
        service, metric, values = names.split(name, kind)
        pairs = zip(names.CATALOGUE[metric].tags, values, strict=True) if service else ()
        return Series(metric, kind, service, "", tuple(sorted(pairs)))
    service, metric, _ = names.split(name, kind, tagged=True)
    service = tags.pop("service", service)
    env = tags.pop("env", "")
    return Series(metric, kind, service, env, tuple(sorted(tags.items())))


def read_text(raw: bytes, longest: int, what: str) -> str:
    """Decode something that people will read; control characters are refused."""
    if len(raw) > longest:
        raise BadLineError(f"{what} too long")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise BadLineError(f"{what} is not UTF-8") from None
    if not text.isprintable() or not text.strip():
        raise BadLineError(f"{what} is not printable")
    return text


def read_rate(raw: bytes) -> float:
    """Read a sample rate: above 0, at most 1."""
    rate = float(raw) if _match_rate(raw) else 0.0
    if not SMALLEST_RATE <= rate <= 1:
        raise BadLineError("sample rate is not above 0 and at most 1")
    return rate


def read_tags(raw: bytes) -> dict[str, str]:
    """Read ``a:b,flag``; the last of several equal names wins."""
    if not raw:
        return {}
    tags = {}
    for pair in read_text(raw, LONGEST_TAGS, "tags").split(","):
        tag, _, value = pair.partition(":")
        if tag:
            tags[tag] = value
    if len(tags) > MAX_TAGS:
        raise BadLineError("too many tags")
    return tags


def read_timestamp(raw: bytes, now: float) -> int:
    """Read when a value was measured; say which bucket that is."""
    if not _match_seconds(raw) or not now - 3600 <= int(raw) <= now + 60:
        raise BadLineError("timestamp is not of the last hour")
    return int(raw) // BUCKET * BUCKET


def read_event(line: bytes) -> tuple[str, str]:
    """Read DogStatsD's ``_e{<bytes of title>,<bytes of text>}:title|text|…``."""
    match = _match_event(line)
    if match is None:
        raise BadLineError("event without its lengths")
    title_length, text_length = int(match[1]), int(match[2])
    rest = match[3]
    if rest[title_length : title_length + 1] != b"|" or len(rest) < title_length + 1 + text_length:
        raise BadLineError("event is not as long as it says")
    title = read_text(rest[:title_length], LONGEST_NAME, "event's title")
    return title, rest[title_length + 1 :][:text_length].decode(errors="replace")[:2000]
