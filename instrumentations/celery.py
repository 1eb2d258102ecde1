"""Time Celery's tasks, each in a unit of work of its own with the correlation ID of its sender.

A task is traced by a function that Celery makes for it, at the start of each pool process, and
anew for each eager call. That function is observed: around it is all that a task does, its retry,
its result and its callbacks included.
"""

from __future__ import annotations

import sys
from types import FunctionType
from typing import Any, Final

from introspect.agent import correlation, tasks, work
from introspect.agent.correlation import Inbound
from introspect.agent.patching import amended, noticed, rewriting, timed

HEADER: Final = "introspect"
"""The header of a task's message: the sender's correlation ID, a space, its ``traceparent``."""


def message_published(args: Any, kwargs: Any) -> Any:
    """Add the header to the message of a task that is sent from within a unit of work."""
    headers = kwargs.get("headers")
    # Kombu sends more than tasks; these two are what makes a message a task.
    if type(headers) is not dict or "task" not in headers or "id" not in headers:
        return args, kwargs
    unit = work.active()
    if unit is None or unit.correlation_id == correlation.NONE:
        return args, kwargs
    sent = f"{unit.correlation_id} {unit.traceparent(unit.span_id)}"
    return args, {**kwargs, "headers": {**headers, HEADER: sent}}


def inbound_of(request: dict[str, Any]) -> Inbound:
    """Take our header out of a message's, and return what it says if that is valid.

    Else what the headers of ``INTROSPECT_CORRELATION_HEADERS`` say: the sender may be another
    program. Ours is for us alone: the task's ``request.headers`` are what its sender gave.
    """
    sent = request.pop(HEADER, None)
    if isinstance(sent, str):
        correlation_id, _, traceparent = sent.partition(" ")
        if correlation.is_valid(correlation_id):
            return Inbound(correlation_id, correlation.parse_traceparent(traceparent))
    texts = {
        key.lower(): value
        for key, value in request.items()
        if isinstance(key, str) and isinstance(value, str)
    }
    policy = correlation.policy
    return policy.accept(texts.get, policy.asgi_keys)


def task_starts(name: str, args: Any, kwargs: Any) -> Any:
    """Begin a unit of work for ``tracer(uuid, args, kwargs, request)``; ``None`` within one."""
    request = (args[3] if len(args) > 3 else kwargs.get("request")) or {}  # noqa: PLR2004
    if request.get("is_eager") and work.active() is not None:
        return None
    inbound = inbound_of(request)
    told = {"task_id": args[0], "retries": request.get("retries") or 0, "outcome": ""}
    return tasks.begin(tasks.Task(inbound, name, told))


def task_ended(
    name: str,
    task: Any,
    started: float,
    ended: float,
    _args: Any,
    _kwargs: Any,
    result: Any,
    error: BaseException | None,
) -> None:
    """End the unit, or record the eager call within another."""
    outcome, failure = outcome_of(result, error)
    if task is None:
        tasks.record(name, started, ended, failure)
        return
    task.told["outcome"] = outcome
    tasks.end(task, ended, failure)


def outcome_of(result: Any, error: BaseException | None) -> tuple[str, BaseException | None]:
    """Return the task's state in lower case, and the exception it failed with, if it did.

    A task that asks for a retry, or to be ignored or rejected, has not failed. Celery catches what
    a task raises; what is raised here is for an eager call's caller or the end of the worker.
    """
    if error is not None:
        predicate: type = sys.modules["celery.exceptions"].TaskPredicate
        if isinstance(error, predicate):
            return type(error).__name__.lower(), None
        return "failure", error
    info = getattr(result, "info", None)
    if info is None:
        return "success", None
    outcome = str(info.state).lower()
    return outcome, info.retval if outcome == "failure" else None


def tracer_built(args: Any, kwargs: Any, tracer: Any) -> Any:
    """Return *tracer*, which executes the task that it was made for, observed."""
    if type(tracer) is not FunctionType or hasattr(tracer, "introspect_task"):
        return tracer
    name = args[0] if args else kwargs["name"]

    def starts(args: Any, kwargs: Any) -> Any:
        return task_starts(name, args, kwargs)

    def ended(*details: Any) -> None:
        task_ended(name, *details)

    observed = timed("celery.app.trace:tracer", before=starts, after=ended).wrap(tracer)
    observed.introspect_task = name  # type: ignore[attr-defined]
    return observed


def child_lost(args: Any, _kwargs: Any) -> None:
    """Count the task of a pool process that was killed, which could not do so itself.

    One that exits, or is terminated at a time limit, has: of it Celery tells an exit code.
    """
    request, told = args[0], args[1].exception
    error = getattr(told, "exc", told)  # inside what billiard keeps a traceback with
    if type(error).__name__ == "WorkerLostError" and "signal" in str(error):
        work.count(tasks.ERROR.of(request.type))
        work.process().flush()


PATCHES = (
    rewriting("kombu.messaging:Producer.publish", message_published),
    amended("celery.app.trace:build_tracer", tracer_built),
    # It has a name of its own for it, which may be older than our patch.
    amended("celery.worker.consumer.consumer:build_tracer", tracer_built),
    noticed("celery.worker.request:Request.on_failure", child_lost),
)
