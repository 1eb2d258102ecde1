"""What a log record becomes: a flat object of safe values, and one line of JSON in three dialects.

None of the application's objects is evaluated: a ``repr`` may raise, take long, or query the
database. What is not a plain value is shown by its type.
"""

from __future__ import annotations

import datetime as dt
import decimal
import functools
import json
import math
import os
import re
import socket
import traceback
import uuid
from json.encoder import encode_basestring
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from introspect.agent import metrics, work

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Hashable, Iterable, Sequence
    from types import TracebackType

    from introspect.agent.settings import Settings

LINE_BYTES: Final = 32 * 1024
TEXT: Final = 8 * 1024
EXTRA_TEXT: Final = 1024
EXTRA_ITEMS: Final = 50
EXTRA_DEPTH: Final = 3
EXTRA_ROOM: Final = 16 * 1024  # characters, of all extras of a record together
CHAIN: Final = 5
FRAMES: Final = 30

TEMPLATES_KEPT: Final = 500
TEMPLATE_TEXT: Final = 2 * 1024

SHORTEST_TEXT: Final = 128
_UNBOUNDED: Final = ("extra", "introspect")

MASK: Final = "********************"

CUT: Final = "…[cut]"
# In the place of an object: those who keep lines refuse a text where they have seen objects.
_LEFT_OUT: Final = {CUT: CUT}

# Names that Django's SafeExceptionReporterFilter hides, in any version, and a few more.
_SECRET_NAME = re.compile(
    r"API|AUTH|TOKEN|KEY|SECRET|PASS|SIGNATURE|HTTP_COOKIE|COOKIE|SESSION|CREDENTIAL|PRIVATE",
    re.IGNORECASE,
)
_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
# What libraries say, in quotes, of a URL that they cannot use: requests of one without a scheme,
# http.client (and `int`) of what they take for the port in one with a password.
_QUOTED_CREDENTIALS = re.compile(
    r"""((?: Invalid\ URL | were\ found\ for | \bport: | \bbase\ 10: )\ ['"]) [^\s/?#"'<>]*@""",
    re.VERBOSE,
)
# Whole words, escaped quotes included as access logs write them, and then a look into each: a
# pattern that searched for the question mark itself would take quadratic time.
_WORD = re.compile(r"(?:\\.|[^\s\"'<>\\])+")

# What logging itself keeps on a record (and what we add): the rest came by `extra`.
_STANDARD = frozenset(
    {
        "args", "asctime", "correlation_id", "created", "exc_info", "exc_text", "filename",
        "funcName", "levelname", "levelno", "lineno", "message", "module", "msecs", "msg", "name",
        "pathname", "process", "processName", "relativeCreated", "service", "stack_info",
        "taskName", "thread", "threadName",
    }
)  # fmt: skip

_EXACT_TEXT = (
    dt.datetime,
    dt.date,
    dt.time,
    dt.timedelta,
    decimal.Decimal,
    uuid.UUID,
)

_FORMATTED_AS_IT_IS = frozenset({type(None), bool, int, float, *_EXACT_TEXT})

Line = dict[str, Any]


class Identity:
    """Who writes: on every line."""

    def __init__(self, env: str = "", version: str = "") -> None:
        self.host = socket.gethostname()
        self.env = env
        self.version = version

    def fields(self) -> Line:
        """Return the fields, without those that are not set."""
        fields: Line = {"service": metrics.service()}
        if self.env:
            fields["env"] = self.env
        if self.version:
            fields["version"] = self.version
        fields["host"] = self.host
        fields["pid"] = os.getpid()
        return fields


_identity = Identity()
_format = "json"


def configure(settings: Settings) -> None:
    """Take the settings on log lines."""
    global _identity, _format
    _identity = Identity(settings.env, settings.version)
    _format = settings.log_format
    _templates.clear()


def identity() -> Line:
    """Return the fields that say who writes."""
    return _identity.fields()


# Lines of one place differ in four texts: timestamp, message, correlation ID, and the thread of a
# record or the span ID of a unit of work. So the JSON around them is kept, up to the brace at its
# end: before, between and behind them, with the quotation marks of the timestamp, which needs no
# escaping. It is made from a line with slots in their place, so whoever fills it writes what
# `encode` would.

Template: TypeAlias = "tuple[str, str, str, str, str]"

