"""Threads belong to the unit of work that starts them."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from introspect.agent import work
from introspect.agent.correlation import Inbound
from tests.instrumentations.conftest import Agent


def ids_in(make: type[threading.Thread]) -> list[str]:
    """Return the ID that a new thread of a class has."""
    found: list[str] = []
    thread = make(target=lambda: found.append(work.correlation_id()))
    thread.start()
    thread.join()
    return found


def test_a_thread_has_the_id_of_its_starter(agent: Agent) -> None:
    """A thread started in a unit is a part of it, one started outside is not."""
    work.current.set(work.Work(Inbound("starter-0001")))
    assert ids_in(threading.Thread) == ["starter-0001"]

    work.leave()
    assert ids_in(threading.Thread) == ["-"]


def test_threads_of_threads_and_timers(agent: Agent) -> None:
    """So is a thread that such a thread starts, and a timer."""
    work.current.set(work.Work(Inbound("starter-0001")))
    found: list[str] = []
    timer = threading.Timer(0.01, lambda: found.extend(ids_in(threading.Thread)))
    timer.start()
    timer.join()

    assert found == ["starter-0001"]


class Own(threading.Thread):
    """A thread with a `run` of its own."""

    def run(self) -> None:
        """Do what was asked, and something else."""
        self.attributes = set(self.__dict__)
        super().run()


def test_subclasses_run_their_own_code(agent: Agent) -> None:
    """A subclass's `run` is called, and finds nothing of ours on its thread."""
    work.current.set(work.Work(Inbound("starter-0001")))
    assert ids_in(Own) == ["starter-0001"]

    thread = Own(target=int)
    thread.start()
    thread.join()
    assert "run" not in thread.attributes | set(thread.__dict__)


def test_a_thread_that_fails_and_one_that_is_started_twice(agent: Agent) -> None:
    """Errors are what they were: a second start raises, an exception goes to `threading.excepthook`."""
    work.current.set(work.Work(Inbound("starter-0001")))
    caught: list[type[BaseException] | None] = []
    hook, threading.excepthook = threading.excepthook, lambda args: caught.append(args.exc_type)
    try:
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    finally:
        threading.excepthook = hook

    assert caught == [ZeroDivisionError]
    with pytest.raises(RuntimeError, match="threads can only be started once"):
        thread.start()


def test_nothing_keeps_a_thread_or_a_unit_alive(agent: Agent) -> None:
    """A thread that has ended is freed at once, without the garbage collector."""
    work.current.set(work.Work(Inbound("starter-0001")))
    gc.disable()
    try:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        gone = weakref.ref(thread)
        del thread
        assert gone() is None
    finally:
        gc.enable()


def test_measurements_of_a_thread_count_for_the_unit(agent: Agent) -> None:
    """What a thread measures is in the totals of the unit that started it."""
    unit = work.Work(Inbound("starter-0001"))
    work.current.set(unit)
    from introspect.instrumentations.django_db import QUERY

    thread = threading.Thread(target=lambda: work.record(QUERY.of("a", "b"), 1.0, 2.0))
    thread.start()
    thread.join()
    unit.settle()

    assert unit.calls["db"] == 1
