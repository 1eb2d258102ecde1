"""What is left to do before this process ends: at its exit, or ahead of a signal that it dies of.

Nothing is wrong without it; but what was under way would not be told, and what waits not be sent.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from introspect.agent import guard

if TYPE_CHECKING:
    from collections.abc import Callable

# In this order: the units that end write lines, and lines that cannot leave are counted.
UNITS: Final = 0
LINES: Final = 1
COUNTS: Final = 2

# Those of multiprocessing's own, and of applications, are above; what they say is sent as well.
_FINALIZER_PRIORITY: Final = -1_000_000

_steps: dict[Callable[[], None], int] = {}
_is_told_of_children = False


def before_end(order: int, step: Callable[[], None]) -> None:
    """Run *step* before this process, or one that it forks, ends.

    It may run more than once: a process has several ways to its end, and may go on behind one.
    """
    is_first = not _steps
    _steps[step] = order
    if is_first:
        import atexit

        atexit.register(run)
        register_with_multiprocessing()


def run() -> None:
    """Do what is left to do."""
    for order in (UNITS, LINES, COUNTS):
        # Each time anew: a step may be the first to need one of a later order.
        for step in [step for step, its_order in list(_steps.items()) if its_order == order]:
            try:
                step()
            except Exception:
                guard.swallow(step)


def register_with_multiprocessing() -> None:
    """Let the children of multiprocessing, if the application has imported it, ``run`` as well.

    Those that are forked end by ``os._exit``: up to Python 3.12 without exit hooks, from 3.13 on
    without those of their parents. Its own finalizers run either way; each child drops those of its
    parent, and then calls what has been registered for after the fork. Also to be called in a child
    of any fork: the application may have imported it since.
    """
    global _is_told_of_children
    util = sys.modules.get("multiprocessing.util")
    if util is None or not _steps:
        return
    try:
        if not _is_told_of_children:
            util.register_after_fork(run, _run_at_the_end_of_child)
            _is_told_of_children = True
        if is_child_of_multiprocessing():
            _run_at_the_end_of_child(run)
    except Exception:  # half imported, by another thread: it has no children yet
        pass


def is_child_of_multiprocessing() -> bool:
    """Tell whether multiprocessing has started this process."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


def _run_at_the_end_of_child(step: Callable[[], None]) -> None:
    sys.modules["multiprocessing.util"].Finalize(None, step, exitpriority=_FINALIZER_PRIORITY)
