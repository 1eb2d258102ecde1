"""Let a thread belong to the unit of work that started it."""

from __future__ import annotations

from typing import Any

from introspect.agent import work
from introspect.agent.patching import noticed


def thread_starts(args: Any, _kwargs: Any) -> None:
    """Make *run* of a thread about to start begin in the starter's unit of work."""
    thread = args[0]
    unit = work.active()
    if unit is None or thread.ident is not None or "run" in thread.__dict__:
        return
    run = thread.run

    def run_in_unit() -> None:
        # Gone from the instance before the thread's own code runs: nothing of ours is left on it,
        # and no reference cycle.
        thread.__dict__.pop("run", None)
        work.current.set(unit)
        run()

    thread.run = run_in_unit


PATCHES = (noticed("threading:Thread.start", thread_starts),)
