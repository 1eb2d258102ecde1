"""Outgoing HTTP calls: which of several stacked libraries counts one, and what is sent along."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Final
from urllib.parse import urlsplit

from introspect.agent import correlation, work
from introspect.agent.metrics import COUNTER, TIMER, Metric

CALL = Metric(
    "http",
    TIMER,
    "ms",
    ("host",),
    "each outgoing call, redirects included; outermost library only",
    area="http",
)
STATUS = Metric("http.status", COUNTER, "", ("host", "status"), "answers of other services")
ERROR = Metric("http.error", COUNTER, "", ("host", "class"), "outgoing calls without an answer")

UNKNOWN_HOST: Final = "unknown"

is_in_call: ContextVar[bool] = ContextVar("introspect_in_call", default=False)
"""Whether a library further out counts what this context is doing now as its own call.

What every library's patch names as its ``outermost``."""

# The span that the latest outgoing `traceparent` of this context named.
_span_id: ContextVar[str | None] = ContextVar("introspect_span_id", default=None)


def record(
    host: str, started: float, ended: float, status: int | None, error: BaseException | None
) -> None:
    """Record one call that was answered with *status* or ended in *error*."""
    unit = _current()
    detail = None
    if work.detail_wanted:
        detail = work.Call(_span_id.get(), status, type(error).__name__ if error else None)
        _span_id.set(None)
    samples = unit.samples
    samples.extend((_call_series[(host,)], started, ended, detail))
    if error is not None:
        unit.count(ERROR.of(host, type(error).__name__))
    elif status is not None:
        unit.counts.extend((_status_series[host, status], 1))
    if len(samples) > work.ITEMS_HELD:
        unit.overflow()


_current = work.current.get
_call_series = CALL.series
_status_series = STATUS.series

# Authorisation by a signature over the headers (AWS and those alike): one more would break it.
_SIGNED = re.compile(rb"\nauthorization: (?:aws4-|aws |signature|hmac|goog4-|tc3-|sharedkey)")


def add_headers(request: list[bytes], host: str | None) -> None:
    """Add the correlation headers that are not there to a *request*, unless it is signed.

    *request* is its lines so far, the request line first, without line ends; *host* is whom it goes
    to, which may be ``None`` where the policy asks for none. Each request is a step of its own in
    the trace: its ``traceparent`` names a new span.
    """
    unit = _current()
    if unit.finished or unit.correlation_id == correlation.NONE or unit is work.process():
        return
    policy = correlation.policy
    if policy.hosts is not None and not policy.may_send_to(host or UNKNOWN_HOST):
        return
    present = b"\n".join(request).lower()
    # Nearly every request has none of these. (To ask whether bytes are `in` bytes, Python raises an
    # exception and catches it.)
    found = set(policy.of_concern.findall(present))
    if found and (b"signature-input" in found or _SIGNED.search(present)):
        return
    if policy.header is not None and policy.header_bytes not in found:
        request.append(f"{policy.header}: {unit.correlation_id}".encode("ascii"))
    if policy.sends_traceparent and b"traceparent" not in found:
        span_id = unit.next_span_id()
        if work.detail_wanted:
            _span_id.set(span_id)
        request.append(f"traceparent: {unit.traceparent(span_id)}".encode("ascii"))


def host_of(url: object) -> str:
    """Return the host of *url*, without credentials and port; ``unknown`` if it has none."""
    text = url if type(url) is str else _text(url)
    # All URLs of one service share what stands before the path: that much is parsed once.
    end = text.find("/", text.find("://") + 3)
    origin = text[:end] if end > 0 else text
    host = _hosts.get(origin)
    if host is None:
        if len(_hosts) >= HOSTS_KEPT:
            _hosts.clear()
        host = _hosts[origin] = _parsed_host(origin)
    return host


def bare_host(host: object) -> str:
    """Return the *host* of a connection in lower case, without credentials left in its place."""
    return str(host or "").rpartition("@")[2].lower() or UNKNOWN_HOST


def _text(url: object) -> str:
    return url.decode("latin-1") if isinstance(url, bytes) else str(url)


def _parsed_host(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or UNKNOWN_HOST
    except ValueError:
        return UNKNOWN_HOST


HOSTS_KEPT: Final = 1000
_hosts: dict[str, str] = {}
