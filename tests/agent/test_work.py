"""The unit of work: everything once, in one datagram, from the process that did it."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from introspect.agent import emitter, work
from introspect.agent.metrics import COUNTER, TIMER, Metric
from introspect.agent.settings import statsd_address
from introspect.agent.work import SAMPLES_HELD, Work
from tests.helpers.processes import clean_environment
from tests.helpers.statsd import StatsdListener
from tests.helpers.threads import run_at_once

Declare = Callable[..., Metric]

# Of calls made within calls: a name, and the calls that are made by that one.
CALL_TREES: Any = st.recursive(
    st.tuples(st.sampled_from(["query", "other"]), st.just([])),
    lambda calls: st.tuples(
        st.sampled_from(["connect", "template", "other"]), st.lists(calls, max_size=4)
    ),
    max_leaves=20,
)


@pytest.fixture
def sending(statsd: StatsdListener) -> StatsdListener:
    """What is measured goes to this listener."""
    emitter.configure(statsd_address(statsd.address))
    return statsd


@pytest.fixture
def unit(sending: StatsdListener) -> Work:
    """A current unit of work."""
    unit = Work()
    work.current.set(unit)
    return unit


def run(code: str, address: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter whose measurements go to `address`."""
    first = (
        "import os, sys, time\n"
        "from introspect.agent import emitter, metrics, work\n"
        "from introspect.agent.settings import read\n"
        f"found = read({{'INTROSPECT_STATSD': {address!r}, 'INTROSPECT_SERVICE': 's'}})[0]\n"
        "metrics.configure(found); emitter.configure(found.statsd)\n"
        "THING = metrics.Metric('thing', 'timer', 'ms', ('name',), '', area='thing')\n"
        "COUNT = metrics.Metric('count', 'counter', '', (), '')\n"
        "def event(name='a'): work.record(THING.of(name), 1.0, 1.001)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", first + code],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def held_by_the_process() -> int:
    """Return how many samples wait outside any unit."""
    return len(work.process()._held) // work.SAMPLE_ITEMS


