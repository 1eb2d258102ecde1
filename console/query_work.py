"""Requests, commands and tasks: search and sort them, and all about one view."""

from __future__ import annotations

import bisect
import heapq
import json
import math
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from introspect.agent.metrics import plain_part
from introspect.console import names, sketch
from introspect.console.query import (
    ALL,
    MICROSECONDS,
    Filters,
    Span,
    all_of,
    conditions,
    full_text,
)
from introspect.console.query_metrics import (
    PERCENTILES,
    Axis,
    Cell,
    Graph,
    Summary,
    cells,
    select_series,
    summarise,
    totals,
)
from introspect.console.query_overview import TopRow, dotted_views, operation_sums
from introspect.console.query_story import iterate, read_events, rows
from introspect.console.schema import WORK_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Iterator

FEW: Final = 20_000
"""Matches that are simply read and sorted; more are searched stretch by stretch."""

PATIENCE: Final = 0.2
"""Seconds after which a search returns what it has found so far."""

STEPS_PER_LOOK: Final = 20_000
"""Steps of SQLite's machine between two looks at the clock."""

ZONE: Final = 10
"""Seconds of one row of ``work_zones``."""

MAX_OFFSET: Final = 1000
HEAT_ROWS: Final = 24
CALLERS_SAMPLED: Final = 200


@dataclass(frozen=True)
class WorkFilter:
    """Which canonical lines; ``None`` or empty means all."""

    kind: str | None = None
    """``request``, ``command``, ``task``."""
    view: str | None = None
    """Exactly; a command's or task's name too."""
    method: str | None = None
    status: str | None = None
    """``404``, or a class: ``5xx``; ``error`` is 5xx or any exception."""
    min_ms: float | None = None
    max_ms: float | None = None
    user_id: str | None = None
    correlation_id: str | None = None
    version: str | None = None
    host: str | None = None
    text: str = ""
    """Words of path, view, name, user or exception; the last one may be a beginning."""


ANY_WORK: Final = WorkFilter()
"""Every canonical line."""


@dataclass(frozen=True)
class WorkPage:
    """One page of canonical lines."""

    rows: list[dict[str, Any]]
    """The columns of ``work`` by name, ``timestamp`` included."""
    next: str | None
    """Hand this back as ``after`` for the next page; ``None`` at the end.  There may be a next page
    although this one is short or empty: the search took longer than it may."""
    graph: Graph
    """Works per second over the span, regardless of the filter."""
    is_complete: bool = True
    """``False``: sorted by a number, and time ran out; these are the best rows found so far."""


@dataclass(frozen=True)
class HeatMap:
    """How many requests took how long, when."""

    start: int
    step: int
    """Seconds per column."""
    bounds: list[float]
    """Rising limits in ms: row i counts durations from bounds[i] up to bounds[i + 1]."""
    columns: list[list[float]]
    """Per step, one count per row."""


@dataclass(frozen=True)
class Caller:
    """Who calls a view: another service's view, command or task."""

    service: str
    origin: str
    count: int
    """Of the sampled requests."""


@dataclass(frozen=True)
class ViewPage:
    """All about one view."""

    view: str
    summary: Summary
    methods: list[str]
    latency: Graph
    rate: Graph
    heat: HeatMap
    requests: float
    """Requests of which the events are known: what the per-request counts divide by."""
    statements: list[ViewOperation]
    templates: list[ViewOperation]
    calls: list[ViewOperation]
    cache: list[ViewOperation]
    callers: list[Caller]
    called_directly: int
    """Sampled requests that no known service caused."""
    slowest: list[dict[str, Any]]
    """Rows of ``work``."""


@dataclass(frozen=True)
class ViewOperation(TopRow):
    """A TopRow with what it means per request."""

    per_request: float
    """Times done per request of the view."""
    ms_per_request: float


