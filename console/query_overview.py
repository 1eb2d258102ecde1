"""The first page: how the site is, where the time goes, what to look at first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from introspect.agent.metrics import plain_part
from introspect.console import names
from introspect.console.query import (
    ALL,
    MICROSECONDS,
    Filters,
    Mark,
    Span,
    all_of,
    conditions,
    distinct,
    marks,
)
from introspect.console.query_metrics import (
    PERCENTILES,
    Axis,
    Cell,
    Graph,
    Line,
    Summary,
    cells,
    select_series,
    summarise,
    totals,
)
from introspect.console.schema import OPERATION_RESOLUTIONS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

SPARK_STEPS: Final = 30

PARTS: Final = {
    "SQL": "request.db",
    "templates": "request.template",
    "outgoing calls": "request.http",
    "cache": "request.cache",
}
"""Where the time goes: what people read → the timer of it per request."""

PROCESS_READINGS: Final = tuple(name for name in names.CATALOGUE if name.startswith("process."))

_NEWEST_TRIED: Final = 50
"""Newest exceptions of one class looked at to find one of the right view."""


@dataclass(frozen=True)
class ViewRow:
    """One view over the span."""

    service: str
    view: str
    count: float
    rate: float
    mean: float
    """Milliseconds, as the other times."""
    p95: float
    max: float
    total: float
    share: float
    """Of the time of all views, 0 to 1."""
    spark: list[float | None]
    """Mean milliseconds, at most 30 steps over the span."""


@dataclass(frozen=True)
class TopRow:
    """One statement, template or host over the span."""

    service: str
    name: str
    """The alias and verb, the template, the host."""
    statement: str
    """Normalised SQL; empty for everything else."""
    count: float
    total: float
    """Milliseconds, as the other times."""
    mean: float
    max: float
    share: float
    """Of the time of all rows of this list, 0 to 1."""


@dataclass(frozen=True)
class ExceptionRow:
    """One class of exception over the span."""

    service: str
    exception: str
    view: str
    count: float
    place: str
    """Of the newest one: 'app/views.py:42', empty if unknown."""
    message: str
    correlation_id: str
    """Of the newest one: the story to read; empty if unknown."""
    last: float
    """Epoch seconds; 0 if unknown."""


@dataclass(frozen=True)
class Overview:
    """Everything the first page shows."""

    requests: Summary
    error_rate: float | None
    """5xx of all responses, 0 to 1."""
    rate: Graph
    """Requests per second: one line."""
    latency: Graph
    """p50, p95, p99 in ms."""
    errors: Graph
    """4xx and 5xx as a share of all responses, 0 to 1."""
    statuses: Graph
    """One line per status code, per second."""
    queue: Graph
    """p50 and p95 of request.queue in ms."""
    where: Graph
    """SQL, templates, outgoing calls, cache, the rest: ms per request, to be stacked."""
    processes: list[Graph]
    """rss, cpu, threads, fds as far as reported: mean and max."""
    slowest: list[ViewRow]
    """By p95."""
    busiest: list[ViewRow]
    """By count."""
    costliest: list[ViewRow]
    """By total time."""
    statements: list[TopRow]
    templates: list[TopRow]
    hosts: list[TopRow]
    exceptions: list[ExceptionRow]
    marks: list[Mark]


def overview(
    connection: sqlite3.Connection, span: Span, filters: Filters = ALL, limit: int = 10
) -> Overview:
    """Read the whole first page in one go."""
    axis = Axis(span)
    requests = _steps(connection, "request", span, axis, filters, sketches=True)
    groups = _groups(connection, "request", filters)
    whole = totals(connection, groups, span, sketches=True).get("", Cell())
    queue = _steps(connection, "request.queue", span, axis, filters, sketches=True)
    responses = _responses(connection, span, axis, filters)
    views = view_rows(connection, span, filters, limit)
    low_high = {label: PERCENTILES[label] for label in ("p50", "p95")}
    return Overview(
        requests=summarise(whole, span),
        error_rate=_error_rate(connection, span, filters),
        rate=axis.graph("requests", "/s", [axis.rates("requests", requests, counter=False)]),
        latency=axis.graph("response time", "ms", axis.percentiles(requests, PERCENTILES)),
        errors=_errors(axis, responses),
        statuses=axis.graph(
            "status codes",
            "/s",
            [axis.rates(status, steps, counter=True) for status, steps in responses.items()],
        ),
        queue=axis.graph("waited in front", "ms", axis.percentiles(queue, low_high)),
        where=_where(connection, span, axis, filters, requests),
        processes=_processes(connection, span, axis, filters),
        slowest=views["slowest"],
        busiest=views["busiest"],
        costliest=views["costliest"],
        statements=top_statements(connection, span, filters, limit),
        templates=_top(connection, "template", "template", span, filters, limit),
        hosts=_top(connection, "http", "host", span, filters, limit),
        exceptions=top_exceptions(connection, span, filters, limit),
        marks=marks(connection, span, filters),
    )


def view_rows(
    connection: sqlite3.Connection, span: Span, filters: Filters = ALL, limit: int = 10
) -> dict[str, list[ViewRow]]:
    """The views by ``slowest`` (p95), ``busiest`` (count) and ``costliest`` (total time)."""
    dotted = dotted_views(connection)
    group_of: dict[int, str] = {}
    identity: dict[str, tuple[str, str]] = {}
    for series in select_series(connection, "view", filters, kind=names.TIMER):
        view = series.tags.get("view", "")
        key = f"{series.service} {view}"
        group_of[series.id] = key
        identity[key] = (series.service, dotted.get(view, view))
    sums = totals(connection, group_of, span)
    everything = sum(cell.sum for cell in sums.values()) or 1.0
    busiest = _largest(sums, limit, lambda cell: cell.count)
    costliest = _largest(sums, limit, lambda cell: cell.sum)
    # A view can hardly be among the slowest by p95 without being so by mean or by maximum.
    candidates = _largest(sums, limit, lambda cell: cell.mean or 0)
    candidates += _largest(sums, limit, lambda cell: cell.max or 0)
    wanted = {*busiest, *costliest, *candidates}
    shown = {series: key for series, key in group_of.items() if key in wanted}
    axis = Axis(span, SPARK_STEPS)
    sparks = cells(connection, shown, span, axis.step)
    full = totals(connection, shown, span, sketches=True)
    rows = {}
    for key in wanted:
        service, view = identity[key]
        cell = full[key]
        (p95,) = cell.quantiles(0.95)
        rows[key] = ViewRow(
            service,
            view,
            cell.count,
            cell.count / span.seconds,
            cell.mean or 0.0,
            p95 or 0.0,
            cell.max or 0.0,
            cell.sum,
            cell.sum / everything,
            axis.line("", sparks.get(key, {}), "mean").values,
        )
    slowest = sorted({*candidates, *costliest, *busiest}, key=lambda key: -rows[key].p95)[:limit]
    return {
        "slowest": [rows[key] for key in slowest],
        "busiest": [rows[key] for key in busiest],
        "costliest": [rows[key] for key in costliest],
    }


def dotted_views(connection: sqlite3.Connection) -> dict[str, str]:
    """Names of views as plain StatsD writes them → as the canonical lines do."""
    return {plain_part(view): view for view in distinct(connection, "work", "view")}


def operation_sums(
    connection: sqlite3.Connection, span: Span, filters: Filters, origin: str | None = None
) -> list[tuple[str, str, str, str, int, int, float, float]]:
    """Totals of operations: service, kind, name, statement, works, count, ms, longest.

    ``origin`` restricts them to what was done for one view, command or task.
    """
    step = min(OPERATION_RESOLUTIONS) if span.seconds <= 3 * 3600 else max(OPERATION_RESOLUTIONS)
    clauses, values = conditions(filters)
    aligned = span.aligned(step)
    # Added up by number before anything is joined or compared as text.
    return connection.execute(
        "SELECT service, kind, name, statement, sum(works), sum(count), sum(ms), max(max_ms)"  # noqa: S608
        " FROM (SELECT operation_id, sum(works) AS works, sum(count) AS count, sum(ms) AS ms,"
        f" max(max_ms) AS max_ms FROM {OPERATION_RESOLUTIONS[step]}"
        " WHERE start >= ? AND start < ? AND (origin = ? OR ? IS NULL) GROUP BY operation_id)"
        f" JOIN operations ON operations.id = operation_id WHERE {all_of(clauses)}"
        " GROUP BY service, kind, name, statement ORDER BY 7 DESC",
        (aligned.start, aligned.end, origin, origin, *values),
    ).fetchall()


def top_statements(
    connection: sqlite3.Connection, span: Span, filters: Filters, limit: int
) -> list[TopRow]:
    """The statements that took the most time together."""
    rows = [row for row in operation_sums(connection, span, filters) if row[1] == "db"]
    everything = sum(row[6] for row in rows) or 1.0
    return [
        TopRow(service, name, statement, count, ms, ms / count, longest, ms / everything)
        for service, _, name, statement, _, count, ms, longest in rows[:limit]
    ]


def top_exceptions(
    connection: sqlite3.Connection, span: Span, filters: Filters, limit: int
) -> list[ExceptionRow]:
    """The most frequent exceptions, each with its newest story."""
    dotted = dotted_views(connection)
    group_of: dict[int, str] = {}
    identity: dict[str, tuple[str, str, str]] = {}
    for series in select_series(connection, "exception", filters, kind=names.COUNTER):
        exception, view = series.tags.get("class", ""), series.tags.get("view", "")
        key = f"{series.service} {exception} {view}"
        group_of[series.id] = key
        identity[key] = (series.service, exception, view)
    sums = totals(connection, group_of, span)
    rows = []
    for key in _largest(sums, limit, lambda cell: cell.sum):
        service, exception, view = identity[key]
        newest = _newest_exception(connection, span, service, exception, view)
        moment, place, message, correlation_id = newest or (0, "", "", "")
        rows.append(
            ExceptionRow(
                service,
                exception,
                dotted.get(view, view),
                sums[key].sum,
                place or "",
                message or "",
                correlation_id or "",
                moment / MICROSECONDS,
            )
        )
    return rows


def _newest_exception(
    connection: sqlite3.Connection, span: Span, service: str, exception: str, view: str
) -> tuple[int, str | None, str | None, str | None] | None:
    rows = connection.execute(
        "SELECT id, exception_place, exception_message, correlation_id, view FROM work"
        " WHERE exception_class = ? AND id BETWEEN ? AND ? AND +service = ?"
        " ORDER BY id DESC LIMIT ?",
        (exception, *span.ids, service, _NEWEST_TRIED),
    ).fetchall()
    for *newest, of_view in rows:
        if of_view is not None and view in (of_view, plain_part(of_view)):
            return tuple(newest)
    return rows[0][:4] if rows else None


def _largest(sums: Mapping[str, Cell], limit: int, measure: Callable[[Cell], float]) -> list[str]:
    return sorted((key for key in sums if sums[key].count), key=lambda key: -measure(sums[key]))[
        :limit
    ]


def _groups(connection: sqlite3.Connection, metric: str, filters: Filters) -> dict[int, str]:
    return {row.id: "" for row in select_series(connection, metric, filters, kind=names.TIMER)}


def _steps(
    connection: sqlite3.Connection,
    metric: str,
    span: Span,
    axis: Axis,
    filters: Filters,
    *,
    sketches: bool = False,
) -> dict[int, Cell]:
    groups = _groups(connection, metric, filters)
    return cells(connection, groups, span, axis.step, sketches=sketches).get("", {})


def _status_groups(connection: sqlite3.Connection, filters: Filters) -> dict[int, str]:
    return {
        row.id: row.tags.get("status", "")
        for row in select_series(connection, "response", filters, kind=names.COUNTER)
    }


def _responses(
    connection: sqlite3.Connection, span: Span, axis: Axis, filters: Filters
) -> dict[str, dict[int, Cell]]:
    found = cells(connection, _status_groups(connection, filters), span, axis.step)
    return {status: found[status] for status in sorted(found) if found[status]}


def _error_rate(connection: sqlite3.Connection, span: Span, filters: Filters) -> float | None:
    sums = totals(connection, _status_groups(connection, filters), span)
    everything = sum(cell.sum for cell in sums.values())
    failed = sum(cell.sum for status, cell in sums.items() if status.startswith("5"))
    return failed / everything if everything else None


def _errors(axis: Axis, responses: Mapping[str, Mapping[int, Cell]]) -> Graph:
    lines = []
    for digit in "45":
        values: list[float | None] = []
        for start in axis.starts:
            sums = {
                status: steps[start].sum for status, steps in responses.items() if start in steps
            }
            everything = sum(sums.values())
            failed = sum(count for status, count in sums.items() if status.startswith(digit))
            values.append(failed / everything if everything else None)
        lines.append(Line(f"{digit}xx", values))
    return axis.graph("errors", "", lines)


def _where(
    connection: sqlite3.Connection,
    span: Span,
    axis: Axis,
    filters: Filters,
    requests: Mapping[int, Cell],
) -> Graph:
    parts = {
        label: _steps(connection, metric, span, axis, filters) for label, metric in PARTS.items()
    }
    lines = {label: Line(label, []) for label in (*PARTS, "the rest")}
    for start in axis.starts:
        whole = requests.get(start)
        if whole is None or not whole.count:
            for line in lines.values():
                line.values.append(None)
            continue
        rest = whole.sum
        for label, steps in parts.items():
            spent = steps[start].sum if start in steps else 0.0
            rest -= spent
            lines[label].values.append(spent / whole.count)
        lines["the rest"].values.append(max(0.0, rest) / whole.count)
    return axis.graph("where the time goes", "ms", lines.values())


def _processes(
    connection: sqlite3.Connection, span: Span, axis: Axis, filters: Filters
) -> list[Graph]:
    graphs = []
    for metric in PROCESS_READINGS:
        steps = _steps(connection, metric, span, axis, filters)
        if steps:
            lines = [axis.line(label, steps, label) for label in ("mean", "max")]
            graphs.append(axis.graph(metric, names.CATALOGUE[metric].unit, lines))
    return graphs


def _top(
    connection: sqlite3.Connection,
    metric: str,
    tag: str,
    span: Span,
    filters: Filters,
    limit: int,
) -> list[TopRow]:
    group_of: dict[int, str] = {}
    identity: dict[str, tuple[str, str]] = {}
    for series in select_series(connection, metric, filters, kind=names.TIMER):
        name = series.tags.get(tag, "")
        key = f"{series.service} {name}"
        group_of[series.id] = key
        identity[key] = (series.service, name)
    sums = totals(connection, group_of, span)
    everything = sum(cell.sum for cell in sums.values()) or 1.0
    rows = []
    for key in _largest(sums, limit, lambda cell: cell.sum):
        cell = sums[key]
        service, name = identity[key]
        rows.append(
            TopRow(
                service,
                name,
                "",
                cell.count,
                cell.sum,
                cell.mean or 0.0,
                cell.max or 0.0,
                cell.sum / everything,
            )
        )
    return rows