class TestUnit:
    """One unit of work."""

    def test_one_datagram(self, unit: Work, sending: StatsdListener, declare: Declare) -> None:
        """What a unit has measured leaves in one datagram, when it ends."""
        thing, counted = declare("thing", TIMER, "name"), declare("counted", COUNTER)
        for number in range(30):
            work.record(thing.of(f"n{number}"), 1.0, 1.5, None)
        work.count(counted.of())
        work.count(counted.of(), 4)
        sending.settle(0.1)
        assert sending.datagrams == []
        unit.send(work.clock())
        sending.wait_for_count("django.counted", 5)

        assert len(sending.datagrams) == 1
        assert len(sending.lines) == 32

    def test_totals(self, unit: Work, declare: Declare) -> None:
        """An area's total is the time of all its samples, and the number of those of its own metric."""
        calls, others = declare("area", area="area"), declare("area.commit", area="area")
        work.record(calls.of(), 1.0, 1.25)
        work.record(calls.of(), 2.0, 2.25)
        work.record(others.of(), 3.0, 3.5)
        work.record(declare("elsewhere").of(), 4.0, 9.0)
        unit.settle()

        assert (unit.calls["area"], unit.seconds["area"]) == (2, 1.0)
        assert unit.calls.keys() == unit.seconds.keys() == {"area"}

    def test_what_encloses_others(self, unit: Work, declare: Declare) -> None:
        """An enclosing call's time holds that of the calls inside of it, and is added once."""
        outer = declare("area", area="area", encloses=True)
        inner = declare("area.inner", area="area")
        work.record(inner.of(), 1.0, 2.0)
        work.record(inner.of(), 3.5, 4.0)
        work.record(outer.of(), 3.0, 5.0)
        work.record(outer.of(), 2.5, 6.0)
        work.record(inner.of(), 7.0, 7.5)
        unit.settle()

        assert unit.seconds["area"] == 1.0 + 3.5 + 0.5
        assert unit.calls["area"] == 2

    def test_what_encloses_what_has_been_sent(self, unit: Work, declare: Declare) -> None:
        """Also where the calls inside of it have left already, with a unit that sends as it goes."""
        outer = declare("area", area="area", encloses=True)
        inner = declare("area.inner", area="area")
        work.record(inner.of(), 1.0, 2.0)
        work.record(inner.of(), 4.0, 4.5)
        unit.overflow()
        work.record(inner.of(), 5.0, 6.0)
        unit.overflow()
        work.record(outer.of(), 3.0, 7.0)
        unit.settle()

        assert unit.seconds["area"] == 1.0 + 4.0

    def test_calls_within_calls(self, declare: Declare) -> None:
        """However calls are nested, and whatever has left before, each second counts once."""
        metrics = {
            "query": declare("db", area="db"),
            "connect": declare("db.connect", area="db", encloses=True),
            "template": declare("template", area="template", encloses=True),
            "other": declare("other"),
        }

        @examples(max_examples=300, deadline=None)
        @given(st.lists(CALL_TREES, max_size=6), st.sets(st.integers(1, 30)))
        def check(trees: Any, overflows: set[int]) -> None:
            unit = Work()
            work.current.set(unit)
            expected = {"db": 0, "template": 0}
            numbers = {"db": 0, "template": 0}
            now = made = 0

            def make(name: str, calls: Any, areas_around: frozenset[str]) -> None:
                nonlocal now, made
                metric = metrics[name]
                began = now = now + 1
                around = areas_around | {metric.area} if metric.encloses else areas_around
                for call in calls:
                    make(*call, around)
                now += 1
                work.record(metric.of(), float(began), float(now))
                if metric.area and metric.area not in areas_around:
                    expected[metric.area] += now - began
                if metric.name in numbers:
                    numbers[metric.name] += 1
                made += 1
                if made in overflows:
                    unit.overflow()

            for tree in trees:
                make(*tree, frozenset())
            unit.settle()
            assert {area: unit.seconds.get(area, 0) for area in expected} == expected
            assert {area: unit.calls.get(area, 0) for area in numbers} == numbers

        check()

    def test_finished_once(self, unit: Work) -> None:
        """Of several who see the end, one may report it."""
        assert [unit.finish(), unit.finish(), unit.finish()] == [True, False, False]

    def test_muted(self, unit: Work, sending: StatsdListener, declare: Declare) -> None:
        """A muted unit measures and sends nothing."""
        unit.muted = True
        work.record(declare("thing").of(), 1.0, 2.0, None)
        unit.send(work.clock())
        sending.settle(0.2)

        assert sending.lines == []

    def test_after_the_end(self, unit: Work, sending: StatsdListener, declare: Declare) -> None:
        """What is measured after a unit's end belongs to the process."""
        unit.finish()
        work.record(declare("thing").of(), 1.0, 2.0, None)

        assert unit._held == []
        assert held_by_the_process() == 1

    def test_overhead_is_told_by_the_next(self, unit: Work, sending: StatsdListener) -> None:
        """What the end of a unit took us is told by the next one."""
        unit.send(work.clock())
        following = Work()
        following.send(work.clock())
        sending.wait_for_count("django.introspect.overhead", 1)

    def test_million_queries(self, statsd: StatsdListener) -> None:
        """A loop of a million calls in one unit sends as it goes, keeps its memory, and counts right."""
        code = (
            "import tracemalloc\n"
            "unit = work.Work(); work.current.set(unit); series = THING.of('a')\n"
            "def loop(calls):\n"
            "    for _ in range(calls): work.record(series, 1.0, 1.001)\n"
            "loop(20_000); tracemalloc.start(); loop(80_000)\n"
            "grown, peak = tracemalloc.get_traced_memory(); tracemalloc.stop()\n"
            "import time\n"
            # In portions that a socket of UDP's holds while a busy machine keeps its reader waiting.
            "for _ in range(90): loop(10_000); time.sleep(0.02)\n"
            "unit.settle(); unit.finish(); unit.send(work.clock())\n"
            "print(grown, peak, unit.calls['thing'])"
        )
        done = run(code, statsd.address)
        statsd.wait_for_count("s.thing.a", 1_000_000)
        statsd.settle()
        grown, peak, calls = map(int, done.stdout.split())

        assert statsd.count("s.thing.a") == calls == 1_000_000
        assert grown < 200_000
        assert peak < 600_000
        assert all(len(one) <= emitter.DATAGRAM_BYTES for one in statsd.datagrams)


