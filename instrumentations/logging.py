"""Put the correlation ID on every log record, count records, and ship them as JSON if asked to.

``Logger.handle`` is the one place that every logger's record goes through, ahead of its filters:
Django's, gunicorn's and those of loggers that a later ``dictConfig`` makes included. It runs after
``extra`` has been applied: a record factory would make the application's own
``extra={"correlation_id": …}`` raise ``KeyError``. Records made from a dictionary, as those that
come over a socket, have theirs from then on, and a record that comes to a handler past any logger
from there.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from introspect.agent import metrics, work
from introspect.agent.metrics import COUNTER, OTHER, Metric
from introspect.agent.patching import Patch, noticed, timed

if TYPE_CHECKING:
    from collections.abc import Callable

    from introspect.agent.outputs import Outputs
    from introspect.agent.settings import Settings

RECORD = Metric("log", COUNTER, "", ("level",), "log records by level")

LEVELS = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}

_outputs: Outputs | None = None
_line_of: Callable[[Any], bytes] | None = None
_lowest_level = 0


def _no_thread_is_ours() -> bool:
    return False


# Nobody wants the log records of threads of ours; where nothing is shipped there are none.
_is_own_thread: Callable[[], bool] = _no_thread_is_ours


def configure(settings: Settings) -> None:
    """Open no output yet, but know them."""
    global _outputs, _line_of, _lowest_level, _is_own_thread
    _outputs, _line_of, _is_own_thread = None, None, _no_thread_is_ours
    _lowest_level = settings.log_level
    if settings.log:
        from introspect.agent import logs, outputs  # 10 ms, for those alone who ship logs

        _outputs = outputs.Outputs(settings.log)
        _line_of = logs.line_of
        _is_own_thread = outputs.is_own_thread


def write(line: bytes) -> None:
    """Write one line of JSON to every output."""
    if _outputs is not None:
        _outputs.write(line)


def record_comes(args: Any, _kwargs: Any) -> None:
    """Set ``correlation_id`` and ``service``, unless the application has, and count the record."""
    record = args[1]
    identify(record)
    if not _is_own_thread():
        work.count(RECORD.series[(LEVELS.get(record.levelno, OTHER),)])


def record_read(
    _started: float, _ended: float, _args: Any, _kwargs: Any, record: Any, error: Any
) -> None:
    """Identify a record made from a dictionary, which may be handed to a handler at once."""
    if error is None:
        identify(record)


def record_arrives(args: Any, _kwargs: Any) -> None:
    """Identify a record that is handed straight to a handler."""
    record = args[1]
    if hasattr(record, "__dict__"):  # else it is no record, which the handler will find out
        identify(record)


def identify(record: Any) -> None:
    """Set ``correlation_id`` and ``service`` of a record, unless the application has."""
    attributes = record.__dict__
    if "correlation_id" not in attributes:
        attributes["correlation_id"] = work.correlation_id()
    if "service" not in attributes:
        attributes["service"] = metrics.service()


def record_handled(
    _started: float, _ended: float, args: Any, _kwargs: Any, _result: Any, _error: Any
) -> None:
    """Ship a record behind the application's own handlers, whose formatted text it then has."""
    record = args[1]
    if _line_of is None or record.levelno < _lowest_level or _is_own_thread():
        return
    write(_line_of(record))


_HANDLE = noticed("logging:Handler.handle", record_arrives)


def _for_records_without(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``Handler.handle`` that lets a record of a logger's through.

    By hand: each record comes here once for each handler, and to call even an observer that has
    nothing to do would cost it twice as much.
    """
    identified = _HANDLE.wrap(original)
    code = getattr(original, "__code__", None)
    if code is None or code.co_varnames[: code.co_argcount] != ("self", "record"):
        return identified

    @functools.wraps(original)
    def handle(self: Any, record: Any) -> Any:
        __traceback_hide__ = True
        try:
            attributes = record.__dict__
            is_known = "correlation_id" in attributes and "service" in attributes
        except Exception:
            is_known = False
        return original(self, record) if is_known else identified(self, record)

    return handle


_IDENTIFY = (
    noticed("logging:Logger.handle", record_comes),
    timed("logging:makeLogRecord", after=record_read),
    Patch(_HANDLE.target, _for_records_without),
)
_SHIP = timed("logging:Logger.callHandlers", after=record_handled)

PATCHES = (*_IDENTIFY, _SHIP)


def patches(settings: Settings) -> tuple[Patch, ...]:
    """Leave ``callHandlers`` alone where nothing is shipped."""
    return PATCHES if settings.log else _IDENTIFY
