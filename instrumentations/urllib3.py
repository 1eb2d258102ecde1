"""Time HTTP calls made with urllib3, retries and redirects included."""

from __future__ import annotations

from typing import Any

from introspect.agent import outgoing
from introspect.agent.patching import timed


def call_ended(
    started: float, ended: float, args: Any, kwargs: Any, result: Any, error: Any
) -> None:
    """Record one ``urlopen`` of a pool manager, or of a pool that is used without one."""
    status = None if result is None else result.status
    outgoing.record(_host(args, kwargs), started, ended, status, error)


def _host(args: Any, kwargs: Any) -> str:
    # A manager is given a whole URL, a pool a path; but through a plain HTTP proxy the pool is the
    # proxy's, and the URL says where the call goes.
    url = args[2] if len(args) > 2 else kwargs.get("url")  # noqa: PLR2004  (self, method, url)
    if isinstance(url, str) and not url.startswith("/"):
        return outgoing.host_of(url)
    return outgoing.bare_host(getattr(args[0], "host", None))


PATCHES = (
    # A manager asks a pool for each step of a redirect.
    timed(
        "urllib3.poolmanager:PoolManager.urlopen",
        after=call_ended,
        outermost=outgoing.is_in_call,
    ),
    timed(
        "urllib3.connectionpool:HTTPConnectionPool.urlopen",
        after=call_ended,
        outermost=outgoing.is_in_call,
    ),
)
