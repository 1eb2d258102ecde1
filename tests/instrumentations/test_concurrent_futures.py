"""What a thread pool runs belongs to the unit that submitted it, and the pool's threads to none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from introspect.agent import work
from introspect.agent.correlation import Inbound
from tests.instrumentations.conftest import Agent


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """A pool of one thread."""
    with ThreadPoolExecutor(1) as made:
        yield made


def enter(name: str) -> None:
    """Begin a unit of work."""
    work.current.set(work.Work(Inbound(name)))


def test_tasks_have_the_id_of_who_submitted_them(agent: Agent, pool: ThreadPoolExecutor) -> None:
    """One thread of a pool runs tasks of several units, each under its own ID."""
    for name in ("first-0001", "second-0001"):
        enter(name)
        assert pool.submit(work.correlation_id).result() == name
        assert list(pool.map(lambda _: work.correlation_id(), range(3))) == [name] * 3
    work.leave()
    assert pool.submit(work.correlation_id).result() == "-"


def test_a_pools_thread_keeps_no_unit(agent: Agent, pool: ThreadPoolExecutor) -> None:
    """Between tasks the pool's thread is in no unit, not even in that which had it started."""
    enter("first-0001")
    left: list[str] = []
    pool.submit(int).result()
    # A callback runs in the pool's thread, behind the task.
    go = threading.Event()
    future = pool.submit(go.wait, 30)
    future.add_done_callback(lambda _: left.append(work.correlation_id()))
    go.set()
    pool.shutdown()

    assert left == ["-"]


def test_results_errors_and_arguments(agent: Agent, pool: ThreadPoolExecutor) -> None:
    """Arguments, results and exceptions pass as they are; a mistaken call raises what it raised."""
    enter("first-0001")
    assert pool.submit(divmod, 7, 3).result() == (2, 1)
    assert pool.submit(dict, a=1, fn=2).result() == {"a": 1, "fn": 2}
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()
    with pytest.raises(TypeError, match="submit"):
        pool.submit()  # type: ignore[call-arg]


def test_executors_of_an_event_loop(agent: Agent) -> None:
    """`run_in_executor` and `to_thread` carry the ID as well."""

    async def both() -> list[str]:
        loop = asyncio.get_running_loop()
        return [
            await loop.run_in_executor(None, work.correlation_id),
            await asyncio.to_thread(work.correlation_id),
        ]

    enter("first-0001")
    assert asyncio.run(both()) == ["first-0001"] * 2
