"""Whatever goes wrong in our code stays in our code: it is counted, said once, and survived."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS_BETWEEN_REPEATS = 3600.0

_said: dict[str, float] = {}
_debug = False
_observer: Callable[[], None] | None = None


def configure(*, debug: bool, on_error: Callable[[], None] | None = None) -> None:
    """Set whether the agent explains itself, and who counts what ``swallow`` swallowed."""
    global _debug, _observer
    _debug = debug
    _observer = on_error
    _said.clear()


def swallow(place: object) -> None:
    """Count and report the exception being handled, which our code at *place* has raised.

    Called inside an ``except`` block. Never raises. A traceback is printed in debug mode, one line
    an hour for each place otherwise.
    """
    try:
        if _observer is not None:
            _observer()
        name = getattr(place, "__qualname__", None) or str(place)
        module = getattr(place, "__module__", None)
        where = f"{module}.{name}" if module else name
        if _debug:
            debug(f"{where} failed:\n{_formatted_exception()}")
        else:
            error = sys.exc_info()[1]
            say(
                f"error:{where}",
                f"{where} failed with {type(error).__name__}: {error}; the application goes on, "
                "this measurement is lost (INTROSPECT_DEBUG=1 prints the traceback)",
            )
    except Exception:  # reporting is the last thing that may fail, and nobody is left to tell
        pass


def say(subject: str, message: str) -> None:
    """Write one line to standard error, at most once an hour for each *subject*. Never raises."""
    now = time.monotonic()
    last = _said.get(subject)
    if last is not None and now - last < SECONDS_BETWEEN_REPEATS:
        return
    if len(_said) > 1000:  # noqa: PLR2004  subjects are few; this bound is for the unforeseen
        _said.clear()
    _said[subject] = now
    _write(message)


def debug(message: str) -> None:
    """Write a line to standard error if ``INTROSPECT_DEBUG`` is on. Never raises."""
    if _debug:
        _write(message)


def _write(message: str) -> None:
    # At interpreter exit and in daemons standard error may be None, closed or full.
    try:
        sys.stderr.write(f"introspect: {message}\n")
        sys.stderr.flush()
    except Exception:
        pass


def _formatted_exception() -> str:
    import traceback

    return traceback.format_exc()
