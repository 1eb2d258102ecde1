"""When a request ends: whoever closes its response, or nobody."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import io
import json
import logging
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest

from introspect.agent import emitter, transport, work
from introspect.agent.correlation import Inbound
from introspect.instrumentations import django_db, django_request
from tests.helpers.ports import LOOPBACK
from tests.helpers.processes import wait_until
from tests.helpers.statsd import StatsdListener
from tests.instrumentations import request_middleware as middleware
from tests.instrumentations.conftest import PREFIX, VIEWS, Agent
from tests.instrumentations.handlers import (
    Answer,
    WsgiCall,
    environ,
    fetch_wsgi,
    urlconf,
)


class TestEndOfARequest:
    """A request ends when its response is closed, whoever closes it, and is counted once."""

    def test_django_gets_back_what_it_returned(
        self, django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """The server receives Django's own response object, whose type and attributes it may use."""
        from django.http import HttpResponse
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("", views.plain)))

        call = WsgiCall(environ())

        assert type(call.result) is HttpResponse
        assert call.read().body == b"plain"

    def test_a_file_goes_to_the_servers_file_wrapper(
        self, django: Callable[..., None], agent: Agent
    ) -> None:
        """What comes back is the very `wsgi.file_wrapper` that Django has made, so sendfile works."""
        from django.http import FileResponse
        from django.urls import path

        content = io.BytesIO(b"x" * 10_000)
        wrappers: list[FileWrapper] = []

        def wrap(file: Any, block_size: int) -> FileWrapper:
            wrappers.append(FileWrapper(file, block_size))
            return wrappers[-1]

        django(ROOT_URLCONF=urlconf(path("", lambda request: FileResponse(content))))

        call = WsgiCall(environ(**{"wsgi.file_wrapper": wrap}))

        assert call.result is wrappers[0]
        assert agent.counts("request") == {}
        assert call.read().body == b"x" * 10_000
        assert content.closed
        assert agent.counts("re")["request"] == 1
        assert agent.counts("response.") == {"response.200": 1}

    @pytest.mark.parametrize("is_async", [False, True])
    def test_a_streamed_response_lasts_until_its_end(
        self,
        fetch: Callable[..., Answer],
        is_async: bool,
        django: Callable[..., None],
        agent: Agent,
    ) -> None:
        """The time of a stream is a part of the request's, and what it measures belongs to it."""
        from django.http import StreamingHttpResponse
        from django.template import Context, Engine
        from django.urls import path

        template = Engine().from_string("in a stream")

        def lines() -> Iterator[str]:
            time.sleep(0.05)
            yield template.render(Context())

        async def lines_async() -> Any:
            await asyncio.sleep(0.05)
            yield template.render(Context())

        def stream(request: Any) -> Any:
            return StreamingHttpResponse(lines_async() if is_async else lines())

        django(ROOT_URLCONF=urlconf(path("", stream)))

        mixed = is_async == (fetch is fetch_wsgi)
        expectation = (
            pytest.warns(Warning, match="StreamingHttpResponse must consume")
            if mixed
            else contextlib.nullcontext()
        )
        with expectation:
            answer = fetch("/")

        assert answer.body == b"in a stream"
        [total], [first_byte] = agent.values("request"), agent.values("request.first_byte")
        assert total - first_byte >= 50
        assert agent.counts("request.template") == {"request.template": 1}

    # Of the end all, what adds up, what sends, and what the writer of the line asks first.
    @pytest.mark.parametrize("step", ["_report", "settle", "_send", "describe"])
    def test_a_failure_of_ours_at_the_end_is_counted(
        self,
        step: str,
        fetch: Callable[..., Answer],
        django: Callable[..., None],
        views: Any,
        start_agent: Callable[..., Agent],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
    ) -> None:
        """Where the end of a request fails, its answer is as ever, we say so and count it, and the next request is itself."""
        from django.urls import path

        def broken(*_args: Any) -> None:
            raise RuntimeError("broken")

        django(ROOT_URLCONF=urlconf(path("", views.plain)))
        expected = fetch("/").comparable()
        agent = start_agent(LOG=f"file://{tmp_path}/log")
        agent.errors_expected = True
        with monkeypatch.context() as patched:
            patched.setattr(django_request.Request, step, broken)
            failed = fetch("/", x_request_id="failed-0001")
        following = fetch("/")
        own_id = following.header("X-Request-ID")
        lines = map(json.loads, (tmp_path / "log").read_text().splitlines())

        assert failed.comparable() == following.comparable() == expected
        assert failed.header("X-Request-ID") == "failed-0001" != own_id
        assert [line["correlation_id"] for line in lines] == [own_id]
        assert agent.errors() == 1
        assert capsys.readouterr().err.count("failed with RuntimeError: broken") == 1
        # Its line comes behind its measurements.
        assert agent.counts("view.") == {f"view.{VIEWS}plain.GET": 2 if step == "describe" else 1}

    def test_all_of_it_leaves_in_one_datagram(
        self, fetch: Callable[..., Answer], django: Callable[..., None], agent: Agent
    ) -> None:
        """What a request has measured leaves in one datagram, behind all that the application does to close its response."""
        from django.core.cache import cache
        from django.http import HttpResponse
        from django.template import Context, Engine
        from django.urls import path

        template = Engine().from_string("x")
        sent_before: list[int] = []

        def view(request: Any) -> Any:
            logging.getLogger("site").warning("in a view")
            response = HttpResponse(template.render(Context(cache.get("nothing"))))
            response._resource_closers.append(lambda: sent_before.append(len(agent.datagrams())))
            return response

        django(ROOT_URLCONF=urlconf(path("", view)))
        for _ in range(3):
            fetch("/")
        told = agent.datagrams()

        assert sent_before == [0, 1, 2]
        assert len(told) == 3
        for names in told:
            assert names.count("request") == names.count("response.200") == 1
            assert {"log.warning", "template.inline", "cache.miss.default"} <= set(names)

    def test_a_statsd_that_nobody_knows(
        self,
        fetch: Callable[..., Answer],
        django: Callable[..., None],
        views: Any,
        statsd: StatsdListener,
        start_agent: Callable[..., Agent],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """While StatsD's host is unknown answers are as ever, one line says so, and each datagram counts as dropped."""
        from django.urls import path

        name, known = "no.such.invalid", threading.Event()
        real = socket.getaddrinfo

        def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
            if host == name and not known.is_set():
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return real(LOOPBACK if host == name else host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(transport, "SECONDS_BETWEEN_TRIES", (0.0,))
        django(ROOT_URLCONF=urlconf(path("", views.plain)))
        expected = [fetch("/").comparable() for _ in range(5)]
        agent = start_agent(STATSD=f"udp://{name}:{statsd.port}")
        found = []

        def ask() -> list[list[str]]:
            found.append(fetch("/").comparable())
            wait_until(lambda: not emitter._transport._opening)  # somebody has looked the name up
            return agent.datagrams()

        for _ in expected:
            assert not ask()
        known.set()
        wait_until(ask)
        (drops,) = statsd.values(f"{PREFIX}introspect.dropped")
        said = capsys.readouterr().err

        assert found[:5] == expected
        assert drops + statsd.count(f"{PREFIX}request") == len(found)
        assert said.count("\n") == 1
        assert f"StatsD at udp://{name}:{statsd.port} cannot be reached" in said

    def test_a_connection_without_a_statement(
        self, fetch: Callable[..., Answer], django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """A commit alone, as with ATOMIC_REQUESTS, is time in the database, and no statement."""
        from django.http import HttpResponse
        from django.urls import path

        def commits(_request: Any) -> HttpResponse:
            work.record(django_db.COMMIT.of("default"), 1.0, 1.25)
            return HttpResponse("done")

        django(ROOT_URLCONF=urlconf(path("", commits)))

        assert fetch("/").body == b"done"
        assert agent.values("request.db") == [250.0]
        assert agent.values("request.db_queries") == [0.0]

    def test_a_request_of_a_forks_child(
        self,
        django: Callable[..., None],
        views: Any,
        agent: Agent,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """In a child that was forked within a request, that one is over: the next counts as any other."""
        from django.urls import path

        monkeypatch.setattr(work, "_forked_within", None)
        django(ROOT_URLCONF=urlconf(path("", views.plain)))
        parents = django_request.Request(Inbound("parents-request"))
        parents.scope = environ()
        work.current.set(parents)
        work._leave_parent()
        WsgiCall(environ()).result.close()

        assert agent.counts("request") == {"request": 1, "request.first_byte": 1}

    def test_closed_twice_is_counted_once(
        self, django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """A second `close` finds the request ended."""
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("", views.plain)))

        call = WsgiCall(environ())
        call.result.close()
        call.result.close()

        assert agent.counts("request") == {"request": 1, "request.first_byte": 1}

    def test_closed_unread_is_counted(
        self, django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """A client that goes away in the middle of a stream: the server closes what it has not read."""
        from django.http import StreamingHttpResponse
        from django.urls import path

        closed = []

        def lines() -> Iterator[str]:
            try:
                while True:
                    yield "more"
            finally:
                closed.append(True)

        django(ROOT_URLCONF=urlconf(path("", lambda request: StreamingHttpResponse(lines()))))

        call = WsgiCall(environ())
        next(iter(call.result))
        call.result.close()

        assert closed == [True]
        assert agent.counts("re") == {"request": 1, "request.first_byte": 1, "response.200": 1}

    def test_never_closed_ends_with_the_next_request_of_the_thread(
        self, django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """A server that forgets to close loses no count, and the next request is not mixed with it."""
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("", views.plain), path("class/", views.Page.as_view())))

        forgotten = WsgiCall(environ("/"))
        assert agent.counts("request") == {}
        fetch_wsgi("/class/")

        assert agent.counts("view.") == {f"view.{VIEWS}plain.GET": 1, f"view.{VIEWS}Page.GET": 1}
        forgotten.read()
        assert agent.counts("request")["request"] == 2

    def test_a_response_that_is_used_again_bears_each_requests_own_id(
        self, fetch: Callable[..., Answer], django: Callable[..., None], agent: Agent
    ) -> None:
        """Where a site answers with one response object for ever, nobody is shown another request's ID."""
        from django.http import HttpResponse
        from django.urls import path

        response = HttpResponse("always the same")
        own = HttpResponse("its own", headers={"X-Request-ID": "the-sites-own"})
        django(
            ROOT_URLCONF=urlconf(
                path("", lambda request: response), path("own/", lambda request: own)
            )
        )
        ids = [f"request-{number:04}" for number in range(3)]

        assert [fetch("/", x_request_id=name).header("X-Request-ID") for name in ids] == ids
        for name in ids:
            assert fetch("/own/", x_request_id=name).header("X-Request-ID") == "the-sites-own"

    def test_closed_by_another_thread_while_this_one_serves_the_next(
        self, django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """Where a pool of threads sends the bodies, each request is counted once, with its own view."""
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("<name>/", views.plain)))
        calls = []

        def serve(number: int) -> None:
            calls.append(WsgiCall(environ(f"/{number}/")))

        for number in range(20):
            server = threading.Thread(target=serve, args=(number,))
            server.start()
            server.join()
        closers = [threading.Thread(target=call.read) for call in calls for _ in range(2)]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()

        assert agent.counts("view.") == {f"view.{VIEWS}plain.GET": 20}
        assert agent.counts("request")["request"] == 20

    def test_closed_in_another_context_than_it_began_in(
        self, django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """A server may close from anywhere: no token of a context is involved, and ours stays as it is."""
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("", views.plain)))
        began = contextvars.copy_context()

        call = began.run(WsgiCall, environ())
        unit = began[work.current]
        assert isinstance(unit, django_request.Request)
        contextvars.copy_context().run(unit.end)
        call.read()

        assert agent.counts("request")["request"] == 1
        assert began[work.current] is unit
        assert work.current.get() is work.process()

    def test_a_stream_is_left_to_the_server(
        self, django: Callable[..., None], any_agent: Agent
    ) -> None:
        """Nobody takes a part of a streamed body before the server does."""
        from django.http import StreamingHttpResponse
        from django.urls import path

        taken = []

        def parts() -> Iterator[str]:
            for number in range(3):
                taken.append(number)
                yield f"{number}"

        django(ROOT_URLCONF=urlconf(path("", lambda request: StreamingHttpResponse(parts()))))

        call = WsgiCall(environ())

        assert taken == []
        assert call.read().body == b"012"

    @pytest.mark.parametrize("kind", ["unrendered", "bare"])
    def test_a_response_without_content(
        self, kind: str, django: Callable[..., None], any_agent: Agent
    ) -> None:
        """What has no content to measure, or none yet, is told without its size, and no error is made of it."""
        from django.urls import path

        django(
            ROOT_URLCONF=urlconf(path("", lambda request: None)),
            MIDDLEWARE=[f"{middleware.__name__}.{kind}"],
        )

        call = WsgiCall(environ())
        call.result.close()

        assert any_agent.counts("request")["request"] == 1

    def test_its_signals_and_its_end(
        self, fetch: Callable[..., Answer], django: Callable[..., None], agent: Agent
    ) -> None:
        """Django's signals come once each, and whoever receives them is within the request's context."""
        from django.core.signals import request_finished, request_started
        from django.http import HttpResponse
        from django.urls import path

        seen = []

        def started(**_details: Any) -> None:
            seen.append(("started", work.correlation_id()))

        def finished(**_details: Any) -> None:
            seen.append(("finished", work.correlation_id()))

        def view(request: Any) -> Any:
            seen.append(("view", work.correlation_id()))
            return HttpResponse("x")

        django(ROOT_URLCONF=urlconf(path("", view)))
        request_started.connect(started)
        request_finished.connect(finished)
        try:
            fetch("/", x_request_id="signals-0001")
        finally:
            request_started.disconnect(started)
            request_finished.disconnect(finished)

        assert seen == [(name, "signals-0001") for name in ("started", "view", "finished")]

    def test_nothing_of_the_request_is_kept(
        self, fetch: Callable[..., Answer], django: Callable[..., None], any_agent: Agent
    ) -> None:
        """Once it is over, the request object, its environment and its response can be collected."""
        from django.http import HttpResponse
        from django.urls import path

        kept: list[weakref.ref[Any]] = []

        def view(request: Any) -> Any:
            response = HttpResponse("x")
            kept.extend((weakref.ref(request), weakref.ref(response)))
            if request.path == "/error/":
                raise ValueError(request)
            return response

        django(ROOT_URLCONF=urlconf(path("", view), path("error/", view)))
        logging.disable()  # pytest keeps every record, and Django's hold the request

        try:
            fetch("/")
            fetch("/error/")
        finally:
            logging.disable(logging.NOTSET)
        gc.collect()

        assert [reference() for reference in kept] == [None] * 4
        assert work.current.get() is work.process() or work.current.get().scope is None  # type: ignore[union-attr]
