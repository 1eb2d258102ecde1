"""What every read of the console's file shares: spans, filters, bucket choice, marks.

The read functions are the whole interface between the file and whoever shows it (the web pages,
``introspect story``): plain functions of an open connection that return dataclasses of plain values
(``dataclasses.asdict`` gives JSON).  They write nothing and may run on a read-only connection.

- ``query``           this file
- ``query_metrics``   any metric over any span
- ``query_overview``  the first page
- ``query_work``      requests, commands and tasks: search, sort, one view's page
- ``query_story``     everything that one correlation ID did
- ``query_logs``      log lines: search, time line, facets, tail
"""

from __future__ import annotations

import re
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path

MICROSECONDS: Final = 1_000_000
"""``work.id``, ``logs.id`` and ``events.id`` per second."""

MAX_BUCKETS: Final = 180
"""A graph has at most this many points: more shows nothing more, and costs as much again."""

MAX_MARKS: Final = 200

STEPS: Final = (10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)
"""Seconds per point of a graph; each is a multiple of a stored resolution."""

KEEP: Final = {10: 6 * 3600, 60: 2 * 86400, 600: None}
"""Seconds of one bucket → seconds it is kept (None: as long as the retention says)."""


@dataclass(frozen=True)
class Span:
    """A stretch of time in epoch seconds: ``start`` included, ``end`` not."""

    start: int
    end: int

    @property
    def seconds(self) -> int:
        """How long it is."""
        return self.end - self.start

    @property
    def ids(self) -> tuple[int, int]:
        """The first and the last ``id`` of ``work``, ``logs`` or ``events`` inside the span."""
        return self.start * MICROSECONDS, self.end * MICROSECONDS - 1

    def shifted(self, seconds: int) -> Span:
        """The same stretch ``seconds`` later (earlier if negative)."""
        return Span(self.start + seconds, self.end + seconds)

    def aligned(self, step: int) -> Span:
        """The smallest span of whole steps that contains this one."""
        return Span(self.start // step * step, -(-self.end // step) * step)


@dataclass(frozen=True)
class Filters:
    """Which services and environments; ``None`` means all.

    Plain StatsD carries no environment, so a series without one matches every environment.
    """

    service: str | None = None
    env: str | None = None


ALL: Final = Filters()
"""No filter."""


@dataclass(frozen=True)
class Mark:
    """Something that happened, to be drawn on every graph."""

    time: float
    """Epoch seconds."""
    kind: str
    """``start``, ``version`` or ``event``."""
    service: str
    title: str


@dataclass(frozen=True)
class BadLine:
    """Something received and not understood."""

    source: str
    """``statsd`` or ``log``."""
    reason: str
    count: int
    last_seen: int
    """Epoch seconds."""
    example: str


@dataclass(frozen=True)
class Receiver:
    """What the console says about itself over a span."""

    totals: dict[str, float]
    """``receiver_stats`` summed by name."""
    bad_lines: list[BadLine]
    """Since the file was made, most frequent first."""


def open_reader(path: str | Path) -> sqlite3.Connection:
    """Open the console's file for reading only; it may be written meanwhile."""
    uri = f"file:{quote(str(path))}?mode=ro"
    return sqlite3.connect(uri, uri=True, timeout=5.0, check_same_thread=False)


def last_span(seconds: int, now: float | None = None) -> Span:
    """The span of the last ``seconds``, up to and including the present second."""
    end = int(time.time() if now is None else now) + 1
    return Span(end - seconds, end)


def step_for(span: Span, max_buckets: int = MAX_BUCKETS, now: float | None = None) -> int:
    """Seconds per point so that a graph of ``span`` has at most ``max_buckets`` points."""
    finest = _finest_kept(span.start, now)
    for step in STEPS:
        if step >= finest and step % finest == 0 and span.seconds <= step * max_buckets:
            return step
    return STEPS[-1]


def resolution_for(span: Span, step: int, now: float | None = None) -> int:
    """The coarsest stored resolution that divides ``step`` and is still kept at ``span.start``."""
    finest = _finest_kept(span.start, now)
    fitting = [resolution for resolution in KEEP if step % resolution == 0]
    return max(*fitting, finest)


def pieces(span: Span, now: float | None = None) -> list[tuple[int, range]]:
    """Cut a span into stored buckets, as coarse as fit: ``(resolution, starts)``.

    Exact to the finest resolution that is still kept at each end.
    """
    return _pieces(span.start, span.end, sorted(KEEP, reverse=True), now)


def _pieces(
    start: int, end: int, resolutions: list[int], now: float | None
) -> list[tuple[int, range]]:
    if start >= end:
        return []
    coarsest, *finer = resolutions
    finer = [resolution for resolution in finer if resolution >= _finest_kept(start, now)]
    if not finer:
        return [(coarsest, range(start // coarsest * coarsest, end, coarsest))]
    first, last = -(-start // coarsest) * coarsest, end // coarsest * coarsest
    if first >= last:
        return _pieces(start, end, finer, now)
    return [
        *_pieces(start, first, finer, now),
        (coarsest, range(first, last, coarsest)),
        *_pieces(last, end, finer, now),
    ]


def _finest_kept(moment: float, now: float | None) -> int:
    age = (time.time() if now is None else now) - moment
    # A minute's grace: the oldest buckets of a page that is just being looked at may go meanwhile.
    return min(step for step, keep in KEEP.items() if keep is None or age < keep - 60)


def services(connection: sqlite3.Connection) -> list[str]:
    """Every service that was heard of, sorted."""
    return _names(connection, "service")


def environments(connection: sqlite3.Connection) -> list[str]:
    """Every environment that was heard of, sorted."""
    return _names(connection, "env")


def _names(connection: sqlite3.Connection, column: str) -> list[str]:
    rows = connection.execute(
        f"SELECT DISTINCT {column} FROM series UNION SELECT DISTINCT {column} FROM processes"  # noqa: S608
        f" UNION SELECT DISTINCT {column} FROM operations"
    )
    return sorted(name for (name,) in rows if name)


def distinct(
    connection: sqlite3.Connection, table: str, column: str, limit: int = 5000
) -> list[str]:
    """The distinct values of an indexed column, each found with one look into the index."""
    rows = connection.execute(
        f"WITH RECURSIVE found (value) AS (SELECT min({column}) FROM {table}"  # noqa: S608
        f" WHERE {column} IS NOT NULL UNION ALL"
        f" SELECT (SELECT min({column}) FROM {table} WHERE {column} > value) FROM found"
        " WHERE value IS NOT NULL LIMIT ?) SELECT value FROM found WHERE value IS NOT NULL",
        (limit,),
    )
    return [value for (value,) in rows]


def conditions(filters: Filters) -> tuple[list[str], list[object]]:
    """SQL for the filters, on a table that has both columns."""
    clauses: list[str] = []
    values: list[object] = []
    if filters.service is not None:
        clauses.append("service = ?")
        values.append(filters.service)
    if filters.env is not None:
        clauses.append("env IN (?, '')")
        values.append(filters.env)
    return clauses, values


def all_of(clauses: list[str]) -> str:
    """Join conditions; none is true."""
    return " AND ".join(clauses) or "1"


def full_text(text: str, *, begins: bool = False) -> str | None:
    """Turn what people type into an FTS5 expression; ``None`` if there is nothing to look for.

    Words and "phrases" must all occur, ``-word`` must not, ``word*`` is a beginning (with
    ``begins`` the last word is one anyway).  Nothing typed is a syntax error.
    """
    wanted: list[str] = []
    unwanted: list[str] = []
    for sign, phrase, word in _TERM.findall(text.replace("\0", " ")):
        term = phrase or word
        if not any(char.isalnum() for char in term):
            continue
        star = "*" if not phrase and term.endswith("*") else ""
        quoted = '"' + term.rstrip("*").replace('"', '""') + '"' + star
        (unwanted if sign else wanted).append(quoted)
    if not wanted:
        return None
    if begins and not wanted[-1].endswith("*") and not text.endswith(('"', " ")):
        wanted[-1] += "*"
    return " AND ".join(wanted) + "".join(f" NOT {term}" for term in unwanted)


_TERM: Final = re.compile(r'(?<!\S)(-?)(?:"([^"]*)"|(\S+))')


def marks(connection: sqlite3.Connection, span: Span, filters: Filters) -> list[Mark]:
    """Process starts, version changes and other events in ``span``, oldest first, at most 200.

    The starts of one service within a minute (a server's workers) are one mark.
    """
    clauses, values = conditions(filters)
    if filters.service is not None:
        clauses[0] = "service IN (?, '')"
    rows = connection.execute(
        "SELECT min(id), kind, service, title, count(*) FROM events WHERE id BETWEEN ? AND ?"  # noqa: S608
        f" AND {all_of(clauses)} GROUP BY kind, service, env, title,"
        " CASE kind WHEN 'start' THEN id / 60000000 ELSE id END ORDER BY 1 DESC LIMIT ?",
        (*span.ids, *values, MAX_MARKS),
    )
    found = [
        Mark(moment / MICROSECONDS, kind, service, title if count == 1 else f"{title} ({count})")
        for moment, kind, service, title, count in rows
    ]
    return found[::-1]


def receiver(connection: sqlite3.Connection, span: Span) -> Receiver:
    """What was received, refused and lost."""
    totals = connection.execute(
        "SELECT name, sum(value) FROM receiver_stats WHERE start >= ? AND start < ? GROUP BY name",
        (span.start // 60 * 60, span.end),
    )
    bad = connection.execute(
        "SELECT source, reason, count, last_seen, example FROM bad_lines ORDER BY count DESC"
    )
    return Receiver(dict(totals), [BadLine(*row) for row in bad])
