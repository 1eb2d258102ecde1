"""What was received and is not yet in the file: merged while it waits, and bounded."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from introspect.console.statsd import Bad, Point, Series, Taken

if TYPE_CHECKING:
    from introspect.console.lines import Log, Work

MAX_ROWS: Final = 20_000
MAX_BYTES: Final = 24 << 20
"""Lines kept while the file cannot be written, and their size as received (in memory they take
several times that): some seconds of the fastest logging, hours of a usual site's."""

MAX_POINTS: Final = 100_000


@dataclass
class Batch:
    """Points, lines and counts on their way to the file."""

    points: dict[tuple[int, Series], Point] = field(default_factory=dict)
    works: list[Work] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    events: list[tuple[int, str, str]] = field(default_factory=list)
    """DogStatsD events: epoch seconds, title, text."""
    bad: dict[tuple[str, str], Bad] = field(default_factory=dict)
    """By source and reason."""
    counts: dict[str, float] = field(default_factory=dict)
    """For ``receiver_stats``."""

    def __bool__(self) -> bool:
        return bool(
            self.points or self.works or self.logs or self.events or self.bad or self.counts
        )

    def is_crowded(self) -> bool:
        """Whether so many lines wait that more had better wait elsewhere."""
        rows = max(len(self.works), len(self.logs))
        size = sum(row.size for row in self.works) + sum(row.size for row in self.logs)
        return rows > MAX_ROWS // 4 or size > MAX_BYTES // 4

    def count(self, name: str, value: float) -> None:
        """Add to one of ``receiver_stats``."""
        if value:
            self.counts[name] = self.counts.get(name, 0) + value

    def refuse(self, source: str, reason: str, example: bytes, count: int = 1) -> None:
        """Note that something was not understood."""
        bad = self.bad.setdefault((source, reason), Bad(0, b""))
        bad.count += count
        bad.example = example[:200]
        self.count(f"{source}.bad", count)

    def add_taken(self, taken: Taken) -> None:
        """Take in what StatsD packets brought."""
        self.count("statsd.packets", taken.packets)
        self.count("statsd.lines", taken.lines)
        for reason, bad in taken.bad.items():
            self.refuse("statsd", reason, bad.example, bad.count)
        self._add_points(taken.points)
        self.events += taken.events

    def add(self, later: Batch) -> None:
        """Take in what was received after this; what does not fit is counted as lost."""
        self._add_points(later.points)
        self.works += later.works
        self.logs += later.logs
        self.events += later.events
        for (source, reason), bad in later.bad.items():
            mine = self.bad.setdefault((source, reason), Bad(0, b""))
            mine.count += bad.count
            mine.example = bad.example
        for name, value in later.counts.items():
            self.count(name, value)
        for rows in (self.works, self.logs, self.events):
            self._drop_oldest(rows)

    def _drop_oldest(self, rows: list[Any]) -> None:
        surplus = max(0, len(rows) - MAX_ROWS)
        size = sum(getattr(row, "size", 0) for row in itertools.islice(rows, surplus, None))
        while size > MAX_BYTES:
            size -= rows[surplus].size
            surplus += 1
        if surplus:
            del rows[:surplus]
            self.count("store.lost", surplus)

    def _add_points(self, points: dict[tuple[int, Series], Point]) -> None:
        for key, point in points.items():
            mine = self.points.get(key)
            if mine is not None:
                mine.add(point)
            elif len(self.points) < MAX_POINTS:
                self.points[key] = point
            else:
                self.count("store.lost", 1)
