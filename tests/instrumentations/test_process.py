"""Readings of the process ride along with units of work, at most every ten seconds."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from introspect.agent import work
from introspect.agent.correlation import Inbound
from tests.instrumentations.conftest import Agent


def end_a_unit() -> None:
    """End one unit of work now."""
    unit = work.Work(Inbound("a-correlation-id"))
    unit.finish()
    unit.send(time.perf_counter())


@pytest.fixture
def readings(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """The agent, about to take its first readings."""
    monkeypatch.setattr(work, "_next_readings", 0.0)
    return agent


class TestReadings:
    """What is read, and when."""

    def test_a_unit_carries_the_readings(self, readings: Agent) -> None:
        """Memory, threads and descriptors are those that the system shows for this process."""
        itself = psutil.Process()
        end_a_unit()

        assert readings.values("process.rss") == [pytest.approx(itself.memory_info().rss, rel=0.2)]
        assert readings.values("process.threads") == [itself.num_threads()]
        assert readings.values("process.fds") == [pytest.approx(itself.num_fds(), abs=5)]

    def test_ten_seconds_pass_between_readings(self, readings: Agent) -> None:
        """Units that end sooner carry none."""
        end_a_unit()
        end_a_unit()

        assert len(readings.values("process.rss")) == 1

    def test_cpu_is_that_since_the_last_reading(
        self, readings: Agent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first reading tells no CPU; a second one after a busy time tells that time's."""
        end_a_unit()
        assert readings.values("process.cpu") == []
        monkeypatch.setattr(work, "_next_readings", 0.0)
        before, started = time.process_time(), time.perf_counter()
        while time.process_time() - before < 0.2:
            sum(range(1000))
        busy = 100 * (time.process_time() - before) / (time.perf_counter() - started)
        end_a_unit()

        (value,) = readings.values("process.cpu")
        assert 0 < value <= 100 * busy + 400
        assert value > 1

    def test_a_reader_that_fails_leaves_the_rest(
        self, readings: Agent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where one reading cannot be had, the others are, and the agent counts no error."""

        def no_descriptors(self: psutil.Process) -> int:
            raise psutil.AccessDenied

        monkeypatch.setattr(psutil.Process, "num_fds", no_descriptors)
        end_a_unit()

        assert readings.values("process.fds") == []
        assert len(readings.values("process.threads")) == 1

    def test_a_process_of_a_hostile_name(
        self, readings: Agent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Parentheses and spaces in the name, which stands before the numbers in /proc, shift none of them."""
        name = Path("/proc/self/comm")
        own = name.read_text()
        name.write_text(") S 1 (99")
        try:
            end_a_unit()
            time.sleep(0.05)  # of which the clock's step, 10 ms, is no large part
            monkeypatch.setattr(work, "_next_readings", 0.0)
            end_a_unit()
        finally:
            name.write_text(own)

        threads = psutil.Process().num_threads()
        assert readings.values("process.threads") == [threads, threads]
        (cpu,) = readings.values("process.cpu")
        assert 0 <= cpu < 10_000

    def test_without_proc(
        self, readings: Agent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Where there is no /proc the unit is sent as ever, what cannot be read is left out, and that is no error."""
        monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
        end_a_unit()
        monkeypatch.setattr(work, "_next_readings", 0.0)
        end_a_unit()

        assert readings.counts("process.") == {}
        assert readings.values("introspect.overhead")


def test_the_garbage_collector_is_left_alone(agent: Agent) -> None:
    """No callback of ours runs in a collection: it would swallow what a signal handler raises."""
    assert not [call for call in gc.callbacks if call.__module__.startswith("introspect")]


class TestFork:
    """A child reads itself, not its parent."""

    def test_a_forked_child_reads_its_own_process(self, readings: Agent) -> None:
        """The child's threads are its own: one, however many the parent has."""
        end_a_unit()
        readings.clear()
        stop = threading.Event()
        helper = threading.Thread(target=stop.wait)
        helper.start()
        try:
            child = _fork(_child_reads)
            os.waitpid(child, 0)
        finally:
            stop.set()
            helper.join()

        assert readings.values("process.threads") == [1]
        assert readings.values("process.cpu") == []  # a difference to the parent's would be none


def _child_reads() -> None:
    work._next_readings = 0.0
    end_a_unit()


def _fork(action: Callable[[], None]) -> int:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the point
        child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return child


def test_psutil_is_imported_with_the_first_reading_only() -> None:
    """Starting the agent in a Django process does not import psutil."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from introspect.bootstrap.start import start; start(); print('psutil' in sys.modules)",
        ],
        env={**os.environ, "INTROSPECT_STATSD": "off"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "False\n"
