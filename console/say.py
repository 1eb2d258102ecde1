"""What the console says about its own trouble: one line on stderr, at most once a minute each."""

from __future__ import annotations

import sys
import time

EVERY: float = 60
"""Seconds of silence about one kind of trouble after it was said."""


class Voice:
    """Says each kind of trouble at most once per ``EVERY``, and how often it was left unsaid."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def say(self, kind: str, message: str) -> None:
        """Print ``message`` unless the same ``kind`` was said a moment ago."""
        now = time.monotonic()
        if now - self._said.get(kind, -EVERY) < EVERY:
            self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
            return
        self._said[kind] = now
        unsaid = self._unsaid.pop(kind, 0)
        again = f" ({unsaid} times more since this was last said)" if unsaid else ""
        print_line(f"{message}{again}")


def print_line(message: str) -> None:
    """Print one line of ours to stderr, whatever its state."""
    try:
        sys.stderr.write(f"introspect console: {message}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass  # stderr is closed or gone: nobody is left to be told
