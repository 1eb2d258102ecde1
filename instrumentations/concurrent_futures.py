"""Let what a thread pool runs belong to the unit of work that submitted it."""

from __future__ import annotations

from typing import Any

from introspect.agent import work
from introspect.agent.patching import rewriting


class Carried:
    """A callable that runs in the unit of work in which it was submitted.

    Also where that is none: a pool's thread was started by the unit that needed it first, and
    would stay in it for good.
    """

    __slots__ = ("_function", "_unit")

    def __init__(self, function: Any) -> None:
        self._function = function
        self._unit = work.active() or work.process()

    def __repr__(self) -> str:
        # Python 3.14 has it as a local variable of a frame that Django's error page shows.
        return repr(self._function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; afterwards the thread is in no unit."""
        __traceback_hide__ = True
        work.current.set(self._unit)
        try:
            return self._function(*args, **kwargs)
        finally:
            work.leave()


def submitted(args: Any, kwargs: Any) -> Any:
    """Replace the function submitted by one that carries the unit."""
    if len(args) < 2:  # noqa: PLR2004  (executor, function, …); anything else raises as it did
        return args, kwargs
    return (args[0], Carried(args[1]), *args[2:]), kwargs


PATCHES = (rewriting("concurrent.futures.thread:ThreadPoolExecutor.submit", submitted),)
