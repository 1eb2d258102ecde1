"""Time the tasks of django.tasks (Django 6.0), each in a unit of work of its own.

What a backend does with a task's message is its own affair, so the sender's correlation ID reaches
a task only where it runs at once, within the sender's unit of work.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from introspect.agent import correlation, tasks, work
from introspect.agent.correlation import Inbound
from introspect.agent.patching import timed

# A command that calls tasks may be their worker, unless they are those that it enqueues itself.
_is_immediate: ContextVar[bool] = ContextVar("introspect_is_immediate", default=False)


def enqueued_at_once(_args: Any, _kwargs: Any) -> Any:
    """Note that what is called from here on is a part of the current unit of work."""
    return _is_immediate.set(True)


def done_at_once(token: Any, *_details: Any) -> None:
    """Forget it."""
    _is_immediate.reset(token)


def task_starts(args: Any, _kwargs: Any) -> Any:
    """Begin a unit of work for ``Task.call(task, …)``; ``None`` within one."""
    name = args[0].module_path
    unit = work.active()
    if unit is not None and (_is_immediate.get() or unit.kind != "command"):
        return name, None
    return name, tasks.begin(tasks.Task(Inbound(correlation.new_id()), name))


def task_ended(
    begun: Any,
    started: float,
    ended: float,
    _args: Any,
    _kwargs: Any,
    _result: Any,
    error: BaseException | None,
) -> None:
    """End the unit, or record the call within another."""
    name, task = begun
    if task is None:
        tasks.record(name, started, ended, error)
    else:
        tasks.end(task, ended, error)


PATCHES = (
    timed(
        "django.tasks.backends.immediate:ImmediateBackend.enqueue",
        before=enqueued_at_once,
        after=done_at_once,
    ),
    timed("django.tasks.base:Task.call", before=task_starts, after=task_ended),
    timed("django.tasks.base:Task.acall", before=task_starts, after=task_ended),
)
