"""Time HTTP calls made with http.client, which urllib and many others ride on, and send the ID on.

The correlation headers are added here for requests and urllib3, too: at this level every hop of a
redirect is a request of its own with a host of its own, the caller's dictionaries are long since
copied, and what has been signed is plain to see.
"""

from __future__ import annotations

from time import perf_counter as clock
from typing import Any

from introspect.agent import outgoing
from introspect.agent.patching import noticed, timed

# Authorisation by a signature over the headers (AWS and those alike): one more would break it.
_SIGNED = (b"\nauthorization: aws4-", b"\nauthorization: aws ", b"\nauthorization: signature ",
           b"\nauthorization: hmac", b"\nauthorization: goog4-", b"\nauthorization: tc3-",
           b"\nauthorization: sharedkey", b"\nsignature-input:")  # fmt: skip

# When the request line was written and to whom, kept on the connection until the answer is there.
_STARTED = "_introspect_started"


def request_started(args: Any, kwargs: Any) -> None:
    """Note time and host, unless a library further out counts this call."""
    if not outgoing.is_entered():
        url = args[2] if len(args) > 2 else kwargs.get("url")  # noqa: PLR2004  (self, method, url)
        args[0].__dict__[_STARTED] = (clock(), _destination(args[0], url))


def headers_complete(args: Any, _kwargs: Any) -> None:
    """Add the correlation headers that are not there, unless the request has been signed."""
    connection = args[0]
    # The request so far, a list of lines as bytes: private, and the same since Python 2.
    lines = connection._buffer  # noqa: SLF001
    if not lines:
        return
    words = lines[0].split(b" ")
    headers = outgoing.headers_for(_destination(connection, words[1] if len(words) > 1 else None))
    if not headers:
        return
    present = b"\n".join(lines).lower()
    if any(signed in present for signed in _SIGNED):
        return
    for name, value in headers:
        if f"\n{name.lower()}:".encode("ascii") not in present:
            # Not by `putheader`, which checks what is known to be good: 2 µs each.
            lines.append(f"{name}: {value}".encode("ascii"))


def _destination(connection: Any, url: Any) -> str:
    """Return the host that the request is meant for: through a proxy not the connection's."""
    tunnel = getattr(connection, "_tunnel_host", None)
    if tunnel:
        return str(tunnel).lower()
    if isinstance(url, bytes):
        url = url.decode("latin-1")
    if isinstance(url, str) and not url.startswith("/") and "://" in url:
        return outgoing.host_of(url)
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
    noticed("http.client:HTTPConnection.putrequest", request_started),
    timed("http.client:HTTPConnection.endheaders", before=headers_complete, after=headers_sent),
    timed("http.client:HTTPConnection.getresponse", after=answered),
)
