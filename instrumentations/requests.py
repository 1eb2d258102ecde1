"""Time HTTP calls made with requests, redirects included."""

from __future__ import annotations

from typing import Any

from introspect.agent import outgoing
from introspect.agent.patching import timed


def call_ended(
    started: float, ended: float, args: Any, kwargs: Any, result: Any, error: Any
) -> None:
    """Record one ``Session.send``."""
    prepared = args[1] if len(args) > 1 else kwargs.get("request")
    # A Response is false when its status is 4xx or 5xx: compare with None, never test it.
    status = None if result is None else result.status_code
    host = outgoing.host_of(getattr(prepared, "url", None))  # anything may have been passed
    outgoing.record(host, started, ended, status, error)


PATCHES = (
    timed("requests.sessions:Session.send", after=call_ended, outermost=outgoing.is_in_call),
)
