"""What is left to do before this process ends: at its exit, or ahead of a signal that it dies of.

Nothing is wrong without it; but what was under way would not be told, and what waits not be sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from introspect.agent import guard

if TYPE_CHECKING:
    from collections.abc import Callable

# In this order: the units that end write lines, which then have to leave.
UNITS: Final = 0
LINES: Final = 1

_steps: dict[Callable[[], None], int] = {}


def before_end(order: int, step: Callable[[], None]) -> None:
    """Run *step* before this process, or one that it forks, ends."""
    if not _steps:
        import atexit

        atexit.register(run)
    _steps[step] = order


def run() -> None:
    """Do what is left to do."""
    for step in sorted(_steps, key=_steps.__getitem__):
        try:
            step()
        except Exception:
            guard.swallow(step)
