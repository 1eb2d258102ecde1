"""Celery's tasks under the agent: real workers of each pool, a real Redis, a real StatsD listener."""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery
import celery.exceptions
import pytest
from celery.app import trace

from introspect.agent import correlation, tasks, work
from introspect.agent.correlation import Inbound
from introspect.instrumentations import celery as instrumentation
from tests.helpers.databases import Database
from tests.helpers.processes import introspect_run, script, wait_until
from tests.helpers.serve import serve
from tests.helpers.site import PROJECT, Site
from tests.instrumentations.celery_worker import POOLS, Worker, environment, worker
from tests.instrumentations.conftest import Agent

ID = "9110dbba-6dd9-4d1c-8828-11be81ac0561"
BOOKS = 9


def of(worker: Worker, metric: str, task: str, at_least: int = 0) -> int:
    """Return how often a metric of a task has been reported, once it is so often and nothing more comes.

    A task's result is there before the end of the task has been measured.
    """
    name = f"tasked.{metric}.tasked_tasks_{task}"
    worker.statsd.wait_for_count(name, at_least)
    worker.statsd.settle()
    return worker.statsd.count(name)


@pytest.fixture(scope="module", params=list(POOLS))
def any_worker(
    request: pytest.FixtureRequest,
    stocked_site: Site,
    redis: tuple[str, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Worker]:
    """A worker of each pool."""
    folder = tmp_path_factory.mktemp("worker")
    with worker(stocked_site, redis, folder, request.param) as started:
        yield started


@pytest.fixture(scope="module")
def prefork(
    stocked_site: Site, redis: tuple[str, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """A worker of the prefork pool."""
    with worker(stocked_site, redis, tmp_path_factory.mktemp("worker"), "prefork") as started:
        yield started


def ask(worker: Worker, path: str, file: Path, **more: str) -> Any:
    """Ask a server of the site for `path` with an ID, and return its answer."""
    command = [
        *introspect_run(), script("gunicorn"), "--bind={host}:{port}", "--no-control-socket",
        "django.core.wsgi:get_wsgi_application()",
    ]  # fmt: skip
    env = environment(worker.site, worker.queue, file, worker.statsd.address, **more)
    with serve(command, env, PROJECT) as server:
        request = urllib.request.Request(server.base_url + path, headers={"X-Request-ID": ID})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def test_request_and_task_are_one_story(prefork: Worker, tmp_path: Path) -> None:
    """A task sent in a request has its ID, on its line, its log records and those of Celery."""
    answer = ask(prefork, "/send/?tenant=acme", tmp_path / "log")
    told = prefork.queue.result(answer["task"])

    assert told["id"] == ID
    assert told["headers"] == {"tenant": "acme"}
    line = prefork.line_of(answer["task"])
    assert line["kind"] == "task"
    assert line["logger"] == "introspect.task"
    assert line["level"] == "INFO"
    assert line["correlation_id"] == ID
    assert line["name"] == "tasked.tasks.tell"
    assert line["outcome"] == "success"
    assert line["retries"] == 0
    assert line["db_queries"] == 1
    assert line["message"].startswith("task tasked.tasks.tell ")
    [sender] = [json.loads(text) for text in (tmp_path / "log").read_text().splitlines()
                if '"kind":"request"' in text]  # fmt: skip
    assert sender["correlation_id"] == ID
    assert line["parent_id"] == sender["span_id"]
    messages = {one["message"] for one in prefork.lines() if one["correlation_id"] == ID}
    assert "told" in messages
    assert any(message.startswith("Task tasked.tasks.tell[") for message in messages)


def test_command_and_task_are_one_story(prefork: Worker, tmp_path: Path) -> None:
    """A task sent by a management command has its ID."""
    done = subprocess.run(
        [*introspect_run(), sys.executable, str(PROJECT / "manage.py"), "send_tell"],
        env=environment(prefork.site, prefork.queue, tmp_path / "log", prefork.statsd.address),
        capture_output=True,
        text=True,
        check=True,
    )
    task, correlation_id = done.stdout.split()

    assert prefork.queue.result(task)["id"] == correlation_id
    assert prefork.line_of(task)["correlation_id"] == correlation_id


def test_the_database_sees_the_task(
    postgresql: Database, redis: tuple[str, int], tmp_path: Path
) -> None:
    """A statement of a task says so to PostgreSQL, in the words of the talk."""
    with worker(Site(postgresql.url), redis, tmp_path, "prefork") as started:
        told = started.queue.send("tell").get(timeout=30)

    assert told["statement"].startswith("/* tasked.tasks.tell */ SELECT query FROM")


def test_tasks_of_each_pool(any_worker: Worker) -> None:
    """Tasks without a sender's ID have new ones; each is timed once, and its SQL says whose it is."""
    before = of(any_worker, "task", "tell")
    results = [any_worker.queue.send("tell") for _ in range(5)]
    told = [result.get(timeout=30) for result in results]

    assert len({one["id"] for one in told}) == 5
    assert {one["headers"] for one in told} == {None}
    assert {one["statement"] for one in told} == {"/* tasked.tasks.tell */ SELECT 1"}
    for result, one in zip(results, told, strict=True):
        assert any_worker.line_of(result.id)["correlation_id"] == one["id"]
    assert of(any_worker, "task", "tell", before + 5) - before == 5
    assert of(any_worker, "task.error", "tell") == 0


def test_outcomes_in_each_pool(any_worker: Worker) -> None:
    """Each execution is timed once; a failure is counted, and no retry, ignored or rejected task."""
    queue = any_worker.queue
    retried = queue.send("try_again")
    failed = queue.send("fail")
    others = {name: queue.send(name) for name in ("ignore", "reject")}

    again = retried.get(timeout=30)
    assert again["headers"] is None
    with pytest.raises(ValueError, match="failed on request"):
        failed.get(timeout=30)
    line = any_worker.line_of(failed.id)
    assert (line["level"], line["outcome"]) == ("ERROR", "failure")
    assert line["exception"]["class"] == "ValueError"
    assert line["exception"]["place"].startswith("tasked/tasks.py:")
    for name, outcome in (("ignore", "ignored"), ("reject", "rejected")):
        line = any_worker.line_of(others[name].id)
        assert (line["level"], line["outcome"]) == ("INFO", outcome)
        assert "exception" not in line
    attempts = any_worker.lines_of(retried.id, 3)
    assert [one["outcome"] for one in attempts] == ["retry", "retry", "success"]
    assert [one["retries"] for one in attempts] == [0, 1, 2]
    assert {one["correlation_id"] for one in attempts} == {again["id"]}
    expected = {"try_again": (3, 0), "fail": (1, 1), "ignore": (1, 0), "reject": (1, 0)}
    counts = {
        name: (of(any_worker, "task", name, runs), of(any_worker, "task.error", name, failures))
        for name, (runs, failures) in expected.items()
    }
    assert counts == expected


def test_nested_tasks_in_each_pool(any_worker: Worker) -> None:
    """What a task sends has its ID and a line of its own; what it calls belongs to it."""
    before = of(any_worker, "task", "tell")
    result = any_worker.queue.send("outer")
    found = result.get(timeout=30)
    sent = any_worker.queue.result(found["sent"])

    assert found["called"] == found["id"] == sent["id"]
    assert any_worker.line_of(result.id)["db_queries"] == 1
    line = any_worker.line_of(found["sent"])
    assert line["parent_id"] == any_worker.line_of(result.id)["span_id"]
    assert of(any_worker, "task", "tell", before + 2) - before == 2
    assert of(any_worker, "task", "outer", 1) == 1


def test_waiting_is_not_measured(prefork: Worker) -> None:
    """A task with a countdown is measured once, and from its start."""
    sent = time.monotonic()
    result = prefork.queue.send("count_books", countdown=1)
    assert result.get(timeout=30) == BOOKS
    line = prefork.line_of(result.id)
    seconds = time.monotonic() - sent

    assert line["duration_ms"] < 1000 * (seconds - 0.9)
    assert of(prefork, "task", "count_books", 1) == 1


def test_an_id_is_validated(prefork: Worker) -> None:
    """A header that is no ID is replaced; one of another program's is taken if it is valid."""
    hostile = prefork.queue.send("tell", headers={"introspect": "*/ DROP TABLE x"})
    foreign = prefork.queue.send("tell", headers={"X-Request-ID": ID})

    replaced = hostile.get(timeout=30)
    assert len(replaced["id"]) == 36
    assert replaced["headers"] is None
    told = foreign.get(timeout=30)
    assert told["id"] == ID
    assert told["headers"] == {"X-Request-ID": ID}
    for result in (hostile, foreign):
        prefork.line_of(result.id)  # which the next test must not take for its own's
    assert "DROP" not in prefork.file.read_text()


def test_children_of_one_task_lose_nothing(
    stocked_site: Site, redis: tuple[str, int], tmp_path: Path
) -> None:
    """Ten tasks in ten processes, which end without exit hooks: ten timers, each datagram complete."""
    with worker(stocked_site, redis, tmp_path, "prefork", "--max-tasks-per-child=1") as started:
        results = [started.queue.send("count_books") for _ in range(10)]
        assert [result.get(timeout=60) for result in results] == [BOOKS] * 10
        pids = {started.line_of(result.id)["pid"] for result in results}

        assert len(pids) == 10
        assert of(started, "task", "count_books", 10) == 10
        assert started.statsd.count("tasked.db.default.select") == 10
        # A result is there before its message is acknowledged.
        wait_until(lambda: started.queue.waiting() == 0, 60)
        whole = [
            datagram
            for datagram in started.statsd.datagrams
            if b"tasked.task.tasked_tasks_count_books:" in datagram
        ]
        assert len(whole) == 10
        assert all(b"tasked.db.default.select:" in datagram for datagram in whole)


def test_tasks_whose_process_is_killed(prefork: Worker) -> None:
    """A task that is killed cannot tell: the worker counts it as failed, and one that exits does once."""
    queue = prefork.queue
    killed = {
        "sleep": queue.send("sleep", 60, time_limit=1),
        "die": queue.send("die"),
        "leave": queue.send("leave"),
    }
    for result in killed.values():
        with pytest.raises(Exception, match=r"TimeLimit|signal 9|exit"):
            result.get(timeout=30)

    assert {name: of(prefork, "task.error", name, 1) for name in killed} == dict.fromkeys(killed, 1)
    expected = {"sleep": 1, "die": 0, "leave": 1}
    assert {name: of(prefork, "task", name, runs) for name, runs in expected.items()} == expected


def test_eager_tasks_belong_to_their_caller(prefork: Worker, tmp_path: Path) -> None:
    """With task_always_eager a task is timed, and is a part of the request's story and SQL."""
    before = of(prefork, "task", "tell")
    file = tmp_path / "log"
    answer = ask(prefork, "/send/", file, TASKED_EAGER="1")

    assert answer["told"]["id"] == ID
    assert answer["told"]["statement"] == "/* /send/ */ SELECT 1"
    assert of(prefork, "task", "tell", before + 1) - before == 1
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    [line] = [line for line in lines if "kind" in line]
    assert (line["kind"], line["db_queries"]) == ("request", 1)


def test_an_eager_task_that_fails(prefork: Worker, tmp_path: Path) -> None:
    """It is counted, and the request goes on."""
    before = of(prefork, "task.error", "fail")
    assert ask(prefork, "/send-failing/", tmp_path / "log", TASKED_EAGER="1")["task"]

    assert of(prefork, "task.error", "fail", before + 1) - before == 1


def test_broken_observers_change_nothing(
    stocked_site: Site, redis: tuple[str, int], tmp_path: Path
) -> None:
    """With every observer failing, results, exceptions, retries and acknowledgements are Celery's own."""
    fault = {"INTROSPECT_TEST_FAULT": "1"}
    with worker(stocked_site, redis, tmp_path, "prefork", **fault) as started:
        queue = started.queue
        assert queue.send("tell").get(timeout=30)["headers"] is None
        assert queue.send("try_again").get(timeout=30)["headers"] is None
        assert queue.send("count_books").get(timeout=30) == BOOKS
        with pytest.raises(ValueError, match="failed on request"):
            queue.send("fail").get(timeout=30)

        wait_until(lambda: queue.waiting() == 0, 60)
        assert of(started, "task", "tell") == 0


@pytest.fixture
def app() -> Iterator[celery.Celery]:
    """A Celery application of this process, without a broker."""
    with contextlib.closing(
        celery.Celery("here", broker="memory://", set_as_current=False)
    ) as made:
        made.conf.task_always_eager = True
        yield made


def test_eager_outside_any_unit(agent: Agent, app: celery.Celery) -> None:
    """A script's eager task has a unit of its own, for that long; an eager retry is one more."""

    @app.task(bind=True, name="here.twice")
    def twice(self: Any) -> str:
        assert isinstance(work.active(), tasks.Task)
        if not self.request.retries:
            raise self.retry(countdown=0)
        return work.correlation_id()

    assert len(twice.delay().get()) == 36
    assert work.current.get() is work.process()
    assert agent.counts("task") == {"task.here_twice": 2}


def test_nothing_is_kept_of_tasks_that_are_over(agent: Agent, app: celery.Celery) -> None:
    """However many tasks have run, the memory is that of the first ones: nothing is kept by their IDs."""

    @app.task(name="here.nothing")
    def nothing() -> None:
        return None

    def run(times: int) -> int:
        for _ in range(times):
            nothing.delay()
        agent.listener.settle()
        agent.listener.clear()
        gc.collect()
        return sys.getallocatedblocks()

    before = run(200)

    assert run(1000) - before < 500


@pytest.mark.parametrize("throws", [False, True])
def test_eager_exceptions(agent: Agent, app: celery.Celery, throws: bool) -> None:
    """What an eager task raises is its caller's or its result's as ever, and counted once."""
    app.conf.task_eager_propagates = throws
    error = ValueError("the task's own")

    @app.task(name="here.fails")
    def fails() -> None:
        raise error

    if throws:
        with pytest.raises(ValueError, match="own") as raised:
            fails.delay()
        assert raised.value is error
    else:
        assert fails.delay().result is error
    assert agent.counts("task") == {"task.here_fails": 1, "task.error.here_fails": 1}


def test_a_retry_raised_is_no_failure(agent: Agent, app: celery.Celery) -> None:
    """A retry that is raised to an eager caller is no failure."""
    app.conf.task_eager_propagates = True

    @app.task(bind=True, name="here.retries")
    def retries(self: Any) -> None:
        raise self.retry(countdown=0)

    with pytest.raises(celery.exceptions.Retry):
        retries.delay()
    assert agent.counts("task") == {"task.here_retries": 1}


@pytest.mark.parametrize("observer", ["task_starts", "task_ended"])
def test_an_observer_that_fails_in_a_task(
    agent: Agent, app: celery.Celery, observer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails around a task, its result is its own."""
    agent.errors_expected = True

    def broken(*_: object) -> None:
        raise RuntimeError("broken for the test")

    monkeypatch.setattr(instrumentation, observer, broken)

    @app.task(name="here.adds")
    def adds(a: int, b: int) -> int:
        return a + b

    assert adds.delay(1, b=2).get() == 3


def test_a_worker_that_is_a_command(agent: Agent, app: celery.Celery) -> None:
    """A task that a command's worker runs is not the command's, which goes on behind it."""
    worker = work.Command(Inbound(ID), "run_worker")
    work.current.set(worker)

    @app.task(name="here.told")
    def told() -> str:
        return work.correlation_id()

    request: dict[str, Any] = {"id": "1", "is_eager": False, "introspect": "another-id -"}
    found = trace.build_tracer("here.told", told, app=app, eager=True)("1", (), {}, request)

    assert found.retval == "another-id"
    assert work.current.get() is worker
    assert not worker.samples
    assert agent.counts("task") == {"task.here_told": 1}


def test_nothing_of_the_sender_is_changed(agent: Agent) -> None:
    """The header stands in a copy; what is no task's message, and what no unit sends, has none."""
    headers = {"task": "a", "id": "1"}
    sent: Any = ((), {"headers": headers})
    assert instrumentation.message_published(*sent) is not None
    assert instrumentation.message_published(*sent)[1]["headers"] is headers

    work.current.set(work.Command(Inbound(ID), "x"))
    _args, kwargs = instrumentation.message_published(*sent)
    assert headers == {"task": "a", "id": "1"}
    assert kwargs["headers"]["introspect"].startswith(f"{ID} 00-{ID.replace('-', '')}-")
    event = {"hostname": "x"}
    assert instrumentation.message_published((), {"headers": event})[1]["headers"] is event


@pytest.mark.parametrize(
    "header", ["short", "x" * 129, "a b c d e f", 7, None, b"bytes-bytes", "id;DROP", "ünïcödé-id"]
)
def test_headers_that_are_no_ids(header: object) -> None:
    """They are replaced by a new ID, and gone."""
    request = {"introspect": header, "id": "1", "traceparent": 7}

    assert len(instrumentation.inbound_of(request).correlation_id) == 36
    assert request == {"id": "1", "traceparent": 7}


def test_distrusted_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """INTROSPECT_CORRELATION_TRUST=0 ignores what other programs send, not what we do."""
    monkeypatch.setattr(correlation, "policy", correlation.Policy(trust=False))
    theirs, ours = f"{ID[:-1]}2", ID

    assert instrumentation.inbound_of({"X-Request-ID": theirs}).correlation_id != theirs
    assert instrumentation.inbound_of({"introspect": f"{ours} -"}).correlation_id == ours


def test_what_no_task_measured_leaves_with_it(agent: Agent, app: celery.Celery) -> None:
    """At a task's end the process's own buffer is sent as well: there may be no later."""

    @app.task(name="here.nothing")
    def nothing() -> None:
        pass

    work.process().flush()
    work.count(tasks.ERROR.of("earlier"))
    assert work.process()._ready

    nothing.delay()
    assert not work.process()._ready
    assert agent.counts("task") == {"task.error.earlier": 1, "task.here_nothing": 1}