def search_work(
    connection: sqlite3.Connection,
    span: Span,
    where: WorkFilter = ANY_WORK,
    filters: Filters = ALL,
    *,
    sort: str = "id",
    descending: bool = True,
    limit: int = 50,
    after: str | None = None,
) -> WorkPage:
    """Search canonical lines; ``sort`` is ``id`` (time) or one of ``schema.WORK_NUMBERS``.

    Raises:
        ValueError: ``sort`` or ``after`` is none of ours.
    """
    if sort != "id" and sort not in WORK_NUMBERS:
        raise ValueError(
            f"{sort!r} cannot be sorted by; use id or one of {', '.join(WORK_NUMBERS)}"
        )
    search = _Search(connection, span, where, filters, sort, descending=descending)
    graph = works_graph(connection, span)
    if sort == "id":
        found, following = search.by_time(limit, None if after is None else int(after))
        return WorkPage(found, following, graph)
    offset = 0 if after is None else int(after)
    found, is_complete = search.by_number(offset + limit + 1)
    has_more = len(found) > offset + limit and offset + limit <= MAX_OFFSET
    following = str(offset + limit) if has_more else None
    return WorkPage(found[offset : offset + limit], following, graph, is_complete)


def works_graph(connection: sqlite3.Connection, span: Span) -> Graph:
    """Canonical lines per second."""
    axis = Axis(span)
    aligned = span.aligned(axis.step)
    rows_ = connection.execute(
        "SELECT start / ?1 * ?1, sum(works) FROM work_zones WHERE start >= ?2 AND start < ?3"
        " GROUP BY 1",
        (axis.step, aligned.start, aligned.end),
    )
    steps = {start: Cell(count=works) for start, works in rows_}
    return axis.graph("requests", "/s", [axis.rates("requests", steps, counter=False)])


