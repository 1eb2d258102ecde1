"""Time HTTP calls made with http.client, which urllib and many others ride on, and send the ID on.

The correlation headers are added here for requests and urllib3, too: at this level every hop of a
redirect is a request of its own with a host of its own, the caller's dictionaries are long since
copied, and what has been signed is plain to see.
"""

from __future__ import annotations

import re
from time import perf_counter as clock
from typing import Any

from introspect.agent import outgoing
from introspect.agent.patching import timed

# Authorisation by a signature over the headers (AWS and those alike): one more would break it.
_SIGNED = re.compile(rb"\nauthorization: (?:aws4-|aws |signature|hmac|goog4-|tc3-|sharedkey)")
_SIGNATURE = b"\nsignature-input:"

# When the request was sent and to whom, kept on the connection until the answer is there.
_STARTED = "_introspect_started"


def headers_complete(args: Any, _kwargs: Any) -> None:
    """Note time and host, and send the correlation headers along."""
    connection = args[0]
    # The request so far, a list of lines as bytes: private, and the same since Python 2.
    lines = connection._buffer  # noqa: SLF001
    if not lines:
        return
    host = _destination(connection, lines[0])
    if not outgoing.is_entered():
        connection.__dict__[_STARTED] = (clock(), host)
    headers = outgoing.headers_for(host)
    if headers:
        _add(headers, lines)


def _add(headers: list[outgoing.Header], lines: list[bytes]) -> None:
    """Add the *headers* that are not there to a request, unless it has been signed."""
    present = b"\n".join(lines).lower()
    if b"\nauthorization:" in present and _SIGNED.search(present):
        return
    if _SIGNATURE in present:
        return
    # Not by `putheader`, which checks what is known to be good: 2 µs each.
    lines += [header.line for header in headers if header.mark not in present]


def _destination(connection: Any, request_line: bytes) -> str:
    """Return the host that the request is meant for: through a proxy not the connection's."""
    tunnel = getattr(connection, "_tunnel_host", None)
    if tunnel:
        return str(tunnel).lower()
    if b"://" in request_line:
        target = request_line.split(b" ")[1]
        if not target.startswith(b"/"):
            return outgoing.host_of(target)
    return str(connection.host or outgoing.UNKNOWN_HOST).lower()


def headers_sent(
    _token: None, _started: float, ended: float, args: Any, _kwargs: Any, _result: Any, error: Any
) -> None:
    """Record a call that failed before its answer: the connection is made here."""
    if error is not None:
        _record(args[0], ended, None, error)


def answered(
    _started: float, ended: float, args: Any, _kwargs: Any, result: Any, error: Any
) -> None:
    """Record one call."""
    _record(args[0], ended, None if result is None else result.status, error)


def _record(connection: Any, ended: float, status: int | None, error: Any) -> None:
    noted = connection.__dict__.pop(_STARTED, None)
    if noted is not None:
        started, host = noted
        outgoing.record(host, started, ended, status, error)


PATCHES = (
    timed("http.client:HTTPConnection.endheaders", before=headers_complete, after=headers_sent),
    timed("http.client:HTTPConnection.getresponse", after=answered),
)