SLOT: Final = "\0"

_templates: dict[Hashable, Template] = {}

template_for = _templates.get
"""Return what ``keep_template`` has kept, if it still is. A key says all that the template does,
with the process ID, which a fork changes, and the service, which Django may set late."""


def keep_template(key: Hashable, line: Line) -> Template | None:
    """Make the template of *line*, and keep it for *key* unless it is long.

    ``None`` if another text looks like a slot.
    """
    text = to_json(_DIALECTS[_format].shape(line)).removesuffix("}")
    pieces = text.split(quoted(SLOT))
    if len(pieces) != 5:  # noqa: PLR2004
        return None
    before, to_message, to_correlation_id, to_fourth, rest = pieces
    template = f'{before}"', f'"{to_message}', to_correlation_id, to_fourth, rest
    if len(text) <= TEMPLATE_TEXT:
        if len(_templates) >= TEMPLATES_KEPT:
            _templates.clear()  # cheaper than order, and rare
        _templates[key] = template
    return template


# What all records of a call site have in common.
_site_of = attrgetter("levelname", "name", "filename", "lineno", "funcName")
_PLAIN_KINDS = frozenset({type(None), int, str})


def line_of(record: logging.LogRecord) -> bytes:
    """Return the line of *record*, its newline included."""
    site, thread = _site_of(record), record.threadName
    # Nothing but plain values is looked up: an object of the application's may have its own hash.
    if record.exc_info is None and type(thread) is str and _PLAIN_KINDS.issuperset(map(type, site)):
        key = site, os.getpid(), metrics.service()
        template = template_for(key) or _new_template(key, record)
        end = "}\n" if _STANDARD.issuperset(record.__dict__) else _end_with_extra(record)
        if template is not None and end is not None:
            to_timestamp, to_message, to_correlation_id, to_thread, rest = template
            line = "".join(
                (
                    to_timestamp,
                    timestamp(record.created),
                    to_message,
                    quoted(message_of(record)),
                    to_correlation_id,
                    quoted(_correlation_id(record)),
                    to_thread,
                    quoted(thread),
                    rest,
                    end,
                )
            ).encode("utf-8", "replace")
            if len(line) <= LINE_BYTES:
                return line
    return encode(record_fields(record))


def _new_template(key: Hashable, record: logging.LogRecord) -> Template | None:
    return keep_template(key, _fields(record, SLOT, SLOT, SLOT, SLOT))


def _end_with_extra(record: logging.LogRecord) -> str | None:
    return f',"extra":{to_json(_extra(record))}}}\n' if appends() else None


def record_fields(record: logging.LogRecord) -> Line:
    """Return what the line of *record* says, in the ``json`` format's names."""
    line = _fields(
        record,
        timestamp(record.created),
        message_of(record),
        _correlation_id(record),
        record.threadName,
    )
    # A record made by hand may say True.
    if type(record.exc_info) is tuple and len(record.exc_info) == 3:  # noqa: PLR2004
        line["exception"] = exception_fields(record.exc_info, record.exc_text)
    if not _STANDARD.issuperset(record.__dict__):
        line["extra"] = _extra(record)
    return line


def _fields(
    record: logging.LogRecord,
    moment: str,
    message: str,
    correlation_id: str,
    thread: str | None,
) -> Line:
    return {
        "timestamp": moment,
        "level": record.levelname,
        "logger": record.name,
        "message": message,
        **identity(),
        "correlation_id": correlation_id,
        "thread": thread,
        "file": f"{record.filename}:{record.lineno}",
        "function": record.funcName,
    }


def _extra(record: logging.LogRecord) -> Line:
    extra = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
    return _safe_items(extra, EXTRA_DEPTH, [EXTRA_ROOM])


def _correlation_id(record: logging.LogRecord) -> str:
    given = record.__dict__.get("correlation_id")
    if type(given) is str and len(given) <= EXTRA_TEXT:
        return given
    return work.correlation_id() if given is None else _text(given, EXTRA_TEXT)


