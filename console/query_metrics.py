"""Any metric over any span: names, graphs, percentiles merged from the stored sketches."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from introspect.console import names, sketch
from introspect.console.query import (
    ALL,
    Filters,
    Span,
    all_of,
    conditions,
    pieces,
    resolution_for,
    step_for,
)
from introspect.console.schema import RESOLUTIONS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

MAX_TAG_VALUES: Final = 1000

QUIETEST: Final = 5
"""Seconds of a step that must have passed before a rate is told: less is noise."""


@dataclass(frozen=True)
class MetricName:
    """One metric of the file, for the list and the search."""

    metric: str
    kind: str
    """``counter``, ``timer``, ``gauge`` or ``set``."""
    unit: str
    services: list[str]
    tags: list[str]
    """Names of its tags: by any of them a graph can be split."""
    series: int
    help: str
    """One sentence from the catalogue; empty for a foreign metric."""


@dataclass(frozen=True)
class Line:
    """One line of a graph: one value per step, ``None`` where nothing is known."""

    label: str
    values: list[float | None]


@dataclass(frozen=True)
class Graph:
    """Lines over common times."""

    title: str
    unit: str
    """Of the values: ``ms``, ``/s``, ``bytes``, …"""
    start: int
    """Epoch seconds of the first step."""
    step: int
    """Seconds."""
    lines: list[Line]


@dataclass(frozen=True)
class Summary:
    """A timer over a whole span."""

    count: float
    rate: float
    """Per second."""
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    total: float
    """The sum of all values."""


PointRow = tuple[int, int, float, float, float | None, float | None, float | None, bytes | None]
"""Start, series, count, sum, min, max, last, sketch."""


@dataclass(frozen=True)
class SeriesRow:
    """One series of the file."""

    id: int
    kind: str
    service: str
    env: str
    tags: dict[str, str]
    unit: str


@dataclass
class Cell:
    """Some series over some time, added up."""

    count: float = 0
    sum: float = 0
    min: float | None = None
    max: float | None = None
    last: float | None = None
    last_start: int = -1
    sketches: list[bytes] = field(default_factory=list)

    @property
    def mean(self) -> float | None:
        """The mean value."""
        return self.sum / self.count if self.count else None

    def quantiles(self, *qs: float) -> list[float | None]:
        """Percentiles of all values, within what was seen."""
        found = sketch.quantiles(sketch.merge(self.sketches), qs)
        return [self._within(value) for value in found]

    def _within(self, value: float | None) -> float | None:
        if value is None or self.min is None or self.max is None:
            return value
        return min(max(value, self.min), self.max)


def select_series(
    connection: sqlite3.Connection,
    metric: str,
    filters: Filters = ALL,
    tags: Mapping[str, str] | None = None,
    kind: str | None = None,
) -> list[SeriesRow]:
    """The series of one metric that pass the filters and have all of ``tags``."""
    clauses, values = conditions(filters)
    if kind is not None:
        clauses.append("kind = ?")
        values.append(kind)
    rows = connection.execute(
        f"SELECT id, kind, service, env, tags, unit FROM series"  # noqa: S608
        f" WHERE metric = ? AND {all_of(clauses)}",
        (metric, *values),
    )
    found = (
        SeriesRow(series, kind_, service, env, json.loads(text), unit)
        for series, kind_, service, env, text, unit in rows
    )
    wanted = (tags or {}).items()
    return [series for series in found if wanted <= series.tags.items()]


def cells(
    connection: sqlite3.Connection,
    groups: Mapping[int, str],
    span: Span,
    step: int,
    *,
    sketches: bool = False,
) -> dict[str, dict[int, Cell]]:
    """Add up points by group and step; ``groups`` maps a series' id to its group's name."""
    resolution = resolution_for(span, step)
    span = span.aligned(resolution)
    starts = range(span.start, span.end, resolution)
    found: dict[str, dict[int, Cell]] = {name: {} for name in groups.values()}
    for point in _points(connection, resolution, starts, groups, sketches=sketches):
        start, series, *_ = point
        steps = found[groups[series]]
        begin = start // step * step
        cell = steps.get(begin)
        if cell is None:
            cell = steps[begin] = Cell()
        _add(cell, point)
    return found


def totals(
    connection: sqlite3.Connection,
    groups: Mapping[int, str],
    span: Span,
    *,
    sketches: bool = False,
) -> dict[str, Cell]:
    """Add up points by group over the whole span, exact to the finest resolution kept."""
    found: dict[str, Cell] = defaultdict(Cell)
    for resolution, starts in pieces(span):
        read = _points if sketches else _sums
        for point in read(connection, resolution, starts, groups):
            _add(found[groups[point[1]]], point)
    return dict(found)


def _add(cell: Cell, point: PointRow) -> None:
    start, _, count, total, least, most, last, blob = point
    cell.count += count
    cell.sum += total
    if least is not None and (cell.min is None or least < cell.min):
        cell.min = least
    if most is not None and (cell.max is None or most > cell.max):
        cell.max = most
    if last is not None and start >= cell.last_start:
        cell.last, cell.last_start = last, start
    if blob is not None:
        cell.sketches.append(blob)


def _points(
    connection: sqlite3.Connection,
    resolution: int,
    starts: range,
    series: Iterable[int],
    *,
    sketches: bool = True,
) -> Iterable[PointRow]:
    # Both lists are given, so that each wanted row is one look into the primary key: a range of
    # starts would read every series of each bucket.
    blob = "sketch" if sketches else "NULL"
    return connection.execute(
        f"SELECT start, series_id, count, sum, min, max, last, {blob}"  # noqa: S608
        f" FROM {RESOLUTIONS[resolution]}"
        " WHERE start IN (SELECT value FROM json_each(?))"
        " AND series_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(starts)), json.dumps(list(series))),
    )


def _sums(
    connection: sqlite3.Connection, resolution: int, starts: range, series: Iterable[int]
) -> Iterable[PointRow]:
    return connection.execute(
        "SELECT max(start), series_id, sum(count), sum(sum), min(min), max(max), NULL, NULL"  # noqa: S608
        f" FROM {RESOLUTIONS[resolution]}"
        " WHERE start IN (SELECT value FROM json_each(?))"
        " AND series_id IN (SELECT value FROM json_each(?)) GROUP BY series_id",
        (json.dumps(list(starts)), json.dumps(list(series))),
    )


class Axis:
    """The steps of a graph over a span, and what to divide by for a rate."""

    def __init__(self, span: Span, max_buckets: int | None = None) -> None:
        self.step = step_for(span) if max_buckets is None else step_for(span, max_buckets)
        aligned = span.aligned(self.step)
        self.start = aligned.start
        self.starts = range(aligned.start, aligned.end, self.step)
        self._end = span.end

    def seconds(self, start: int) -> int | None:
        """How long a step is; ``None`` if hardly any of it has passed."""
        passed = min(self.step, self._end - start)
        return passed if passed >= QUIETEST else None

    def graph(self, title: str, unit: str, lines: Iterable[Line]) -> Graph:
        """Lines over this axis."""
        return Graph(title, unit, self.start, self.step, list(lines))

    def rates(self, label: str, steps: Mapping[int, Cell], *, counter: bool) -> Line:
        """How much per second: a counter's sum or a timer's count."""
        values: list[float | None] = []
        for start in self.starts:
            seconds, cell = self.seconds(start), steps.get(start)
            amount = (cell.sum if counter else cell.count) if cell else 0.0
            values.append(None if seconds is None else amount / seconds)
        return Line(label, values)

    def percentiles(self, steps: Mapping[int, Cell], qs: Mapping[str, float]) -> list[Line]:
        """One line per percentile."""
        rows = [
            steps[start].quantiles(*qs.values()) if start in steps else [None] * len(qs)
            for start in self.starts
        ]
        return [Line(label, [row[at] for row in rows]) for at, label in enumerate(qs)]

    def line(self, label: str, steps: Mapping[int, Cell], attribute: str) -> Line:
        """One attribute of the cells."""
        return Line(
            label,
            [getattr(steps[start], attribute) if start in steps else None for start in self.starts],
        )


PERCENTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def metric_names(
    connection: sqlite3.Connection, text: str = "", filters: Filters = ALL, limit: int = 500
) -> list[MetricName]:
    """The metrics whose name contains every word of ``text``."""
    clauses, values = conditions(filters)
    for word in text.split():
        clauses.append("instr(lower(metric), lower(?)) > 0")
        values.append(word)
    rows = connection.execute(
        "SELECT metric, kind, max(unit), json_group_array(DISTINCT service),"  # noqa: S608
        " count(*), group_concat(DISTINCT (SELECT group_concat(key) FROM json_each(tags)))"
        f" FROM series WHERE {all_of(clauses)} GROUP BY metric, kind ORDER BY metric, kind LIMIT ?",
        (*values, limit),
    )
    return [
        MetricName(
            metric,
            kind,
            unit,
            sorted(filter(None, json.loads(of_services))),
            sorted(set((tags or "").split(",")) - {""}),
            series,
            names.CATALOGUE[metric].help if metric in names.CATALOGUE else "",
        )
        for metric, kind, unit, of_services, series, tags in rows
    ]


def tag_values(connection: sqlite3.Connection, metric: str, tag: str) -> list[str]:
    """Every value of one tag of a metric, sorted, at most 1000."""
    found = {series.tags[tag] for series in select_series(connection, metric) if tag in series.tags}
    return sorted(found)[:MAX_TAG_VALUES]


def metric_graphs(
    connection: sqlite3.Connection,
    metric: str,
    span: Span,
    filters: Filters = ALL,
    *,
    tags: Mapping[str, str] | None = None,
    by: str | None = None,
    kind: str | None = None,
    limit: int = 10,
) -> list[Graph]:
    """The graphs that describe a metric: of a timer percentiles and rate, of a counter its rate.

    With ``by`` (a tag's name, or ``"service"``) there is one line per value, the ``limit`` busiest.
    Compare with the past by asking again for ``span.shifted(-86400)``.
    """
    graphs: list[Graph] = []
    series = select_series(connection, metric, filters, tags, kind)
    for one_kind in sorted({row.kind for row in series}):
        rows = [row for row in series if row.kind == one_kind]
        groups = _groups(connection, rows, span, by, limit)
        axis = Axis(span)
        found = cells(connection, groups, span, axis.step, sketches=True)
        graphs += _graphs_of(one_kind, metric, rows[0].unit, axis, found, is_split=by is not None)
    return graphs


def _groups(
    connection: sqlite3.Connection, rows: list[SeriesRow], span: Span, by: str | None, limit: int
) -> dict[int, str]:
    if by is None:
        return {row.id: "" for row in rows}
    groups = {row.id: row.service if by == "service" else row.tags.get(by, "") for row in rows}
    busiest = totals(connection, groups, span)
    kept = sorted(busiest, key=lambda name: -busiest[name].count)[:limit]
    return {series: name for series, name in groups.items() if name in kept}


def _graphs_of(
    kind: str,
    metric: str,
    unit: str,
    axis: Axis,
    found: Mapping[str, Mapping[int, Cell]],
    *,
    is_split: bool,
) -> list[Graph]:
    if kind == names.COUNTER:
        lines = [axis.rates(name or metric, steps, counter=True) for name, steps in found.items()]
        return [axis.graph(metric, "/s", lines)]
    if kind == names.SET:
        lines = [_different(axis, name or metric, steps) for name, steps in found.items()]
        return [axis.graph(f"{metric}: different members", "", lines)]
    if is_split and kind == names.GAUGE:
        lines = [axis.line(name, steps, "last") for name, steps in found.items()]
        return [axis.graph(metric, unit, lines)]
    if is_split:
        slow = [
            Line(name, axis.percentiles(steps, {"p95": 0.95})[0].values)
            for name, steps in found.items()
        ]
        rates = [axis.rates(name, steps, counter=False) for name, steps in found.items()]
        return [
            axis.graph(f"{metric}: 95th percentile", unit, slow),
            axis.graph(f"{metric}: how often", "/s", rates),
        ]
    steps = found.get("", {})
    if kind == names.GAUGE:
        lines = [axis.line(label, steps, label) for label in ("last", "min", "max")]
        return [axis.graph(metric, unit, lines)]
    return [
        axis.graph(
            metric,
            unit,
            [*axis.percentiles(steps, PERCENTILES), axis.line("mean", steps, "mean")],
        ),
        axis.graph(f"{metric}: how often", "/s", [axis.rates("", steps, counter=False)]),
    ]


def _different(axis: Axis, label: str, steps: Mapping[int, Cell]) -> Line:
    return Line(
        label,
        [
            sketch.cardinality(steps[start].sketches) if start in steps else None
            for start in axis.starts
        ],
    )


def summary(
    connection: sqlite3.Connection,
    metric: str,
    span: Span,
    filters: Filters = ALL,
    tags: Mapping[str, str] | None = None,
) -> Summary:
    """A timer over the whole span in one row, exact to the finest resolution kept."""
    groups = {row.id: "" for row in select_series(connection, metric, filters, tags, names.TIMER)}
    return summarise(totals(connection, groups, span, sketches=True).get("", Cell()), span)


def summarise(cell: Cell, span: Span) -> Summary:
    """What a timer's cell says about a span."""
    p50, p95, p99 = cell.quantiles(*PERCENTILES.values())
    rate = cell.count / span.seconds if span.seconds else 0.0
    return Summary(cell.count, rate, cell.mean, p50, p95, p99, cell.max, cell.sum)
