"""JSON log lines to rows: what one line says, checked field by field and cut to size.

A line is either a canonical line (a unit of work: a request, a command, a task) or a log record.
Whatever is not a JSON object that says one or the other is refused with a reason; a field of the
wrong type is left out, and the rest of its line kept.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final, NamedTuple

from introspect.console.schema import WORK_NUMBERS

KINDS: Final = ("request", "command", "task")
EVENT_KINDS: Final = ("db", "template", "http", "cache")

LONGEST_LINE: Final = 1 << 20
LONGEST_TEXT: Final = 16_000
LONGEST_STACK: Final = 64_000
LONGEST_NAME: Final = 300
MAX_EVENTS: Final = 2_000

AHEAD: Final = 300
"""Seconds that a line's clock may be ahead of ours before ours is taken instead."""

WORK_INTEGERS: Final = frozenset(
    {
        "db_queries",
        "db_duplicates",
        "http_calls",
        "cache_hits",
        "cache_misses",
        "response_bytes",
    }
)

WORK_COLUMNS: Final = (
    "id",
    "kind",
    "service",
    "env",
    "version",
    "host",
    "pid",
    "correlation_id",
    "span_id",
    "parent_id",
    "name",
    "method",
    "path",
    "route",
    "view",
    "status",
    *WORK_NUMBERS,
    "user_id",
    "exception_class",
    "exception_message",
    "exception_place",
    "slowest_query",
    "extra",
)

LOG_COLUMNS: Final = (
    "id",
    "level",
    "logger",
    "message",
    "service",
    "env",
    "version",
    "host",
    "pid",
    "thread",
    "file",
    "function",
    "correlation_id",
    "exception_class",
    "exception_message",
    "stack",
    "extra",
)