def message_of(record: logging.LogRecord) -> str:
    """Return the message, formatted without evaluating an object of the application's.

    Where a handler of the application's has formatted the record, its text is used.
    """
    text = record.__dict__.get("message")
    if type(text) is not str:
        text = record.msg
        if type(text) is not str or len(text) > TEXT:
            text = _text(text, TEXT)
        if record.args:
            try:
                text %= _safe_arguments(record.args)
            except Exception:  # a %d for what is a type's name by now, or a mistake
                text = f"{text} {_safe(record.args, 1, '', [EXTRA_ROOM])!r}"
    if "?" in text or "@" in text or len(text) > TEXT:
        return scrubbed(text)
    return text


class _Arguments(dict[Any, Any]):
    """A message's arguments by name; those of gunicorn's access log take any case and any name."""

    def __missing__(self, key: str) -> Any:
        return self.get(key.lower(), "-")


def _safe_arguments(arguments: Any) -> Any:
    if isinstance(arguments, dict):
        return _Arguments((key, _argument(value)) for key, value in arguments.items())
    if type(arguments) is tuple:
        for value in arguments:
            kind = type(value)
            if kind not in _FORMATTED_AS_IT_IS and (kind is not str or len(value) > TEXT):
                break
        else:
            return arguments
    return tuple(map(_argument, arguments))


def _argument(value: Any) -> Any:
    """Return *value* as ``%d`` and the like can take it, without asking it for anything."""
    kind = type(value)
    if kind in _FORMATTED_AS_IT_IS:
        return value
    if issubclass(kind, int):
        return int.__add__(value, 0)
    return _text(value, TEXT)


def exception_fields(exc_info: tuple[Any, Any, Any], made: Any = None) -> Line:
    """Return class, message and stack of an exception; *made* is its stack if that is there."""
    kind, error, trace = exc_info
    stack = made if type(made) is str else _stack(error, trace)
    return {
        "class": kind.__qualname__ if isinstance(kind, type) else "None",
        "message": scrubbed(exception_message(error)),
        "stack": scrubbed(stack),
    }


def exception_message(error: BaseException | None) -> str:
    """Return ``str(error)`` where that evaluates plain values only, else an empty string."""
    if error is None or type(error).__str__ not in _PLAIN_STR:
        return ""
    if not all(_is_plain(argument) for argument in error.args):
        return ""
    if isinstance(error, OSError) and not (
        _is_plain(error.filename) and _is_plain(error.filename2)
    ):
        return f"[Errno {_text(error.errno, TEXT)}] {_text(error.strerror, TEXT)}"
    return str(error)


_PLAIN_STR = frozenset(
    {BaseException.__str__, OSError.__str__, KeyError.__str__, ImportError.__str__}
)


def _stack(error: BaseException | None, trace: TracebackType | None) -> str:
    """Format a traceback and its causes, so many frames of each and so many causes."""
    parts: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen and len(seen) < CHAIN:
        seen.add(id(error))
        name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        message = exception_message(error)
        parts.append(
            "Traceback (most recent call last):\n"
            + "".join(traceback.format_tb(trace, limit=-FRAMES))
            + (f"{name}: {message}" if message else name)
        )
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        trace = error.__traceback__ if error is not None else None
    return "\n\n".join(reversed(parts))


def scrubbed(text: str) -> str:
    """Cut *text* and take credentials and query strings out of the URLs in it."""
    if len(text) > TEXT:
        half = TEXT // 2  # of a stack, the end says what happened
        text = f"{_beginning(text, half)}{CUT}{_end(text, half)}"
    if "@" in text:
        text = _QUOTED_CREDENTIALS.sub(r"\1", _CREDENTIALS.sub("", text))
    if "?" in text:
        text = _WORD.sub(_without_query_string, text)
    return text


def _without_query_string(word: re.Match[str]) -> str:
    text = word.group()
    path, _, query = text.partition("?")
    if query and ("/" in path or ("=" in query and (path[-1:].isalnum() or path[-1:] in "_.~%-"))):
        return path
    return text


def _beginning(text: str, longest: int) -> str:
    """Return the first characters of *text*, without the beginning of a URL that is cut through.

    Its credentials would not be known for what they are.
    """
    text = text[:longest]
    start = text.rfind("://")
    return text if start < 0 or _has_space(text[start:]) else text[:start]


def _end(text: str, longest: int) -> str:
    """Return the last characters of *text*, without what may be the end of a URL cut through."""
    text = text[-longest:]
    word = _WORD.match(text)
    if word is not None and any(mark in word.group() for mark in "@=&"):
        text = text[word.end() :]
    return text


