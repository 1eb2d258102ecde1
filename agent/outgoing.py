"""Outgoing HTTP calls: which of several stacked libraries counts one, and under which host."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from introspect.agent import correlation, work
from introspect.agent.metrics import COUNTER, TIMER, Metric

CALL = Metric(
    "http", TIMER, "ms", ("host",), "each outgoing call, redirects included; outermost library only"
)
STATUS = Metric("http.status", COUNTER, "", ("host", "status"), "answers of other services")
ERROR = Metric("http.error", COUNTER, "", ("host", "class"), "outgoing calls without an answer")

AREA = "http"

UNKNOWN_HOST: Final = "unknown"

_in_call: ContextVar[bool] = ContextVar("introspect_in_call", default=False)

# The span that the latest outgoing `traceparent` of this context named.
_span_id: ContextVar[str | None] = ContextVar("introspect_span_id", default=None)


def enter() -> Token[bool] | None:
    """Begin a call; ``None`` if a library further out has begun it, and so counts it."""
    if _in_call.get():
        return None
    if work.detail_wanted:
        _span_id.set(None)
    return _in_call.set(True)


def leave(token: Token[bool]) -> None:
    """End the call that ``enter`` began, in the same context."""
    _in_call.reset(token)


def is_entered() -> bool:
    """Tell whether a library further out counts this call."""
    return _in_call.get()


def record(
    host: str, started: float, ended: float, status: int | None, error: BaseException | None
) -> None:
    """Record one call that was answered with *status* or ended in *error*."""
    detail = None
    if work.detail_wanted:
        detail = work.Call(_span_id.get(), status, type(error).__name__ if error else None)
    work.record(CALL.series[(host,)], started, ended, AREA, detail)
    if error is not None:
        work.count(ERROR.of(host, type(error).__name__))
    elif status is not None:
        work.count(STATUS.series[host, status])


class Header(NamedTuple):
    """A line to add to a request as bytes, and what stands in one that has it, in lower case."""

    mark: bytes
    line: bytes


def headers_for(host: str) -> list[Header]:
    """Return the correlation headers that a request to *host* gets.

    Each request is a step of its own in the trace: its ``traceparent`` names a new span.
    """
    unit = work.active()
    if unit is None or unit.correlation_id == correlation.NONE:
        return []
    policy = correlation.policy
    if not policy.may_send_to(host):
        return []
    headers = []
    if policy.header is not None:
        line = f"{policy.header}: {unit.correlation_id}".encode("ascii")
        headers.append(Header(policy.mark, line))
    if policy.sends_traceparent:
        headers.append(Header(_TRACEPARENT_MARK, f"traceparent: {_child(unit)}".encode("ascii")))
    return headers


_TRACEPARENT_MARK: Final = b"\ntraceparent:"


def _child(unit: work.Work) -> str:
    """Return a ``traceparent`` for a new step of *unit*."""
    span_id = correlation.new_span_id()
    if work.detail_wanted:
        _span_id.set(span_id)
    if unit.inbound is not None:
        return str(unit.inbound._replace(parent_id=span_id))
    # Sampled: somebody who traces further down should not be switched off by our not tracing.
    return f"00-{unit.trace_id}-{span_id}-01"


def host_of(url: object) -> str:
    """Return the host of *url*, without credentials and port; ``unknown`` if it has none."""
    text = url.decode("latin-1") if isinstance(url, bytes) else str(url)
    # All URLs of one service share what stands before the path: that much is parsed once.
    origin = text[: text.find("/", len("https://"))] if text.count("/") > 2 else text  # noqa: PLR2004
    host = _hosts.get(origin)
    if host is None:
        if len(_hosts) >= HOSTS_KEPT:
            _hosts.clear()
        host = _hosts[origin] = _parsed_host(origin)
    return host


def _parsed_host(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or UNKNOWN_HOST
    except ValueError:
        return UNKNOWN_HOST


HOSTS_KEPT: Final = 1000
_hosts: dict[str, str] = {}
