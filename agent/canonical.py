"""The canonical line: one JSON object for each unit of work, written however it ended."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from introspect.agent import logs, metrics, sql
from introspect.agent.logs import quoted
from introspect.agent.work import SAMPLE_ITEMS, Call, Query, TimedQuery, Work, milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from introspect.agent.metrics import Series
    from introspect.agent.settings import Settings

# Longer lists would not fit in a line; the latest calls are the ones before the trouble.
EVENTS_SHOWN: Final = 100
EVENTS_BYTES: Final = 24 * 1024


class Writer:
    """Writes a unit's line when it ends."""

    def __init__(self, settings: Settings, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._detail = settings.detail
        self._slow_seconds = settings.slow_request
        self._slow_query_seconds = settings.slow_query

    def ended(self, work: Work, ended: float) -> None:
        """Write the line of *work*, which ended at *ended* (seconds of ``perf_counter``)."""
        if work.kind == "process":
            return
        seconds = ended - work.started
        fields = _own_fields(work, seconds)
        message = _message(work, fields)
        events: list[str] = []
        if self._tells_events(work, seconds):
            events = _latest_events(work)
            dropped = work.events_dropped + len(work.events) // SAMPLE_ITEMS - len(events)
            if dropped:
                fields["events_dropped"] = dropped
        line = _line_by_template(work, message, fields, events)
        if line is None or len(line) > logs.LINE_BYTES:
            line = logs.encode(_all_fields(work, message, fields), events)
        self._write(line)

    def _tells_events(self, work: Work, seconds: float) -> bool:
        if not self._detail or not work.events:
            return False
        if "all" in self._detail or ("error" in self._detail and work.failed):
            return True
        slowest = work.slowest_query
        return "slow" in self._detail and (
            seconds >= self._slow_seconds
            or (slowest is not None and slowest.seconds >= self._slow_query_seconds)
        )


def _all_fields(work: Work, message: str, fields: logs.Line) -> logs.Line:
    """Return the whole line but for the events, in the order in which it is written."""
    moment = logs.timestamp(work.wall_started)
    return {**_first_fields(work, moment, message, work.correlation_id, work.span_id), **fields}


def _line_by_template(
    work: Work, message: str, fields: logs.Line, events: list[str]
) -> bytes | None:
    """Return what ``encode`` makes of all fields; ``None`` where there is no template."""
    key = work.kind, work.failed, work.pid, metrics.service()
    template = logs.template_for(key) or _new_template(key, work)
    if template is None:
        return None
    to_timestamp, to_message, to_correlation_id, to_span_id, rest = template
    return "".join(
        (
            to_timestamp,
            logs.timestamp(work.wall_started),
            to_message,
            quoted(message),
            to_correlation_id,
            quoted(work.correlation_id),
            to_span_id,
            quoted(work.span_id),
            rest,
            ",",
            logs.to_json(fields)[1:-1],
            logs.events_field(events) if events else "",
            "}\n",
        )
    ).encode("utf-8", "replace")


def _new_template(key: Hashable, work: Work) -> logs.Template | None:
    if not logs.appends():
        return None
    slot = logs.SLOT
    return logs.keep_template(key, _first_fields(work, slot, slot, slot, slot))


def _first_fields(
    work: Work, moment: str, message: str, correlation_id: str, span_id: str
) -> logs.Line:
    return {
        "timestamp": moment,
        "level": "ERROR" if work.failed else "INFO",
        "logger": f"introspect.{work.kind}",
        "message": message,
        **logs.identity(),
        "kind": work.kind,
        "correlation_id": correlation_id,
        "span_id": span_id,
    }


def _own_fields(work: Work, seconds: float) -> logs.Line:
    """Return what the line says behind what all of its kind begin with."""
    fields: logs.Line = {} if work.inbound is None else {"parent_id": work.inbound.parent_id}
    fields.update(work.describe())
    fields["duration_ms"] = milliseconds(seconds)
    if work.cpu_seconds is not None:
        fields["cpu_ms"] = milliseconds(work.cpu_seconds)
    fields.update(_totals(work))
    if work.slowest_query is not None:
        fields["slowest_query"] = _query_fields(work.slowest_query)
    if work.exception is not None:
        fields["exception"] = work.exception
    return fields


def _totals(work: Work) -> dict[str, Any]:
    if not (work.seconds or work.calls):
        return _NO_CALLS
    seconds, calls = work.seconds.get, work.calls.get
    return {
        "db_ms": milliseconds(seconds("db", 0.0)),
        "db_queries": calls("db", 0),
        "db_duplicates": sum(work.statements.values()) - len(work.statements),
        "template_ms": milliseconds(seconds("template", 0.0)),
        "http_ms": milliseconds(seconds("http", 0.0)),
        "http_calls": calls("http", 0),
        "cache_ms": milliseconds(seconds("cache", 0.0)),
        "cache_hits": calls("cache.hit", 0),
        "cache_misses": calls("cache.miss", 0),
    }


_NO_CALLS: Final = {
    "db_ms": 0.0,
    "db_queries": 0,
    "db_duplicates": 0,
    "template_ms": 0.0,
    "http_ms": 0.0,
    "http_calls": 0,
    "cache_ms": 0.0,
    "cache_hits": 0,
    "cache_misses": 0,
}


def _query_fields(timed: TimedQuery) -> dict[str, Any]:
    query = timed.query
    return {
        "ms": milliseconds(timed.seconds),
        "name": ".".join(timed.series.values),
        "statement": sql.normalise(query.sql, mysql=query.mysql).statement,
    }


# Events are written as text. As dictionaries, which an encoder went through twice, once to know
# their size, they took several times as long, and were the better part of a line's cost.


def _latest_events(work: Work) -> list[str]:
    """Return as many events as fit in a line, each of them whole, as JSON objects."""
    begin = work.started
    latest = work.events[-EVENTS_SHOWN * SAMPLE_ITEMS :]
    events = [
        '{"offset_ms":%.3f,%s,"ms":%.3f%s}'  # noqa: UP031  half the steps of an f-string
        % (
            1000 * (started - begin),
            _name(series),
            1000 * (ended - started),
            "" if detail is None else _told(detail),
        )
        for series, started, ended, detail in zip(
            *(latest[item::SAMPLE_ITEMS] for item in range(SAMPLE_ITEMS)), strict=True
        )
    ]
    if sum(map(len, events)) * 4 <= EVENTS_BYTES:  # whatever characters they are made of
        return events
    room = EVENTS_BYTES
    for kept, event in enumerate(reversed(events)):
        room -= len(event.encode("utf-8", "replace"))
        if room < 0:
            return events[len(events) - kept :]
    return events


@functools.lru_cache(maxsize=1000)
def _name(series: Series) -> str:
    kind = series.area or series.metric.name.partition(".")[0]
    name = ".".join(series.values) or series.metric.name
    if series.metric.name != kind:
        name = f"{series.metric.name.partition('.')[2]}.{name}"
    return f'"kind":{quoted(kind)},"name":{quoted(name)}'


def _told(detail: Query | Call) -> str:
    if isinstance(detail, Call):
        return _answer(detail)
    text, mysql, error = detail
    told = _normalised(text, mysql)
    return f'{told},"error":{quoted(error)}' if error else told


@functools.lru_cache(maxsize=500)
def _normalised(text: str, mysql: bool) -> str:
    statement, table = sql.normalise(text, mysql=mysql)
    told = f',"statement":{quoted(statement)}'
    return f'{told},"table":{quoted(table)}' if table else told


def _answer(call: Call) -> str:
    span_id = f',"span_id":"{call.span_id}"' if call.span_id else ""
    status = "" if call.status is None else f',"status":{call.status:d}'
    error = f',"error":{quoted(call.error)}' if call.error else ""
    return f"{span_id}{status}{error}"


def _message(work: Work, fields: logs.Line) -> str:
    subject = (
        f"{fields.get('method')} {fields.get('path')} {fields.get('status') or 'aborted'}"
        if work.kind == "request"
        else f"{work.kind} {fields.get('name')}"
    )
    return f"{subject} {fields['duration_ms']:.1f} ms"
