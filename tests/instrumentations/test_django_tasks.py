"""Tasks of django.tasks: in their caller's unit of work where they run at once, else in their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("django.tasks", reason="django.tasks came with Django 6.0")

from django.tasks import task, task_backends

from introspect.agent import work
from introspect.agent.correlation import Inbound
from tests.instrumentations.conftest import Agent

ID = "9110dbba-6dd9-4d1c-8828-11be81ac0561"


def current_id() -> str:
    """Return the ID of the unit of work that this is called in, and its SQL comment."""
    unit = work.active()
    assert unit is not None
    return " ".join([unit.kind, *unit.comment_parts(("path", "id"))])


def failing() -> None:
    """Fail."""
    raise ValueError("failed on request")


async def waiting() -> str:
    """Wait, and tell."""
    await asyncio.sleep(0)
    return current_id()


class Request(work.Work):
    """Stands for a request: a unit with an ID."""

    kind = "request"


@pytest.fixture(autouse=True)
def _site(django: Callable[..., None]) -> None:
    django(TASKS={"default": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}})
    assert type(task_backends["default"]).__name__ == "ImmediateBackend"


def name_of(made: Any) -> str:
    """Return a task's name as a part of a metric's."""
    return str(made.module_path).replace(".", "_")


@pytest.mark.parametrize("kind", [Request, work.Command])
def test_enqueued_at_once(agent: Agent, kind: type[work.Work]) -> None:
    """A task that the immediate backend runs is timed, as a part of the request or command."""
    made = task(current_id)
    unit = kind(Inbound(ID), "x")
    work.current.set(unit)
    result = made.enqueue()

    assert result.return_value == f"{unit.kind} {ID}"
    assert work.current.get() is unit
    assert [series.values for series in unit._held[:: work.SAMPLE_ITEMS]] == [(made.module_path,)]
    unit._held.clear()


def test_outside_any_unit(agent: Agent) -> None:
    """A task has a unit of its own, with a new ID and its name in SQL comments, for that long."""
    made = task(current_id)
    told = {made.enqueue().return_value for _ in range(2)}

    assert len(told) == 2
    assert {text.rpartition(" ")[0] for text in told} == {f"task {made.module_path}"}
    assert work.current.get() is work.process()
    assert agent.counts("task") == {f"task.{name_of(made)}": 2}


def test_run_by_a_worker_that_is_a_command(agent: Agent) -> None:
    """What a worker runs is not the worker's: each task has its own ID, and the worker goes on."""
    worker = work.Command(Inbound(ID), "worker")
    work.current.set(worker)
    made = task(current_id)
    told = {made.call() for _ in range(2)}

    assert len(told) == 2
    assert not any(ID in text for text in told)
    assert work.current.get() is worker
    assert agent.counts("task") == {f"task.{name_of(made)}": 2}


def test_called_in_a_request(agent: Agent) -> None:
    """A task that a request calls itself is a part of the request."""
    unit = Request(Inbound(ID))
    work.current.set(unit)

    assert task(current_id).call() == f"request {ID}"


@pytest.mark.parametrize("call", [lambda made: made.call(), lambda made: asyncio.run(made.acall())])
def test_coroutine(agent: Agent, call: Callable[[Any], Any]) -> None:
    """A task that is a coroutine function is measured to its end, called in either way."""
    made = task(waiting)

    assert call(made).startswith(f"task {made.module_path} ")
    assert agent.counts("task") == {f"task.{name_of(made)}": 1}


def test_failure(agent: Agent) -> None:
    """A task that fails is counted, and fails as ever."""
    made = task(failing)
    result = made.enqueue()

    assert result.status == "FAILED"
    assert result.errors[0].exception_class is ValueError
    assert agent.counts("task") == {
        f"task.{name_of(made)}": 1,
        f"task.error.{name_of(made)}": 1,
    }