def _has_space(text: str) -> bool:
    return len(text.split(None, 1)) > 1 or text[-1:].isspace()


@functools.lru_cache(maxsize=500)
def is_secret(name: str) -> bool:
    """Tell whether *name* sounds like a secret's."""
    return _SECRET_NAME.search(name) is not None


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return _is_storable(value)
    return value is None or kind in (str, float, bool, bytes, *_EXACT_TEXT)


def _is_storable(number: int) -> bool:
    """Tell whether *number* fits in 64 bits: longer ones are no numbers to those who read lines."""
    return -(2**63) <= number < 2**64


def _scalar(value: Any, longest: int) -> Any:
    kind = type(value)
    if (
        value is None
        or kind is bool
        or (kind is int and _is_storable(value))
        or (kind is float and math.isfinite(value))
    ):
        return value
    return _text(value, longest)


def _text(value: Any, longest: int) -> str:
    kind = type(value)
    if issubclass(kind, str):
        text = str.__str__(value)
    elif kind in (bytes, bytearray):
        text = bytes(value[: longest + 1]).decode("utf-8", "replace")
    elif kind in _EXACT_TEXT or kind in (bool, float) or (kind is int and _is_storable(value)):
        text = str(value)
    elif issubclass(kind, BaseException):
        text = exception_message(value) or kind.__qualname__
    else:
        text = f"<{kind.__qualname__}>"
    return text if len(text) <= longest else _beginning(text, longest) + CUT


def _safe(value: Any, depth: int, name: str, room: list[int]) -> Any:
    """Return *value* as JSON can hold it, to a bounded depth and length.

    The one element of *room* is how many characters are left for all the values together.
    """
    if name and is_secret(name):
        return MASK
    kind = type(value)
    if depth > 0 and kind is dict:
        return _safe_items(value, depth - 1, room)
    if depth > 0 and kind in (list, tuple):
        kept = []
        for item in value[:EXTRA_ITEMS]:
            if room[0] <= 0:
                break
            kept.append(_safe(item, depth - 1, "", room))
        return kept
    safe = _scalar(value, EXTRA_TEXT)
    room[0] -= 8
    if type(safe) is not str:
        return safe
    room[0] -= len(safe)
    return scrubbed(safe)


def _safe_items(values: dict[Any, Any], depth: int, room: list[int]) -> Line:
    kept: Line = {}
    for key, item in list(values.items())[:EXTRA_ITEMS]:
        if room[0] <= 0:
            kept[CUT] = CUT
            break
        name = _text(key, EXTRA_TEXT)
        room[0] -= len(name)
        kept[name] = _safe(item, depth, name, room)
    return kept


