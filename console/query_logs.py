"""Log lines: full-text search, the time line above them, facets, and the tail."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from introspect.console.query import (
    ALL,
    MICROSECONDS,
    STEPS,
    Filters,
    Span,
    all_of,
    conditions,
    full_text,
    step_for,
)
from introspect.console.query_metrics import Graph, Line
from introspect.console.query_story import rows

if TYPE_CHECKING:
    import sqlite3

MAX_COUNTED: Final = 10_000
"""Matches of a text that are counted for time line and facets, the newest first."""

MAX_FACETS: Final = 50

PATIENCE: Final = 0.2
"""Seconds after which a search returns what it has found so far."""


@dataclass(frozen=True)
class LogFilter:
    """Which log lines; ``None`` or empty means all."""

    text: str = ""
    """Words, \"phrases\", -without, begin*; anything else is looked for literally."""
    level: str | None = None
    logger: str | None = None
    """Exactly, or with what is below it: ``shop`` also finds ``shop.cart``."""
    correlation_id: str | None = None


ANY_LOG: Final = LogFilter()
"""Every log line."""


@dataclass(frozen=True)
class Facet:
    """One value and how often."""

    value: str
    count: int


@dataclass(frozen=True)
class LogPage:
    """One page of log lines, newest first, and what stands around it."""

    rows: list[dict[str, Any]]
    """The columns of ``logs`` by name, ``timestamp`` included."""
    next: int | None
    """Hand this back as ``before`` for the next page; ``None`` at the end.  There may be a next
    page although this one is short or empty: the search took longer than it may."""
    timeline: Graph
    """Lines per step, one line per level."""
    levels: list[Facet]
    loggers: list[Facet]
    total: int
    counted_since: float | None
    """Time line, facets and total cover the span from here on (epoch seconds), because there were
    too many matches to count; ``None`` if they cover all of it."""


def search_logs(
    connection: sqlite3.Connection,
    span: Span,
    where: LogFilter = ANY_LOG,
    filters: Filters = ALL,
    *,
    limit: int = 100,
    before: int | None = None,
    count: bool = True,
) -> LogPage:
    """Search log lines, newest first; ``count=False`` leaves time line and facets empty."""
    first, last = span.ids
    if before is not None:
        last = min(last, before - 1)
    expression = full_text(where.text)
    if expression is not None:
        found, following = _by_text(connection, expression, first, last, where, filters, limit)
    elif where.correlation_id:
        found, following = _by_correlation(connection, first, last, where, filters, limit)
    else:
        found, following = _by_minute(connection, first, last, where, filters, limit)
    if not count:
        return LogPage(found, following, Graph("log lines", "", 0, 1, []), [], [], 0, None)
    counts, since = _counts(connection, span, expression, where, filters)
    return _page(span, found, following, counts, since)


def tail_logs(
    connection: sqlite3.Connection,
    after: int,
    where: LogFilter = ANY_LOG,
    filters: Filters = ALL,
    limit: int = 200,
) -> list[dict[str, Any]]:
    """Log lines that came after ``after`` (an ``id``), oldest first: ``tail -f``.

    If there are more than ``limit`` the newest ones are returned.
    """
    clauses, values = _conditions(where, filters)
    expression = full_text(where.text)
    if expression is not None:
        clauses.append("id IN (SELECT rowid FROM logs_fts WHERE logs_fts MATCH ? AND rowid > ?)")
        values += [expression, after]
    found = rows(
        connection,
        f"SELECT * FROM logs WHERE id > ? AND {all_of(clauses)} ORDER BY id DESC LIMIT ?",  # noqa: S608
        (after, *values, limit),
    )
    return found[::-1]


def _conditions(where: LogFilter, filters: Filters) -> tuple[list[str], list[object]]:
    clauses, values = _countable_conditions(where, filters)
    if where.correlation_id:
        clauses.append("+correlation_id = ?")
        values.append(where.correlation_id)
    return clauses, values


