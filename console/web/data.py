"""What each page asks for: one function per data address, from parameters to dataclasses."""

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from introspect.console import query
from introspect.console.query_logs import LogFilter, search_logs, tail_logs
from introspect.console.query_metrics import Graph, metric_graphs, metric_names, summary, tag_values
from introspect.console.query_overview import overview, view_rows
from introspect.console.query_story import story
from introspect.console.query_work import WorkFilter, search_work, view_names, view_page
from introspect.console.schema import WORK_NUMBERS
from introspect.console.web.span import (
    BadAddressError,
    filters_of,
    number_of,
    optional_number,
    span_of,
)

Parameters = Mapping[str, str]
Answer = dict[str, Any]
"""Plain values and dataclasses of them: what `plugin.as_json` writes."""
Reader = Callable[[sqlite3.Connection, Parameters], Answer]

PAGE = 50
"""Rows of one page of requests; of log lines, twice as many."""

COMPARISONS = {"": 0, "day": 86400, "week": 7 * 86400}
"""What "the same time before" may mean, in seconds."""


def read_context(connection: sqlite3.Connection, _: Parameters) -> Answer:
    """What the frame of every page needs: services, environments, and since when there is data."""
    services = query.services(connection)
    return {
        "services": services,
        "envs": query.environments(connection),
        "is_anything": bool(services) or is_any_row(connection, "series"),
        "since": connection.execute("SELECT min(start) FROM points_10s").fetchone()[0],
        "has_work": is_any_row(connection, "work"),
        "has_logs": is_any_row(connection, "logs"),
    }


def is_any_row(connection: sqlite3.Connection, table: str) -> bool:
    """Whether a table of the schema holds anything."""
    return connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None  # noqa: S608


def read_overview(connection: sqlite3.Connection, parameters: Parameters) -> Answer:
    """Everything the first page shows, and the span before it to compare with."""
    span, filters = span_of(parameters), filters_of(parameters)
    return {
        **vars(overview(connection, span, filters)),
        "before": summary(connection, "request", span.shifted(-span.seconds), filters),
        "receiver": query.receiver(connection, span),
    }


def read_metrics(connection: sqlite3.Connection, parameters: Parameters) -> Answer:
    """Which metrics there are."""
    found = metric_names(connection, parameters.get("text", ""), filters_of(parameters))
    return {"metrics": found}


def read_metric(connection: sqlite3.Connection, parameters: Parameters) -> Answer:
    """One metric's graphs, and the same a day or a week before."""
    metric = required(parameters, "metric")
    span, filters = span_of(parameters), filters_of(parameters)
    back = choice_of(parameters, "before", COMPARISONS)
    tags = {
        name.removeprefix("tag."): value
        for name, value in parameters.items()
        if name.startswith("tag.") and value
    }
    by = parameters.get("by") or None

    def graphs(of: query.Span) -> list[Graph]:
        return metric_graphs(connection, metric, of, filters, tags=tags, by=by)

    known = [
        name for name in metric_names(connection, metric, query.Filters()) if name.metric == metric
    ]
    return {
        "metric": known[0] if known else None,
        "values": {
            tag: tag_values(connection, metric, tag) for name in known[:1] for tag in name.tags
        },
        "graphs": graphs(span),
        "before": graphs(span.shifted(-back)) if back else [],
        "shift": back,
        "marks": marks_of(connection, parameters),
    }


def read_requests(connection: sqlite3.Connection, parameters: Parameters) -> Answer:
    """One page of canonical lines."""
    where = WorkFilter(
        kind=parameters.get("kind") or None,
        view=parameters.get("view") or None,
        method=parameters.get("method") or None,
        status=parameters.get("status") or None,
        min_ms=optional_number(parameters, "min_ms"),
        max_ms=optional_number(parameters, "max_ms"),
        user_id=parameters.get("user") or None,
        correlation_id=parameters.get("id") or None,
        version=parameters.get("version") or None,
        host=parameters.get("host") or None,
        text=parameters.get("q", ""),
    )
    sort = parameters.get("sort") or "id"
    after = optional_number(parameters, "after")
    choice_of({"sort": sort}, "sort", dict.fromkeys(("id", *WORK_NUMBERS), 0))
    page = search_work(
        connection,
        span_of(parameters),
        where,
        filters_of(parameters),
        sort=sort,
        descending=parameters.get("order") != "asc",
        limit=PAGE,
        after=None if after is None else str(int(after)),
    )
    return {**vars(page), "marks": marks_of(connection, parameters)}


def read_story(connection: sqlite3.Connection, parameters: Parameters) -> Answer:
    """Everything one correlation ID did."""
    return {"story": story(connection, required(parameters, "id"))}


def read_logs(connection: sqlite3.Connection, parameters: Parameters) -> Answer:
    """One page of log lines with time line and facets; a later page has its lines alone."""
    before = optional_number(parameters, "before")
    page = search_logs(
        connection,
        span_of(parameters),
        log_filter(parameters),
        filters_of(parameters),
        limit=PAGE * 2,
        before=None if before is None else int(before),
        count=before is None,
    )
    return {**vars(page), "marks": marks_of(connection, parameters)}


def read_tail(connection: sqlite3.Connection, parameters: Parameters) -> Answer:
    """Log lines newer than the one named by `after`."""
    after = int(number_of(parameters, "after", 0))
    return {"rows": tail_logs(connection, after, log_filter(parameters), filters_of(parameters))}


def log_filter(parameters: Parameters) -> LogFilter:
    """Read what both the search and the tail can be restricted to."""
    return LogFilter(
        text=parameters.get("q", ""),
        level=parameters.get("level") or None,
        logger=parameters.get("logger") or None,
        correlation_id=parameters.get("id") or None,
    )


def read_views(connection: sqlite3.Connection, parameters: Parameters) -> Answer:
    """Every view with its numbers over the span, the costliest first."""
    rows = view_rows(connection, span_of(parameters), filters_of(parameters), limit=200)
    return {
        "views": rows["costliest"],
        "names": view_names(connection, filters_of(parameters)),
    }


def read_view(connection: sqlite3.Connection, parameters: Parameters) -> Answer:
    """All about one view."""
    page = view_page(
        connection, required(parameters, "view"), span_of(parameters), filters_of(parameters)
    )
    return {**vars(page), "marks": marks_of(connection, parameters)}


def marks_of(connection: sqlite3.Connection, parameters: Parameters) -> list[query.Mark]:
    """Deploys and process starts inside the address's span."""
    return query.marks(connection, span_of(parameters), filters_of(parameters))


def required(parameters: Parameters, name: str) -> str:
    """Read a parameter without which there is nothing to answer."""
    value = parameters.get(name, "")
    if not value:
        raise BadAddressError(f"The parameter {name} is missing.")
    return value


def choice_of(parameters: Parameters, name: str, choices: Mapping[str, int]) -> int:
    """Read a parameter that takes one of a few values."""
    text = parameters.get(name, "")
    if text not in choices:
        expected = ", ".join(repr(choice) for choice in choices)
        raise BadAddressError(f"{name}={text!r:.40}: expected one of {expected}.")
    return choices[text]


READERS: dict[str, Reader] = {
    "context": read_context,
    "overview": read_overview,
    "metrics": read_metrics,
    "metric": read_metric,
    "requests": read_requests,
    "story": read_story,
    "logs": read_logs,
    "tail": read_tail,
    "views": read_views,
    "view": read_view,
}
"""Last part of a data address → what answers it."""