def timestamp(seconds: float) -> str:
    """Return RFC 3339 in UTC, with microseconds."""
    microseconds = round(seconds * 1_000_000)
    return _in_second(microseconds // 1_000_000) % (microseconds % 1_000_000)


@functools.lru_cache(maxsize=8)
def _in_second(second: int) -> str:
    # Kept, since many lines are written in one second: each takes a third of the time.
    return dt.datetime.fromtimestamp(second, dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%%06dZ")


# At the front of a line, in any format.
_TIMESTAMP = re.compile(
    rb'\{(?:"ecs\.version":"[^"]*",)?"@?timestamp":"(\d{4}(?:-\d\d){2}T\d\d(?::\d\d){2}\.\d{6})Z"'
)


def moment_of(line: bytes) -> float | None:
    """Return the seconds that the timestamp of *line* stands for; ``None`` if it has none."""
    found = _TIMESTAMP.match(line)
    if found is None:
        return None
    moment = dt.datetime.fromisoformat(found[1].decode())
    return moment.replace(tzinfo=dt.timezone.utc).timestamp()


def encode(line: Line, events: Sequence[str] = ()) -> bytes:
    """Return *line* as one line of JSON in the format in force, newline included.

    *events* are JSON objects, at most half a line long together; they are never cut.
    """
    shape, closing, _ = _DIALECTS[_format]
    shaped = shape(line)
    tail = events_field(events).encode("utf-8", "replace")
    room = LINE_BYTES - len(tail)
    data = dumped(shaped)
    longest = TEXT
    while len(data) > room and longest > SHORTEST_TEXT:
        longest //= 4
        data = dumped(_cut(shaped, longest))
    if len(data) > room:
        # What the application has put there; all else is a few short texts.
        rest = {key: _LEFT_OUT if key in _UNBOUNDED else it for key, it in shaped.items()}
        return dumped(_cut(rest, longest))
    return data[: -len(closing)] + tail + closing if tail else data


def events_field(events: Sequence[str]) -> str:
    """Return *events*, JSON objects, as they follow a line's other fields."""
    return f',"events":[{",".join(events)}]' if events else ""


def appends() -> bool:
    """Tell whether in the format in force fields of ours follow one another as they are."""
    return _DIALECTS[_format].appends


def dumped(line: Line) -> bytes:
    """Return *line* as JSON, newline included, whatever its size."""
    # Lone surrogates, from file names that are not UTF-8, cannot be encoded.
    return to_json(line).encode("utf-8", "replace") + b"\n"


def to_json(line: Line) -> str:
    """Return *line* as JSON."""
    return "".join(_chunks(line, 0))


# A text as a JSON string.
quoted = encode_basestring


def _type_name(value: object) -> str:
    return f"<{type(value).__qualname__}>"


# Made once: `json.dumps` makes one for each call that asks for anything unusual, and `encode` makes
# the function written in C anew each time, where there is one. Lines are made of copies, so they
# hold no cycles.
_encoder = json.JSONEncoder(
    ensure_ascii=False,
    check_circular=False,
    separators=(",", ":"),
    allow_nan=False,
    default=_type_name,
)


def _chunks_function() -> Callable[[Line, int], Iterable[str]]:
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return lambda line, _level: [_encoder.encode(line)]
    made: Callable[[Line, int], Iterable[str]] = make(
        None, _type_name, encode_basestring, None, ":", ",", False, False, False
    )
    return made


_chunks = _chunks_function()


def _cut(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= longest else value[:longest] + CUT
    if isinstance(value, dict):
        return {_cut(key, longest): _cut(item, longest) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut(item, longest) for item in value]
    return value


def _plain_json(line: Line) -> Line:
    return line


def _logstash(line: Line) -> Line:
    rest = {key: value for key, value in line.items() if key not in ("timestamp", "logger")}
    return {
        "@timestamp": line["timestamp"],
        "@version": "1",
        "logger_name": line["logger"],
        **rest,
    }


# Elastic Common Schema 8, as far as it has a name for the thing.
_ECS_NAMES = {
    "timestamp": "@timestamp",
    "level": "log.level",
    "logger": "log.logger",
    "message": "message",
    "service": "service.name",
    "env": "service.environment",
    "version": "service.version",
    "host": "host.hostname",
    "pid": "process.pid",
    "thread": "process.thread.name",
    "function": "log.origin.function",
    "correlation_id": "trace.id",
    "span_id": "span.id",
    "parent_id": "parent.id",
    "method": "http.request.method",
    "path": "url.path",
    "status": "http.response.status_code",
    "response_bytes": "http.response.body.bytes",
    "user_id": "user.id",
}


def _ecs(line: Line) -> Line:
    renamed: Line = {"ecs.version": "8.11.0"}
    own: Line = {}
    for key, value in line.items():
        if key in _ECS_NAMES:
            renamed[_ECS_NAMES[key]] = value
        elif key == "file":
            name, _, number = value.rpartition(":")
            renamed["log.origin.file.name"] = name
            renamed["log.origin.file.line"] = int(number)
        elif key == "exception":
            renamed["error.type"] = value.get("class")
            renamed["error.message"] = value.get("message")
            renamed["error.stack_trace"] = value.get("stack") or value.get("place")
        elif key == "duration_ms":
            renamed["event.duration"] = int(value * 1_000_000)
        else:
            own[key] = value
    if own:
        renamed["introspect"] = own
    return renamed


class Dialect(NamedTuple):
    """A format: what renames the fields, and how a line ends behind those that are ours alone."""

    shape: Callable[[Line], Line]
    closing: bytes
    appends: bool
    """Whether the latter follow all others, each as it is."""


_DIALECTS = {
    "json": Dialect(_plain_json, b"}\n", appends=True),
    "ecs": Dialect(_ecs, b"}}\n", appends=False),
    "logstash": Dialect(_logstash, b"}\n", appends=True),
}
