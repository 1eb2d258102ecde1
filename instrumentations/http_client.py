"""Time HTTP calls made with http.client, which urllib and many others ride on, and send the ID on.

The correlation headers are added here for requests and urllib3, too: at this level every hop of a
redirect is a request of its own with a host of its own, the caller's dictionaries are long since
copied, and what has been signed is plain to see.

A call by urllib is counted where its opener is asked, so that its redirects are part of it.
"""

from __future__ import annotations

from time import perf_counter as clock
from typing import Any
from urllib.parse import unwrap

from introspect.agent import correlation, outgoing
from introspect.agent.patching import timed
from introspect.agent.wrappers import PASS

# When the request was sent and to whom, kept on the connection until the answer is there, if the
# call is counted here.
_STARTED = "_introspect_started"


def headers_complete(args: Any, _kwargs: Any) -> Any:
    """Send the correlation headers along; note time and host, unless a library further out does."""
    connection = args[0]
    # The request so far, a list of lines as bytes: private, and the same since Python 2.
    lines = connection._buffer  # noqa: SLF001
    if not lines:
        return PASS
    is_in_call = outgoing.is_in_call.get()
    host = None
    if not is_in_call or correlation.policy.hosts is not None:
        host = _destination(connection, lines[0])
    # Not by `putheader`, which checks what is known to be good: 2 µs each.
    outgoing.add_headers(lines, host)
    if is_in_call:
        return PASS
    connection.__dict__[_STARTED] = (clock(), host)
    return None


def _destination(connection: Any, request_line: bytes) -> str:
    """Return the host that the request is meant for: through a proxy not the connection's."""
    tunnel = getattr(connection, "_tunnel_host", None)
    if tunnel:
        return outgoing.bare_host(tunnel)
    if request_line.find(b"://") > 0:
        target = request_line.split(b" ")[1]
        if not target.startswith(b"/"):
            return outgoing.host_of(target)
    return outgoing.bare_host(connection.host)


def headers_sent(
    _token: None, _started: float, ended: float, args: Any, _kwargs: Any, _result: Any, error: Any
) -> None:
    """Record a call that failed before its answer: the connection is made here."""
    if error is not None:
        answered(0.0, ended, args, {}, None, error)


def answered(
    _started: float, ended: float, args: Any, _kwargs: Any, result: Any, error: Any
) -> None:
    """Record one call."""
    noted = args[0].__dict__.pop(_STARTED, None)
    if noted is not None:
        started, host = noted
        outgoing.record(host, started, ended, None if result is None else result.status, error)


def opening(args: Any, kwargs: Any) -> Any:
    """Note the host that urllib is asked for, unless a library further out counts the call.

    By hand what ``outermost`` does for others: within the opening of a file, which is no call,
    the calls of others are not to be hidden.
    """
    if outgoing.is_in_call.get():
        return PASS
    asked = args[1] if len(args) > 1 else kwargs.get("fullurl")
    # Without spaces and <URL:…> around it, as urllib has it.
    url = unwrap(asked if isinstance(asked, str) else getattr(asked, "full_url", ""))
    if url.partition(":")[0].lower() not in ("http", "https"):
        return PASS
    return outgoing.host_of(url), outgoing.is_in_call.set(True)


def opened(
    noted: Any, started: float, ended: float, _args: Any, _kwargs: Any, result: Any, error: Any
) -> None:
    """Record one call of an opener."""
    host, token = noted
    outgoing.is_in_call.reset(token)
    outgoing.record(host, started, ended, *_outcome(result, error))


def _outcome(result: Any, error: Any) -> tuple[int | None, BaseException | None]:
    """Return status and error of a call: urllib raises statuses as well, and wraps errors."""
    if error is None:
        return getattr(result, "status", None), None
    from urllib.error import HTTPError, URLError  # which urllib.request has imported long since

    if isinstance(error, HTTPError):
        return error.code, None
    if isinstance(error, URLError) and isinstance(error.reason, BaseException):
        return None, error.reason
    return None, error


PATCHES = (
    timed("urllib.request:OpenerDirector.open", before=opening, after=opened),
    timed("http.client:HTTPConnection.endheaders", before=headers_complete, after=headers_sent),
    timed(
        "http.client:HTTPConnection.getresponse",
        after=answered,
        outermost=outgoing.is_in_call,
    ),
)
