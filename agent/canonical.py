"""The canonical line: one JSON object for each unit of work, written however it ended."""

from __future__ import annotations

import _thread
import time
from typing import TYPE_CHECKING, Any, Final

from introspect.agent import logs, sql
from introspect.agent.work import Call, Query, Work, milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable

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
        if work.kind != "process":
            self._write(logs.encode(self.fields(work, ended)))

    def fields(self, work: Work, ended: float) -> dict[str, Any]:
        """Return the line's fields, in the order in which they are written."""
        seconds = ended - work.started
        slowest = work.slowest_query
        level = "ERROR" if work.failed else "INFO"
        line: dict[str, Any] = {
            "timestamp": logs.timestamp(work.wall_started),
            "level": level,
            "logger": f"introspect.{work.kind}",
            "message": "",
            **logs.identity(),
            "kind": work.kind,
            "correlation_id": work.correlation_id,
            "span_id": work.span_id,
        }
        if work.inbound is not None:
            line["parent_id"] = work.inbound.parent_id
        line.update(work.describe())
        line["duration_ms"] = milliseconds(seconds)
        if work.thread == _thread.get_ident():
            line["cpu_ms"] = milliseconds(time.thread_time() - work.cpu_started)
        line.update(_totals(work))
        if slowest is not None:
            line["slowest_query"] = _query_fields(slowest)
        if work.exception is not None:
            line["exception"] = work.exception
        if self._tells_events(work, seconds, slowest):
            line["events"] = _latest_events(work)
            dropped = work.events_dropped + len(work.events) - len(line["events"])
            if dropped:
                line["events_dropped"] = dropped
        line["message"] = _message(line)
        return line

    def _tells_events(self, work: Work, seconds: float, slowest: Any) -> bool:
        if not self._detail or not work.events:
            return False
        if "all" in self._detail or ("error" in self._detail and work.failed):
            return True
        return "slow" in self._detail and (
            seconds >= self._slow_seconds
            or (slowest is not None and slowest[2] >= self._slow_query_seconds)
        )


def _totals(work: Work) -> dict[str, Any]:
    db, http = work.total("db"), work.total("http")
    return {
        "db_ms": milliseconds(db.seconds),
        "db_queries": db.calls,
        "db_duplicates": sum(count - 1 for count in work.statements.values()),
        "template_ms": milliseconds(work.total("template").seconds),
        "http_ms": milliseconds(http.seconds),
        "http_calls": http.calls,
        "cache_ms": milliseconds(work.total("cache").seconds),
        "cache_hits": work.total("cache.hit").calls,
        "cache_misses": work.total("cache.miss").calls,
    }


def _query_fields(sample: Any) -> dict[str, Any]:
    series, _started, seconds, _area, query = sample
    return {
        "ms": milliseconds(seconds),
        "name": ".".join(series.values),
        "statement": sql.normalise(query.sql, mysql=query.mysql).statement,
    }


def _latest_events(work: Work) -> list[dict[str, Any]]:
    """Return as many events as fit in a line, each of them whole."""
    latest: list[dict[str, Any]] = []
    room = EVENTS_BYTES
    for sample in reversed(work.events[-EVENTS_SHOWN:]):
        event = _event(sample, work.started)
        room -= len(logs.dumped(event))
        if room < 0:
            break
        latest.append(event)
    return latest[::-1]


def _event(sample: Any, unit_started: float) -> dict[str, Any]:
    series, started, seconds, area, detail = sample
    event: dict[str, Any] = {
        "offset_ms": milliseconds(started - unit_started),
        "kind": area or series.metric.name.partition(".")[0],
        "name": ".".join(series.values) or series.metric.name,
        "ms": milliseconds(seconds),
    }
    if series.metric.name != event["kind"]:
        event["name"] = f"{series.metric.name.partition('.')[2]}.{event['name']}"
    if type(detail) is Query:
        normalised = sql.normalise(detail.sql, mysql=detail.mysql)
        event["statement"] = normalised.statement
        if normalised.table:
            event["table"] = normalised.table
        if detail.error:
            event["error"] = detail.error
    elif type(detail) is Call:
        event.update({key: value for key, value in detail._asdict().items() if value is not None})
    return event


def _message(line: dict[str, Any]) -> str:
    subject = (
        f"{line.get('method')} {line.get('path')} {line.get('status') or 'aborted'}"
        if line["kind"] == "request"
        else f"{line['kind']} {line.get('name')}"
    )
    return f"{subject} {line['duration_ms']:.1f} ms"
