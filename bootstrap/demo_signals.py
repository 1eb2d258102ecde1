"""Signals that ask the demonstration to end, taken where that leaves nothing behind."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from typing_extensions import Self


class Interrupted(BaseException):
    """A signal asks us to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Signals:
    """Turns the first signal to end into ``Interrupted``, where that leaves nothing behind."""

    def __init__(self) -> None:
        self._held = False
        self._pending = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup and a shell's `&` have some ignored, and mean it.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Wait with a signal until the block is left: a process started must get its name."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._pending:
            self._interrupt(self._pending)

    def ignore(self) -> None:
        """Ignore all further ones: the tidying has begun."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        if self._held:
            self._pending = number
        else:
            self._interrupt(number)

    def _interrupt(self, number: int) -> None:
        self.ignore()
        raise Interrupted(number)
