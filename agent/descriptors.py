"""A file descriptor that is only used while it still is the file it was opened as."""

from __future__ import annotations

import os
from typing import Any, Final

_INODE_AND_DEVICE: Final = slice(1, 3)  # of a stat_result: taken at once, before each line


class Descriptor:
    """A descriptor number, and the file that it stood for when it became ours.

    A daemoniser or ``os.closerange`` may close it, and the next file opened, say the application's
    database connection, gets the same number: what we write would arrive there.
    """

    __slots__ = ("_file", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._file = os.fstat(number)[_INODE_AND_DEVICE]

    def is_ours(self) -> bool:
        """Tell whether the number still stands for our file."""
        try:
            return os.fstat(self.number)[_INODE_AND_DEVICE] == self._file
        except OSError:
            return False

    def is_file(self, path: str) -> bool:
        """Tell whether *path* names our file; log rotation renames it away."""
        try:
            return os.stat(path)[_INODE_AND_DEVICE] == self._file
        except OSError:
            return False

    def close(self) -> None:
        """Close it, unless it is somebody else's by now."""
        if self.is_ours():
            os.close(self.number)


class Connection:
    """A connected socket object that is only used, and only closed, while its number is ours.

    Any such object closes its number when it is freed, whatever that stands for by then.
    """

    __slots__ = ("_descriptor", "_pid", "socket")

    def __init__(self, sock: Any) -> None:
        self.socket = sock
        self._pid = os.getpid()
        self._descriptor = Descriptor(sock.fileno())

    def is_ours(self) -> bool:
        """Tell whether this process has opened it, and nobody has closed it since."""
        return self._pid == os.getpid() and self._descriptor.is_ours()

    def close(self) -> None:
        """Close it, or a fork's copy of it; if it is somebody else's by now, forget its number."""
        if self._descriptor.is_ours():
            self.socket.close()
        else:
            self.socket.detach()
