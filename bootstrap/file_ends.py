"""The two ends of a file, so much of it and no more, whatever the file turns out to be."""

from __future__ import annotations

import os


def beginning(path: str, size: int) -> bytes:
    """Return the first *size* bytes of a file; empty if it cannot be read."""
    return _read(path, 0, size)


def ending(path: str, size: int) -> bytes:
    """Return the last *size* bytes of a file; empty if it cannot be read."""
    return _read(path, -size, size)


def _read(path: str, start: int, size: int) -> bytes:
    try:
        # A pipe would make us wait, or lose what somebody else is to read.
        if not os.path.isfile(path):
            return b""
        with open(path, "rb") as file:
            if start < 0:
                file.seek(max(os.fstat(file.fileno()).st_size + start, 0))
            return file.read(size)
    except (OSError, ValueError):  # it may be executed and not read; there is a NUL in its name
        return b""