class TestProcessBuffer:
    """What happens outside any unit."""

    def test_full(self, sending: StatsdListener, declare: Declare) -> None:
        """It is sent when it is full."""
        series = declare("thing").of()
        for _ in range(SAMPLES_HELD):
            work.record(series, 1.0, 2.0, None)
        sending.wait_for_count("django.thing", SAMPLES_HELD)

        assert held_by_the_process() == 0

    def test_a_second_later(self, sending: StatsdListener, declare: Declare) -> None:
        """It is sent at the first event after a second, and not before."""
        series = declare("thing").of()
        work.record(series, 1.0, 2.0, None)
        assert held_by_the_process() == 1
        work.process().flush_at -= work.SECONDS_BUFFERED
        work.count(declare("counted", COUNTER).of())
        sending.wait_for_count("django.counted", 1)

        assert sending.count("django.thing") == 1

    def test_at_exit(self, statsd: StatsdListener) -> None:
        """It is sent at exit, also when that is by an exception or sys.exit."""
        for ending in ("", "1/0", "sys.exit(3)"):
            run(f"event(); work.count(COUNT.of())\n{ending}", statsd.address)
        statsd.wait_for_count("s.thing.a", 3)
        statsd.settle()

        assert statsd.count("s.thing.a") == statsd.count("s.count") == 3

    def test_threads(self, sending: StatsdListener, declare: Declare) -> None:
        """Threads without a unit share it, and each event is sent exactly once."""
        thing, counted = declare("thing").of(), declare("counted", COUNTER).of()

        def events() -> None:
            for _ in range(5000):
                work.record(thing, 1.0, 1.001, None)
                work.count(counted)

        run_at_once(events, 6)
        work.process().flush()
        sending.wait_for_count("django.thing", 30_000)
        sending.settle()

        assert sending.count("django.thing") == 30_000
        assert sending.count("django.counted") == 30_000

    def test_event_inside_a_flush(self, sending: StatsdListener, declare: Declare) -> None:
        """An event that a garbage collection causes inside a flush neither waits nor sends twice."""
        series = declare("thing").of()
        with work.process().lock:
            work.record(series, 1.0, 2.0, None)
            began = work.clock()
            work.process().flush()
            waited = work.clock() - began
        work.process().flush()
        sending.wait_for_count("django.thing", 1)
        sending.settle()

        assert sending.count("django.thing") == 1
        assert waited < 1

    def test_errors_are_counted(self, unit: Work, sending: StatsdListener) -> None:
        """A swallowed exception is counted for the process, whatever unit it happened in."""
        work.count_error()
        work.process().flush()
        sending.wait_for_count("django.introspect.errors", 1)


