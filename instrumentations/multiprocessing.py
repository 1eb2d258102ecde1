"""Let a process that multiprocessing starts anew have the correlation ID of who started it.

By ``spawn`` and ``forkserver``, that is: a fork takes the ID along by itself, on log lines alone,
and so it is here. The workers of a pool serve many, and a command that one runs is no part of what
happened to need the pool first.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from introspect.agent import correlation, work
from introspect.agent.patching import amended, noticed

if TYPE_CHECKING:
    from introspect.agent.settings import Settings

# What a child prepares itself by is a dictionary, of which it takes what it knows.
_KEY = "introspect_correlation_id"


def configure(_settings: Settings) -> None:
    """Take the ID of a child that prepares itself already.

    That is what imports its main module, and thereby Django, with which the agent starts.
    """
    frame = sys._getframe()  # noqa: SLF001
    while frame is not None:
        if frame.f_code.co_name == "_main" and (
            frame.f_globals.get("__name__") == "multiprocessing.spawn"
        ):
            _take_id(frame.f_locals.get("preparation_data"))
            return
        frame = frame.f_back  # type: ignore[assignment]


def preparation_made(_args: Any, _kwargs: Any, result: Any) -> Any:
    """Add the ID of the current unit to what the child is told."""
    unit = work.active()
    return result if unit is None else {**result, _KEY: unit.correlation_id}


def child_prepares(args: Any, _kwargs: Any) -> None:
    """Take the ID, in a child of a fork server that has imported Django."""
    _take_id(args[0])


def _take_id(told: Any) -> None:
    given = told.get(_KEY) if type(told) is dict else None
    if given is not None and correlation.is_valid(given):
        work.process().correlation_id = given


PATCHES = (
    amended("multiprocessing.spawn:get_preparation_data", preparation_made),
    noticed("multiprocessing.spawn:prepare", child_prepares),
)