_WORK_KNOWN: Final = frozenset(WORK_COLUMNS) | {
    "timestamp",
    "level",
    "logger",
    "message",
    "exception",
    "events",
    "events_dropped",
}
_LOG_KNOWN: Final = frozenset(LOG_COLUMNS) | {"timestamp", "@timestamp", "exception"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND: Final = timedelta(microseconds=1)
_LARGEST_INTEGER: Final = 1 << 53
_LARGEST_NUMBER: Final = 1e15


class BadLineError(ValueError):
    """This line cannot be kept; the text is the reason."""


class Event(NamedTuple):
    """Something that happened inside a unit of work."""

    offset_ms: float
    kind: str
    name: str
    ms: float
    statement: str
    more: dict[str, Any]
    """``span_id``, ``status``, ``error`` as far as known."""


@dataclass
class Work:
    """A canonical line."""

    values: dict[str, Any]
    """By the names of ``WORK_COLUMNS``; what is missing is NULL."""
    events: list[Event] | None
    events_dropped: int
    size: int = 0
    """Bytes of the line."""

    @property
    def origin(self) -> str:
        """What its operations are added up under."""
        return str(self.values.get("view") or self.values.get("name") or "")


@dataclass
class Log:
    """A log record."""

    values: dict[str, Any]
    """By the names of ``LOG_COLUMNS``; what is missing is NULL."""
    size: int = 0
    """Bytes of the line."""


def read_line(line: bytes, now: float, oldest: float) -> Work | Log:
    """Read one line that arrived at ``now``; ``oldest`` is what the retention still keeps.

    A time outside ``oldest`` … ``now`` (give or take ``AHEAD``) is some clock's mistake: such a row
    would be deleted at once, or never.  It is put at ``now``, and the time it claimed is kept in
    ``extra``.  Times are epoch seconds.
    """
    if len(line) > LONGEST_LINE:
        raise BadLineError("longer than 1 MB")
    try:
        read = _read_object(line, now, oldest)
    except RecursionError:
        raise BadLineError("nested too deeply") from None
    read.size = len(line)
    return read


def _read_object(line: bytes, now: float, oldest: float) -> Work | Log:
    try:
        said = _read_json(line.decode())
    except ValueError:
        raise BadLineError("not JSON") from None
    if not isinstance(said, dict):
        raise BadLineError("not a JSON object")
    identity, claimed = _time(said, now, oldest)
    if said.get("kind") in KINDS and str(said.get("logger", "")).startswith("introspect."):
        return _work(said, identity, claimed)
    return _log(said, identity, claimed)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


_read_json = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _time(said: dict[str, Any], now: float, oldest: float) -> tuple[int, str | None]:
    """Return microseconds since the epoch, and the time claimed if that was not believed."""
    text = said.get("timestamp", said.get("@timestamp"))
    present = int(now * 1_000_000)
    if text is None:
        return present, None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        microseconds = (moment - _EPOCH) // _MICROSECOND
    except (ValueError, AttributeError, TypeError, OverflowError):
        return present, str(text)[:LONGEST_NAME]
    if oldest * 1_000_000 <= microseconds <= present + AHEAD * 1_000_000:
        return microseconds, None
    return present, text[:LONGEST_NAME]


def _work(said: dict[str, Any], identity: int, claimed: str | None) -> Work:
    if number(said.get("duration_ms")) is None:
        raise BadLineError("canonical line without its duration_ms")
    values = _common(said, identity)
    values["kind"] = said["kind"]
    for column in ("span_id", "parent_id", "name", "method", "route", "view", "user_id"):
        values[column] = text(said.get(column), LONGEST_NAME)
    values["path"] = text(said.get("path"), 2_000)
    values["status"] = integer(said.get("status"))
    for column in WORK_NUMBERS:
        read = integer if column in WORK_INTEGERS else number
        values[column] = read(said.get(column))
    values["exception_class"], values["exception_message"], _, place = _exception(said)
    values["exception_place"] = place
    values["slowest_query"] = _object(said.get("slowest_query"))
    values["extra"] = _extra(said, _WORK_KNOWN, claimed)
    events = said.get("events")
    read_events = None
    if isinstance(events, list):
        read_events = [event for event in map(_event, events[:MAX_EVENTS]) if event is not None]
    dropped = integer(said.get("events_dropped")) or 0
    return Work(values, read_events, dropped)


def _log(said: dict[str, Any], identity: int, claimed: str | None) -> Log:
    message = said.get("message")
    if not isinstance(message, str):
        raise BadLineError("neither a canonical line nor a log record with a message")
    values = _common(said, identity)
    values["level"] = (text(said.get("level"), 40) or "").upper()
    values["logger"] = text(said.get("logger"), LONGEST_NAME) or ""
    values["message"] = text(message, LONGEST_TEXT) or ""
    for column in ("thread", "file", "function"):
        values[column] = text(said.get(column), LONGEST_NAME)
    name, explanation, stack, _ = _exception(said)
    values["exception_class"], values["exception_message"], values["stack"] = (
        name,
        explanation,
        stack,
    )
    values["extra"] = _extra(said, _LOG_KNOWN, claimed)
    return Log(values)


def _common(said: dict[str, Any], identity: int) -> dict[str, Any]:
    values: dict[str, Any] = {"id": identity}
    for column in ("service", "env", "version", "host"):
        values[column] = text(said.get(column), LONGEST_NAME) or ""
    values["pid"] = integer(said.get("pid"))
    values["correlation_id"] = text(said.get("correlation_id"), LONGEST_NAME) or None
    return values


def _exception(said: dict[str, Any]) -> tuple[str | None, str | None, str | None, str | None]:
    """Return class, message, stack, place."""
    exception = said.get("exception")
    if isinstance(exception, str):
        return text(exception, LONGEST_NAME), None, None, None
    if not isinstance(exception, dict):
        return None, None, None, None
    return (
        text(exception.get("class"), LONGEST_NAME),
        text(exception.get("message"), LONGEST_TEXT),
        text(exception.get("stack"), LONGEST_STACK),
        text(exception.get("place"), LONGEST_NAME),
    )


def _event(said: Any) -> Event | None:
    if not isinstance(said, dict):
        return None
    offset, ms = number(said.get("offset_ms")), number(said.get("ms"))
    kind = said.get("kind")
    if offset is None or ms is None or kind not in EVENT_KINDS:
        return None
    more: dict[str, Any] = {}
    span, status, error = said.get("span_id"), said.get("status"), said.get("error")
    if span:
        more["span_id"] = text(span, LONGEST_NAME)
    if status is not None:
        more["status"] = integer(status)
    if error:
        more["error"] = text(error, LONGEST_NAME)
    name = text(said.get("name"), LONGEST_NAME) or ""
    statement = text(said.get("statement"), 4_000) or ""
    return Event(offset, kind, name, ms, statement, more)


def _extra(said: dict[str, Any], known: frozenset[str], claimed: str | None) -> str | None:
    """Return what has no column of its own as JSON."""
    extra = said.get("extra")
    kept: dict[str, Any] = dict(extra) if isinstance(extra, dict) else {}
    for key in said.keys() - known:
        if isinstance(said[key], (str, int, float, bool)):
            kept[key] = said[key]
    if claimed is not None:
        kept["timestamp_claimed"] = claimed
    return _object(kept)


def _object(said: Any) -> str | None:
    if not isinstance(said, dict) or not said:
        return None
    try:
        encoded = json.dumps(said, ensure_ascii=False, allow_nan=False)
        encoded.encode()
    except ValueError:  # 1e999 is infinity, which is not JSON; or a lone surrogate, not UTF-8
        encoded = json.dumps({"unreadable": json.dumps(said)[:LONGEST_TEXT]})
    if len(encoded) > LONGEST_TEXT:
        return json.dumps({"too_long": encoded[: LONGEST_NAME * 10]})
    return encoded


def text(said: Any, longest: int) -> str | None:
    """Return a string that SQLite can keep; a number is written out, anything else ``None``."""
    if not isinstance(said, str):
        if said is None or isinstance(said, (bool, list, dict)):
            return None
        said = str(said)
    if len(said) > longest:
        said = said[: longest - 1] + "…"
    if not said.isprintable():
        # SQLite's own functions end a text at NUL, and a lone surrogate has no UTF-8.
        said = said.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    return str(said)


def number(said: Any) -> float | None:
    """Return a number from 0 to 10^15, else ``None``."""
    if isinstance(said, bool) or not isinstance(said, (int, float)):
        return None
    if not 0 <= said <= _LARGEST_NUMBER or math.isnan(said):
        return None
    return float(said)


def integer(said: Any) -> int | None:
    """Return a whole number from 0 to 2^53, else ``None``."""
    if isinstance(said, bool) or not isinstance(said, (int, float)):
        return None
    if not 0 <= said <= _LARGEST_INTEGER or said != int(said):
        return None
    return int(said)