class TestFork:
    """A child sends what it has measured itself, once."""

    def test_process_buffer(self, statsd: StatsdListener) -> None:
        """The parent's buffered events are the parent's."""
        code = (
            "event('parent')\nif os.fork() == 0: event('child')\nelse: os.wait(); event('parent')"
        )
        assert run(code, statsd.address).returncode == 0
        statsd.wait_for_count("s.thing.parent", 2)
        statsd.settle()

        assert statsd.count("s.thing.parent") == 2
        assert statsd.count("s.thing.child") == 1

    def test_child_of_a_child(self, statsd: StatsdListener) -> None:
        """So it goes on from child to child."""
        code = (
            "for level in range(3):\n"
            "    event(f'level{level}')\n"
            "    if os.fork(): os.wait(); break\n"
            "else: event('last')\n"
        )
        assert run(code, statsd.address).returncode == 0
        statsd.wait_for_count("s.thing.last", 1)
        statsd.settle()

        assert [statsd.count(f"s.thing.level{n}") for n in range(3)] == [1, 1, 1]

    @pytest.mark.parametrize("first", ["", "event('parent')"])
    def test_child_of_multiprocessing(self, statsd: StatsdListener, first: str) -> None:
        """A process that multiprocessing has forked sends its last second as well, though Python runs no exit hooks there."""
        code = (
            f"import multiprocessing\n{first}\n"
            "def child():\n"
            "    event('child'); work.count(COUNT.of())\n"
            "process = multiprocessing.get_context('fork').Process(target=child)\n"
            "process.start(); process.join(30); assert process.exitcode == 0\n"
        )
        assert run(code, statsd.address).returncode == 0
        statsd.wait_for_count("s.thing.child", 1)
        statsd.settle()

        assert statsd.count("s.thing.child") == statsd.count("s.count") == 1
        assert statsd.count("s.thing.parent") == bool(first)

    def test_unit(self, statsd: StatsdListener) -> None:
        """A unit that a fork has copied ends in the parent alone."""
        code = (
            "unit = work.Work(); work.current.set(unit); event('unit')\n"
            "child = os.fork() == 0\n"
            "if not child: os.wait()\n"
            "if unit.finish(): unit.send(work.clock())\n"
        )
        assert run(code, statsd.address).returncode == 0
        statsd.wait_for_count("s.thing.unit", 1)
        statsd.settle()

        assert statsd.count("s.thing.unit") == 1

    def test_child_that_works_on_inside_the_unit(self, statsd: StatsdListener) -> None:
        """A child that goes on inside its parent's unit sends what is its own, and nothing of the parent's."""
        code = (
            "unit = work.Work(); work.current.set(unit)\n"
            "for _ in range(10): event('parent')\n"
            "if os.fork() == 0:\n"
            "    for _ in range(2500): event('child')\n"
            "else:\n"
            "    os.wait(); unit.finish(); unit.send(work.clock())\n"
        )
        assert run(code, statsd.address).returncode == 0
        statsd.wait_for_count("s.thing.parent", 10)
        statsd.settle()

        assert statsd.count("s.thing.parent") == 10
        assert statsd.count("s.thing.child") == 2500

    def test_overhead(self, statsd: StatsdListener) -> None:
        """What the parent's latest unit has cost is told by the parent's next one, and by no child's."""
        code = (
            "def unit():\n"
            "    unit = work.Work(); unit.finish(); unit.send(work.clock())\n"
            "unit()\n"
            "if os.fork() == 0: unit(); event('child'); work.process().flush(); os._exit(0)\n"
            "os.wait(); unit()\n"
        )
        assert run(code, statsd.address).returncode == 0
        statsd.wait_for_count("s.thing.child", 1)
        statsd.wait_for_count("s.introspect.overhead", 1)
        statsd.settle()

        assert statsd.count("s.introspect.overhead") == 1

    def test_locks_that_are_held(self, statsd: StatsdListener) -> None:
        """Locks of ours that other threads of the parent hold are free in the child, which sends everything."""
        code = (
            "way = emitter._transport; event('parent'); work.process().flush()\n"
            "assert work.process().lock.acquire(False) and work._overflowing.acquire(False)\n"
            "assert way._opened.acquire(False)\n"
            "if os.fork() == 0:\n"
            "    unit = work.Work(); work.current.set(unit)\n"
            "    for _ in range(2500): event('unit')\n"
            "    held = len(unit.samples) // work.SAMPLE_ITEMS\n"
            "    if unit.finish(): unit.send(work.clock())\n"
            "    event('process'); work.process().flush()\n"
            "    os._exit(held >= 1500)\n"
            "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        )
        assert run(code, statsd.address).returncode == 0
        statsd.wait_for_count("s.thing.unit", 2500)
        statsd.wait_for_count("s.thing.process", 1)


class TestForkWithoutHooks:
    """uWSGI's own forks run no function that Python was asked to run at a fork."""

    FORK = "import ctypes; fork = ctypes.PyDLL(None).fork\n"

    @pytest.mark.parametrize(
        "first",
        ["event('child'); work.count(COUNT.of())", "work.count(COUNT.of()); event('child')"],
    )
    def test_process_buffer(self, first: str, statsd: StatsdListener) -> None:
        """The parent's buffered events are the parent's, whatever comes first in the child."""
        code = (
            f"{self.FORK}event('parent'); work.count(COUNT.of())\n"
            f"if fork() == 0: {first}\n"
            "else: os.wait(); event('parent')"
        )
        assert run(code, statsd.address).returncode == 0
        statsd.wait_for_count("s.thing.parent", 2)
        statsd.settle()

        assert statsd.count("s.thing.parent") == 2
        assert statsd.count("s.thing.child") == 1
        assert statsd.count("s.count") == 2

    def test_nothing_but_an_exit(self, statsd: StatsdListener) -> None:
        """A child that measures nothing sends nothing when it ends."""
        code = f"{self.FORK}event('parent')\nif fork(): os.wait()"
        assert run(code, statsd.address).returncode == 0
        statsd.wait_for_count("s.thing.parent", 1)
        statsd.settle()

        assert statsd.count("s.thing.parent") == 1

    def test_unit(self, statsd: StatsdListener) -> None:
        """A unit that a fork has copied ends in the parent alone."""
        code = (
            f"{self.FORK}unit = work.Work(); work.current.set(unit); event('unit')\n"
            "if fork(): os.wait()\n"
            "if unit.finish(): unit.send(work.clock())\n"
        )
        assert run(code, statsd.address).returncode == 0
        statsd.wait_for_count("s.thing.unit", 1)
        statsd.settle()

        assert statsd.count("s.thing.unit") == 1


def test_context_is_per_thread(unit: Work, sending: StatsdListener, declare: Declare) -> None:
    """A thread of its own is in no unit, one that runs in a copy of the context is in this one."""
    series = declare("thing").of()

    def event() -> None:
        work.record(series, 1.0, 2.0, None)

    for target, expected in ((event, 0), (contextvars.copy_context().run, 1)):
        thread = threading.Thread(target=target, args=(event,) if expected else ())
        thread.start()
        thread.join()

        assert len(unit.samples) == expected * work.SAMPLE_ITEMS


def test_no_thread_and_no_socket_before_the_first_send(declare: Declare) -> None:
    """Measuring opens nothing and starts nothing."""
    # Of other tests' threads some may end meanwhile.
    descriptors, threads = len(os.listdir("/proc/self/fd")), set(os.listdir("/proc/self/task"))
    work.record(declare("thing").of(), 1.0, 2.0, None)

    assert threads.issuperset(os.listdir("/proc/self/task"))
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_threads_of_one_unit_send_each_sample_once(
    unit: Work, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where several threads fill a unit beyond what it holds, nothing is sent twice or not at all."""
    series = declare("busy", TIMER).of()
    sent: list[int] = []
    monkeypatch.setattr(emitter, "send", lambda values: sent.append(len(values) // 2))

    def fill() -> None:
        for _ in range(20 * SAMPLES_HELD):
            work.record(series, 1.0, 1.5, None)

    run_at_once(fill, 6)
    unit.send(0.0)

    assert sum(sent) == 6 * 20 * SAMPLES_HELD


def test_threads_of_one_unit_lose_no_count(
    unit: Work, sending: StatsdListener, declare: Declare
) -> None:
    """What several threads of a unit count at the same time adds up, however long it goes on."""
    counted = declare("counted", COUNTER).of()

    def fill() -> None:
        for _ in range(5 * SAMPLES_HELD):
            work.count(counted)

    run_at_once(fill, 6)
    held = len(unit.counts)
    unit.send(0.0)
    sending.wait_for_count("django.counted", 6 * 5 * SAMPLES_HELD)
    sending.settle()

    assert sending.count("django.counted") == 6 * 5 * SAMPLES_HELD
    assert held < 2 * 2 * SAMPLES_HELD