def _countable_conditions(where: LogFilter, filters: Filters) -> tuple[list[str], list[object]]:
    """Conditions on columns that ``logs`` and ``log_counts`` have in common."""
    clauses, values = conditions(filters)
    if where.level:
        clauses.append("level = ?")
        values.append(where.level.upper())
    if where.logger:
        clauses.append("(logger = ? OR substr(logger, 1, length(?) + 1) = ? || '.')")
        values += [where.logger] * 3
    return clauses, values


def _by_text(
    connection: sqlite3.Connection,
    expression: str,
    first: int,
    last: int,
    where: LogFilter,
    filters: Filters,
    limit: int,
) -> tuple[list[dict[str, Any]], int | None]:
    clauses, values = _conditions(where, filters)
    found: list[dict[str, Any]] = []
    deadline = time.perf_counter() + PATIENCE
    portion = limit + 1
    while True:
        ids = [
            identity
            for (identity,) in connection.execute(
                "SELECT rowid FROM logs_fts WHERE logs_fts MATCH ? AND rowid BETWEEN ? AND ?"
                " ORDER BY rowid DESC LIMIT ?",
                (expression, first, last, portion),
            )
        ]
        found += rows(
            connection,
            "SELECT * FROM logs WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608
            f" AND {all_of(clauses)} ORDER BY id DESC",
            (json.dumps(ids), *values),
        )
        if len(found) > limit:
            return found[:limit], found[limit - 1]["id"]
        if len(ids) < portion:
            return found, None
        last = ids[-1] - 1
        portion = min(portion * 4, MAX_COUNTED)
        if time.perf_counter() > deadline:
            return found, ids[-1]


def _by_correlation(
    connection: sqlite3.Connection,
    first: int,
    last: int,
    where: LogFilter,
    filters: Filters,
    limit: int,
) -> tuple[list[dict[str, Any]], int | None]:
    clauses, values = _conditions(where, filters)
    found = rows(
        connection,
        "SELECT * FROM logs INDEXED BY logs_by_correlation WHERE correlation_id = ?"  # noqa: S608
        f" AND id BETWEEN ? AND ? AND {all_of(clauses)} ORDER BY id DESC LIMIT ?",
        (where.correlation_id, first, last, *values, limit + 1),
    )
    return _cut(found, limit)