class _Search:
    """One search: the conditions once, and two ways to walk."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        span: Span,
        where: WorkFilter,
        filters: Filters,
        sort: str,
        *,
        descending: bool,
    ) -> None:
        self._connection = connection
        self._span = span
        self._sort = sort
        self._descending = descending
        self._min_ms = where.min_ms
        self._deadline = time.perf_counter() + PATIENCE
        self._clauses, self._values = conditions(filters)
        self._indexes: list[tuple[str, str, list[object]]] = []
        self._of_view: str | None = None
        self._text = full_text(where.text, begins=True)
        self._add(where)

    def _add(self, where: WorkFilter) -> None:
        if where.correlation_id:
            self._equal("correlation_id", where.correlation_id, "work_by_correlation")
        if where.user_id:
            self._equal("user_id", where.user_id, "work_by_user")
        if where.view:
            self._view(where.view)
        for column in ("kind", "method", "version", "host"):
            value = getattr(where, column)
            if value:
                self._equal(column, value)
        if where.status:
            self._status(where.status)
        if where.min_ms is not None:
            self._clause("duration_ms >= ?", where.min_ms)
        if where.max_ms is not None:
            self._clause("duration_ms <= ?", where.max_ms)

    def _clause(self, clause: str, *values: object) -> None:
        self._clauses.append(clause)
        self._values += values

    def _equal(self, column: str, value: object, index: str | None = None) -> None:
        # The + keeps SQLite from choosing an index by itself: which one serves is decided below.
        self._clause(f"+{column} = ?", value)
        if index is not None:
            self._indexes.append((index, f"{column} = ?", [value]))

    def _view(self, view: str) -> None:
        view = dotted_views(self._connection).get(view, view)
        is_view = self._connection.execute(
            "SELECT 1 FROM work WHERE view = ? LIMIT 1", (view,)
        ).fetchone()
        column = "view" if is_view else "name"
        self._of_view = view if is_view else None
        self._equal(column, view, f"work_by_{column}")

    def _status(self, status: str) -> None:
        if status == "error":
            self._clause("(status >= 500 OR exception_class IS NOT NULL)")
            return
        digit = status[:1]
        if len(status) == 3 and digit.isdigit() and status[1:] == "xx":  # noqa: PLR2004
            low, high = int(digit) * 100, int(digit) * 100 + 99
        elif status.isdecimal():
            low = high = int(status)
        else:
            self._clause("0")
            return
        self._clause("+status BETWEEN ? AND ?", low, high)
        if low >= 400:  # noqa: PLR2004
            clause = "status >= 400 AND status BETWEEN ? AND ?"
            self._indexes.append(("work_by_failure", clause, [low, high]))

    def by_time(self, limit: int, after: int | None) -> tuple[list[dict[str, Any]], str | None]:
        """Walk along time; return rows and where to go on."""
        first, last = self._span.ids
        if after is not None:
            first, last = (first, after - 1) if self._descending else (after + 1, last)
        candidates = self._candidates(first, last, limit)
        if candidates is not None:
            found = self._read(first, last, *candidates, limit=limit + 1)
            following = str(found[limit - 1]["id"]) if len(found) > limit else None
            return found[:limit], following
        found = []
        for begin, end in self._stretches(first, last):
            found += self._read(begin, end, "", "1", [], limit=limit + 1 - len(found))
            if len(found) > limit:
                return found[:limit], str(found[limit - 1]["id"])
            if time.perf_counter() > self._deadline:
                return found, str(begin if self._descending else end)
        return found, None

    def by_number(self, wanted: int) -> tuple[list[dict[str, Any]], bool]:
        """Return the first ``wanted`` rows by a number, and whether they surely are."""
        first, last = self._span.ids
        candidates = self._candidates(first, last)
        if candidates is not None:
            return self._read(first, last, *candidates, limit=wanted), True
        if self._of_view is not None and self._sort == "duration_ms":
            return self._by_slowness(first, last, self._of_view, wanted)
        best: list[tuple[float, int, dict[str, Any]]] = []
        sign = 1 if self._descending else -1
        for start, bound in self._zones(first, last):
            begin, end = max(first, start), min(last, start + ZONE * MICROSECONDS - 1)
            if self._descending and len(best) >= wanted and (bound, end) < best[0][:2]:
                if bound < best[0][0]:
                    break
                continue
            for row in self._read(begin, end, "", "1", [], limit=wanted):
                entry = (sign * row[self._sort], sign * row["id"], row)
                if len(best) < wanted:
                    heapq.heappush(best, entry)
                else:
                    heapq.heappushpop(best, entry)
            if time.perf_counter() > self._deadline:
                return self._sorted(best), False
        return self._sorted(best), True

    def _by_slowness(
        self, first: int, last: int, view: str, wanted: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """Walk one view's requests by their duration, as far as there is time for."""
        found: list[dict[str, Any]] = []
        self._connection.set_progress_handler(
            lambda: time.perf_counter() > self._deadline, STEPS_PER_LOOK
        )
        try:
            for row in iterate(
                self._connection,
                *self._statement(
                    first, last, "INDEXED BY work_by_slowness", "view = ?", [view], limit=wanted
                ),
            ):
                found.append(row)  # noqa: PERF402  what came before the interruption counts
        except sqlite3.OperationalError as error:
            if "interrupted" not in str(error):
                raise
            return found, False
        finally:
            self._connection.set_progress_handler(None, 0)
        return found, True

    @staticmethod
    def _sorted(best: list[tuple[float, int, dict[str, Any]]]) -> list[dict[str, Any]]:
        return [row for _, _, row in sorted(best, reverse=True)]

    def _candidates(
        self, first: int, last: int, limit: int | None = None
    ) -> tuple[str, str, list[object]] | None:
        """Find a way to few rows: ``(index, clause, values)``, or ``None`` if there is none.

        With ``limit`` also ``None`` if walking along time meets that many matches sooner.
        """
        if self._text is not None:
            direction = "DESC" if self._descending or self._sort != "id" else "ASC"
            ids = self._connection.execute(
                "SELECT rowid FROM work_fts WHERE work_fts MATCH ? AND rowid BETWEEN ? AND ?"  # noqa: S608
                f" ORDER BY rowid {direction} LIMIT ?",
                (self._text, first, last, FEW),
            ).fetchall()
            return "", "id IN (SELECT value FROM json_each(?))", [json.dumps([i for (i,) in ids])]
        (works,) = self._connection.execute(
            "SELECT coalesce(sum(works), 0) FROM work_zones WHERE start BETWEEN ? AND ?",
            (first // MICROSECONDS - ZONE, last // MICROSECONDS),
        ).fetchone()
        # Among so many works matches are so far apart: count / works of all that is walked over.
        few = FEW if limit is None else min(FEW, max(limit, math.isqrt(limit * works)))
        for index, clause, values in self._indexes:
            (count,) = self._connection.execute(
                f"SELECT count(*) FROM (SELECT 1 FROM work INDEXED BY {index}"  # noqa: S608
                f" WHERE {clause} AND id BETWEEN ? AND ? LIMIT ?)",
                (*values, first, last, few + 1),
            ).fetchone()
            if count <= few:
                return f"INDEXED BY {index}", clause, values
        return ("", "1", []) if works <= FEW else None

    def _read(
        self, first: int, last: int, index: str, clause: str, values: list[object], *, limit: int
    ) -> list[dict[str, Any]]:
        return rows(
            self._connection,
            *self._statement(first, last, index, clause, values, limit=limit),
        )

    def _statement(
        self, first: int, last: int, index: str, clause: str, values: list[object], *, limit: int
    ) -> tuple[str, tuple[object, ...]]:
        direction = "DESC" if self._descending else "ASC"
        present = "1" if self._sort == "id" else f"{self._sort} IS NOT NULL"
        statement = (
            f"SELECT * FROM work {index} WHERE {clause} AND id BETWEEN ? AND ? AND {present}"  # noqa: S608
            f" AND {all_of(self._clauses)} ORDER BY {self._sort} {direction}, id {direction}"
            " LIMIT ?"
        )
        return statement, (*values, first, last, *self._values, limit)

    def _stretches(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Cut the ids into stretches, short ones first, in the order wanted."""
        if self._min_ms is not None:
            for start, _ in self._zones(first, last):
                yield max(first, start), min(last, start + ZONE * MICROSECONDS - 1)
            return
        length = 30 * MICROSECONDS
        while first <= last:
            if self._descending:
                begin = max(first, last - length + 1)
                yield begin, last
                last = begin - 1
            else:
                end = min(last, first + length - 1)
                yield first, end
                first = end + 1

    def _zones(self, first: int, last: int) -> list[tuple[int, float]]:
        """The stretches that can hold a match: where they start (as an id) and their maximum."""
        column = "start" if self._sort == "id" else self._sort
        direction = "DESC" if self._descending else "ASC"
        slow = "1" if self._min_ms is None else "duration_ms >= ?"
        return connection_rows(
            self._connection,
            f"SELECT start * 1000000, {column} FROM work_zones"  # noqa: S608
            f" WHERE start BETWEEN ? AND ? AND {column} IS NOT NULL AND {slow}"
            f" ORDER BY {column} {direction}, start {direction}",
            (
                first // MICROSECONDS // ZONE * ZONE,
                last // MICROSECONDS,
                *([] if self._min_ms is None else [self._min_ms]),
            ),
        )


def connection_rows(
    connection: sqlite3.Connection, statement: str, values: tuple[object, ...]
) -> list[tuple[int, float]]:
    """Rows as plain tuples."""
    return [(first, second) for first, second in connection.execute(statement, values)]


def view_page(
    connection: sqlite3.Connection, view: str, span: Span, filters: Filters = ALL
) -> ViewPage:
    """All about one view over the span, named as in canonical lines or as in plain StatsD."""
    view = dotted_views(connection).get(view, view)
    series = [
        row
        for row in select_series(connection, "view", filters, kind=names.TIMER)
        if row.tags.get("view") in (view, plain_part(view))
    ]
    groups = {row.id: "" for row in series}
    axis = Axis(span)
    steps = cells(connection, groups, span, axis.step, sketches=True).get("", {})
    whole = totals(connection, groups, span, sketches=True).get("", Cell())
    known, done = _operations(connection, view, span, filters)
    callers, called_directly = _callers(connection, view, span, filters)
    slowest = search_work(
        connection, span, WorkFilter(view=view), filters, sort="duration_ms", limit=10
    )
    return ViewPage(
        view=view,
        summary=summarise(whole, span),
        methods=sorted({row.tags.get("method", "") for row in series} - {""}),
        latency=axis.graph("response time", "ms", axis.percentiles(steps, PERCENTILES)),
        rate=axis.graph("requests", "/s", [axis.rates("requests", steps, counter=False)]),
        heat=_heat(axis, steps, whole),
        requests=known,
        statements=done["db"],
        templates=done["template"],
        calls=done["http"],
        cache=done["cache"],
        callers=callers,
        called_directly=called_directly,
        slowest=slowest.rows,
    )


def view_names(connection: sqlite3.Connection, filters: Filters = ALL) -> list[str]:
    """Every view that reported a time, sorted."""
    dotted = dotted_views(connection)
    found = {
        row.tags.get("view", "") for row in select_series(connection, "view", filters, kind="timer")
    }
    return sorted({dotted.get(view, view) for view in found} - {""})


def _operations(
    connection: sqlite3.Connection, view: str, span: Span, filters: Filters
) -> tuple[float, dict[str, list[ViewOperation]]]:
    sums = operation_sums(connection, span, filters, view)
    requests = sum(row[4] for row in sums if row[1] == "work")
    done: dict[str, list[ViewOperation]] = {"db": [], "template": [], "http": [], "cache": []}
    everything = {kind: sum(row[6] for row in sums if row[1] == kind) or 1.0 for kind in done}
    for service, kind, name, statement, _, count, ms, longest in sums:
        if kind in done:
            done[kind].append(
                ViewOperation(
                    service,
                    name,
                    statement,
                    count,
                    ms,
                    ms / count,
                    longest,
                    ms / everything[kind],
                    count / (requests or 1),
                    ms / (requests or 1),
                )
            )
    return requests, done


def _heat(axis: Axis, steps: dict[int, Cell], whole: Cell) -> HeatMap:
    low, high = whole.min, whole.max
    if low is None or high is None:
        return HeatMap(axis.start, axis.step, [], [])
    low = max(low, 0.01)
    high = max(high, low * 1.1) * 1.001
    factor = (high / low) ** (1 / HEAT_ROWS)
    bounds = [low * factor**row for row in range(HEAT_ROWS + 1)]
    columns = []
    for start in axis.starts:
        column = [0.0] * HEAT_ROWS
        if start in steps:
            for key, count in sketch.merge(steps[start].sketches).items():
                value = sketch.value_of(key)
                row = bisect.bisect_right(bounds, value, 1, HEAT_ROWS) - 1
                column[row] += count
        columns.append(column)
    return HeatMap(axis.start, axis.step, bounds, columns)


def _callers(
    connection: sqlite3.Connection, view: str, span: Span, filters: Filters
) -> tuple[list[Caller], int]:
    clauses, values = conditions(filters)
    sample = connection.execute(
        "SELECT id, correlation_id, parent_id FROM work WHERE view = ? AND id BETWEEN ? AND ?"  # noqa: S608
        f" AND {all_of(clauses)} ORDER BY id DESC LIMIT ?",
        (view, *span.ids, *values, CALLERS_SAMPLED),
    ).fetchall()
    wanted = {parent for _, correlation, parent in sample if correlation and parent}
    correlations = sorted(
        {correlation for _, correlation, parent in sample if parent and correlation}
    )
    others = connection.execute(
        "SELECT id, service, coalesce(view, name, kind), span_id FROM work"
        " WHERE correlation_id IN (SELECT value FROM json_each(?))",
        (json.dumps(correlations),),
    ).fetchall()
    caller_of = {span_id: (service, origin) for _, service, origin, span_id in others if span_id}
    events, _, _ = read_events(connection, [work for work, *_ in others])
    for work, service, origin, _ in others:
        for event in events.get(work, ()):
            if len(event) > 3 and event[3].get("span_id") in wanted:  # noqa: PLR2004
                caller_of[event[3]["span_id"]] = (service, origin)
    counts: dict[tuple[str, str], int] = {}
    for _, _, parent in sample:
        caller = caller_of.get(parent)
        if caller is not None:
            counts[caller] = counts.get(caller, 0) + 1
    callers = [
        Caller(service, origin, count)
        for (service, origin), count in sorted(counts.items(), key=lambda item: -item[1])
    ]
    return callers, len(sample) - sum(counts.values())
