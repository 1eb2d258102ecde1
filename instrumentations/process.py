"""Read memory, CPU, threads and descriptors of the process.

The readings ride along with a unit of work that ends, at most every ten seconds in each process:
there is no thread. As several workers share one service's names, each reading is one value of a
distribution, not a gauge that the workers overwrite in turn.

Pauses of the garbage collector are not among them. They are to be had in ``gc.callbacks``, where
what a signal handler raises (a worker's ``SystemExit``, a deadline's exception) is printed and
lost. A signal that comes during a collection is handled in the first Python code behind it, which
would be our callback.
"""

from __future__ import annotations

import os
from time import perf_counter as clock
from typing import TYPE_CHECKING, Any

from introspect.agent import guard, work
from introspect.agent.metrics import DISTRIBUTION, Metric

if TYPE_CHECKING:
    from collections.abc import Callable

    from introspect.agent.patching import Patch
    from introspect.agent.settings import Settings

RSS = Metric("process.rss", DISTRIBUTION, "bytes", (), "resident memory of a worker")
CPU = Metric("process.cpu", DISTRIBUTION, "%", (), "CPU of a worker since its last reading")
THREADS = Metric("process.threads", DISTRIBUTION, "", (), "threads of a worker")
FDS = Metric("process.fds", DISTRIBUTION, "", (), "open file descriptors of a worker")

PATCHES: tuple[Patch, ...] = ()


def configure(_settings: Settings) -> None:
    """Let the readings ride along."""
    work.ride_along(Readings().take)


class Readings:
    """What is read, and what a difference is taken to; anew in each process."""

    def __init__(self) -> None:
        self._pid = 0
        self._process: Any = None
        self._cpu_seconds = 0.0
        self._read_at = 0.0
        self._readers: list[Callable[[work.Work], None]] = []

    def take(self, unit: work.Work) -> None:
        """Add the readings to *unit*; one that fails, as without /proc, is not tried again."""
        if self._pid != os.getpid():
            self._begin()
        for reader in tuple(self._readers):
            try:
                reader(unit)
            except Exception as error:
                self._readers.remove(reader)
                guard.debug(f"{reader.__name__} is not read any more: {error!r}")

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._read_at = 0.0
        self._readers = []
        try:
            import psutil

            self._process = psutil.Process()
        except Exception as error:  # no /proc at all
            guard.debug(f"the process cannot be read: {error!r}")
            return
        self._readers = [self._memory, self._cpu, self._threads, self._descriptors]

    def _memory(self, unit: work.Work) -> None:
        unit.value(RSS.of(), self._process.memory_info().rss)

    def _cpu(self, unit: work.Work) -> None:
        times = self._process.cpu_times()
        now, seconds = clock(), times.user + times.system
        if self._read_at:
            unit.value(CPU.of(), 100 * (seconds - self._cpu_seconds) / (now - self._read_at))
        self._read_at, self._cpu_seconds = now, seconds

    def _threads(self, unit: work.Work) -> None:
        unit.value(THREADS.of(), self._process.num_threads())

    def _descriptors(self, unit: work.Work) -> None:
        unit.value(FDS.of(), self._process.num_fds())