def _by_minute(
    connection: sqlite3.Connection,
    first: int,
    last: int,
    where: LogFilter,
    filters: Filters,
    limit: int,
) -> tuple[list[dict[str, Any]], int | None]:
    """Read only the minutes of which ``log_counts`` says that they hold a match."""
    countable, countable_values = _countable_conditions(_known_logger(connection, where), filters)
    minutes = connection.execute(
        "SELECT DISTINCT start FROM log_counts WHERE start BETWEEN ? AND ?"  # noqa: S608
        f" AND {all_of(countable)} ORDER BY start DESC",
        (first // MICROSECONDS - 60, last // MICROSECONDS, *countable_values),
    )
    clauses, values = _conditions(where, filters)
    found: list[dict[str, Any]] = []
    deadline = time.perf_counter() + PATIENCE
    for (minute,) in minutes:
        begin = minute * MICROSECONDS
        found += rows(
            connection,
            f"SELECT * FROM logs WHERE id BETWEEN ? AND ? AND {all_of(clauses)}"  # noqa: S608
            " ORDER BY id DESC LIMIT ?",
            (
                max(first, begin),
                min(last, begin + 60 * MICROSECONDS - 1),
                *values,
                limit + 1 - len(found),
            ),
        )
        if len(found) > limit:
            return _cut(found, limit)
        if time.perf_counter() > deadline:
            return found, begin
    return found, None


def _known_logger(connection: sqlite3.Connection, where: LogFilter) -> LogFilter:
    """Beyond a number of loggers the counts say ``_other``: then any minute may hold a match."""
    if (
        where.logger
        and connection.execute(
            "SELECT 1 FROM log_counts WHERE logger = '_other' LIMIT 1"
        ).fetchone()
    ):
        return LogFilter(level=where.level)
    return where


def _cut(found: list[dict[str, Any]], limit: int) -> tuple[list[dict[str, Any]], int | None]:
    return found[:limit], found[limit - 1]["id"] if len(found) > limit else None


Counts = list[tuple[int, str, str, int]]
"""Start of the step, level, logger, lines."""


def _counts(
    connection: sqlite3.Connection,
    span: Span,
    expression: str | None,
    where: LogFilter,
    filters: Filters,
) -> tuple[Counts, float | None]:
    step = _timeline_step(span)
    first, last = span.ids
    if expression is None and not where.correlation_id:
        clauses, values = _countable_conditions(where, filters)
        aligned = span.aligned(60)
        return connection.execute(
            "SELECT start / ?1 * ?1, level, logger, sum(count) FROM log_counts"  # noqa: S608
            f" WHERE start >= ?2 AND start < ?3 AND {_numbered(all_of(clauses), 4)}"
            " GROUP BY 1, 2, 3",
            (step, aligned.start, aligned.end, *values),
        ).fetchall(), None
    if expression is None:
        ids = connection.execute(
            "SELECT id FROM logs WHERE correlation_id = ? AND id BETWEEN ? AND ?"
            " ORDER BY id DESC LIMIT ?",
            (where.correlation_id, first, last, MAX_COUNTED),
        ).fetchall()
    else:
        ids = connection.execute(
            "SELECT rowid FROM logs_fts WHERE logs_fts MATCH ? AND rowid BETWEEN ? AND ?"
            " ORDER BY rowid DESC LIMIT ?",
            (expression, first, last, MAX_COUNTED),
        ).fetchall()
    clauses, values = _conditions(where, filters)
    counts = connection.execute(
        "SELECT id / 1000000 / ?1 * ?1, level, logger, count(*) FROM logs"  # noqa: S608
        f" WHERE id IN (SELECT value FROM json_each(?2)) AND {_numbered(all_of(clauses), 3)}"
        " GROUP BY 1, 2, 3",
        (step, json.dumps([identity for (identity,) in ids]), *values),
    ).fetchall()
    since = ids[-1][0] / MICROSECONDS if len(ids) == MAX_COUNTED else None
    return counts, since


def _numbered(clause: str, first: int) -> str:
    """Give the parameters of ``clause`` numbers, which statements with ``?1`` need throughout."""
    head, *parts = clause.split("?")
    return head + "".join(f"?{number}{part}" for number, part in enumerate(parts, first))


def _timeline_step(span: Span) -> int:
    """Seconds per step of the time line: whole minutes, in which lines are counted."""
    wanted = max(60, step_for(span))
    return next(step for step in STEPS if step >= wanted and step % 60 == 0)


def _page(
    span: Span,
    found: list[dict[str, Any]],
    following: int | None,
    counts: Counts,
    since: float | None,
) -> LogPage:
    step = _timeline_step(span)
    aligned = span.aligned(step)
    levels: Counter[str] = Counter()
    loggers: Counter[str] = Counter()
    cells: Counter[tuple[str, int]] = Counter()
    for start, level, logger, count in counts:
        levels[level] += count
        loggers[logger] += count
        cells[level, start] += count
    lines = [
        Line(
            level,
            [float(cells[level, start]) for start in range(aligned.start, aligned.end, step)],
        )
        for level, _ in levels.most_common()
    ]
    return LogPage(
        found,
        following,
        Graph("log lines", "", aligned.start, step, lines),
        [Facet(value, count) for value, count in levels.most_common(MAX_FACETS)],
        [Facet(value, count) for value, count in loggers.most_common(MAX_FACETS)],
        levels.total(),
        since,
    )
