"""Tasks: each execution is a unit of work of its own, unless it is a call within another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from introspect.agent import work
from introspect.agent.metrics import COUNTER, TIMER, Metric

if TYPE_CHECKING:
    from introspect.agent.correlation import Inbound

TASK = Metric("task", TIMER, "ms", ("name",), "each execution of a task, retries each by itself")
ERROR = Metric("task.error", COUNTER, "", ("name",), "executions of tasks that failed")


class Task(work.Command):
    """The unit of work of one execution of a task."""

    kind = "task"

    def __init__(self, inbound: Inbound, name: str, told: dict[str, Any] | None = None) -> None:
        super().__init__(inbound, name)
        self.within: work.Work = work.current.get()
        """What was current before, and will be again: a worker, maybe one that is a command."""
        self.told = told or {}
        """What the canonical line says beside the name."""

    def describe(self) -> dict[str, Any]:
        """Return what the canonical line says of a task alone."""
        return {"name": self.name, **self.told}

    def comment_parts(self, parts: tuple[str, ...]) -> list[str]:
        """See ``Work.comment_parts``: a task's path is its name."""
        named = "path" in parts or "route" in parts or "view" in parts
        return [self.name, *super().comment_parts(parts)] if named else super().comment_parts(parts)


def begin(task: Task) -> Task:
    """Make *task* the current unit of work."""
    work.current.set(task)
    return task


def end(task: Task, ended: float, error: BaseException | None) -> None:
    """End *task*, which failed if there is an *error*, and report it."""
    work.current.set(task.within)
    task.end(ended, TASK.of(task.name), ERROR.of(task.name), error)
    # A worker's process may be ended without exit hooks, after this very task.
    work.process().flush()


def record(name: str, started: float, ended: float, error: BaseException | None) -> None:
    """Record an execution that is a call within the current unit of work, be it a request's."""
    work.record(TASK.of(name), started, ended)
    if error is not None:
        work.count(ERROR.of(name))
