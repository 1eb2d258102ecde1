"""What an application sees of an exception, to compare a run with the agent to one without."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_ADDRESS = re.compile(r"0x[0-9a-f]+")

Seen = list[tuple[type[BaseException], str, bool]]


def raised(action: Callable[[], Any]) -> Seen:
    """Return class and arguments of what `action` raises, and of each exception that it came from."""
    try:
        result = action()
    except Exception as error:
        return _with_origins(error)
    raise AssertionError(f"nothing was raised: {result!r}")


def _with_origins(error: BaseException | None) -> Seen:
    found: Seen = []
    while error is not None:
        shown = _ADDRESS.sub("0x…", repr(error.args))
        found.append((type(error), shown, error.__suppress_context__))
        error = error.__cause__ or error.__context__
    return found
