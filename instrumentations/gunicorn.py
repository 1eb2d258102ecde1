"""Let what gunicorn says between two requests belong to neither."""

from __future__ import annotations

from typing import Any

from introspect.agent import work
from introspect.agent.patching import timed


def request_handled(
    _started: float, _ended: float, _args: Any, _kwargs: Any, _result: Any, error: Any
) -> None:
    """Leave the unit of a request whose access line has been written.

    The next thing that this thread or greenlet reads may be no request at all. What gunicorn says
    of a request that failed comes later, and still belongs to it.
    """
    if error is None and work.current.get().finished:
        work.leave()


# The thread worker handles each request as a task of its pool, which leaves the unit by itself.
PATCHES = (
    timed("gunicorn.workers.sync:SyncWorker.handle_request", after=request_handled),
    timed("gunicorn.workers.base_async:AsyncWorker.handle_request", after=request_handled),
)
