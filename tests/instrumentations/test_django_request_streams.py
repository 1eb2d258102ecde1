"""Responses that break while they are streamed: whose mistake it is, and what is counted."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from introspect.instrumentations import django_request
from tests.instrumentations.conftest import Agent
from tests.instrumentations.handlers import (
    Answer,
    WsgiCall,
    environ,
    fetch_wsgi,
    scope,
    urlconf,
)


def code_of(file: str, source: str) -> dict[str, Any]:
    """Return what a module of that file defines; in `site-packages` it is a library's, elsewhere the application's."""
    names: dict[str, Any] = {"__name__": Path(file).stem}
    exec(compile(source, file, "exec"), names)
    return names


SERVER = code_of(
    "/srv/site-packages/server.py",
    """
class Gone(Exception):
    pass

def write(data):
    raise Gone

def write_to(sending):
    def write(data):
        sending(data)
    return write

def serve(result, write):
    try:
        for data in result:
            write(data)
    finally:
        result.close()

def write_file(result):
    for data in result:
        pass

def serve_file(result):
    try:
        write_file(result)
    finally:
        result.close()
""",
)
SOCKETS = code_of(
    "/srv/site-packages/sockets.py",
    """
def sending(data):
    raise TimeoutError
""",
)
UPSTREAM = code_of(
    "/srv/site-packages/upstream.py",
    """
def lines(error=OSError):
    yield b"from afar"
    raise error("in the stream")
""",
)
SHOP = code_of(
    "/srv/shop.py",
    """
def lines(error):
    yield b"one"
    raise error("in the stream")

def through(result):
    try:
        for data in result:
            yield data
    finally:
        result.close()
""",
)


class TestBrokenStreams:
    """Streams that raise, when their status has long been sent."""

    @pytest.fixture
    def stream(self, django: Callable[..., None]) -> Callable[[Callable[[], Any]], None]:
        """Let `/` be a view of the site's, `site.views.stream`, that answers with a stream of what a function returns."""
        from django.http import StreamingHttpResponse
        from django.urls import path

        def answer_with(lines: Callable[[], Any]) -> None:
            def view(request: Any) -> Any:
                return StreamingHttpResponse(lines())

            view.__module__, view.__qualname__ = "site.views", "stream"
            django(ROOT_URLCONF=urlconf(path("", view)))

        return answer_with

    @pytest.fixture
    def agent(self, start_agent: Callable[..., Agent], tmp_path: Path) -> Agent:
        """The agent, with lines that tell of what failed."""
        return start_agent(LOG=f"file://{tmp_path}/log", DETAIL="error")

    @pytest.fixture
    def line(self, tmp_path: Path) -> Callable[[], dict[str, Any]]:
        """Return the only line that a request has."""

        def read() -> dict[str, Any]:
            lines = map(json.loads, (tmp_path / "log").read_text().splitlines())
            [found] = [line for line in lines if line.get("kind") == "request"]
            assert isinstance(found, dict)
            return found

        return read

    @pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")  # Django's, under ASGI
    def test_the_request_has_failed(
        self,
        fetch: Callable[..., Answer],
        stream: Callable[..., None],
        agent: Agent,
        line: Callable[[], dict[str, Any]],
    ) -> None:
        """The exception is counted once, the line is one of a failure with its events, and the status is what was sent."""
        from django.template import Context, Engine

        template = Engine().from_string("one")

        def lines() -> Iterator[str]:
            yield template.render(Context())
            raise LookupError

        async def lines_async() -> Any:
            yield template.render(Context())
            raise LookupError

        stream(lines if fetch is fetch_wsgi else lines_async)
        with pytest.raises(LookupError):
            fetch("/")
        gc.collect()

        assert agent.counts("exception.") == {"exception.LookupError.site_views_stream": 1}
        assert agent.counts("response.") == {"response.200": 1}
        assert agent.counts("request")["request"] == 1
        told = line()
        assert (told["level"], told["status"]) == ("ERROR", 200)
        assert told["exception"]["class"] == "LookupError"
        assert told["exception"]["place"].startswith(f"{__name__.replace('.', '/')}.py:")
        assert [event["kind"] for event in told["events"]] == ["template"]

    # What the stream is made of, how a server writes it, and the class that counts, if any.
    @pytest.mark.parametrize(
        ("lines", "write", "counted"),
        [
            pytest.param(lambda: SHOP["lines"](ValueError), len, "ValueError", id="any"),
            pytest.param(lambda: SHOP["lines"](OSError), len, "OSError", id="any-os-error"),
            pytest.param(UPSTREAM["lines"], len, "OSError", id="library"),
            pytest.param(lambda: map(int, "1x"), len, "ValueError", id="c"),
            pytest.param(lambda: SHOP["lines"](SystemExit), len, None, id="interruption"),
            # As a socket's method, `os.stat` is C and raises an OSError for these bytes.
            pytest.param(lambda: ["/no/such/file"], os.stat, None, id="client-gone-c"),
            pytest.param(
                lambda: ["one"],
                SERVER["write_to"](SOCKETS["sending"]),
                None,
                id="client-gone-library",
            ),
            pytest.param(lambda: ["one"], SERVER["write"], None, id="client-gone"),
        ],
    )
    def test_who_has_raised(
        self,
        lines: Callable[[], Any],
        write: Callable[[bytes], Any],
        counted: str | None,
        stream: Callable[..., None],
        agent: Agent,
        line: Callable[[], dict[str, Any]],
    ) -> None:
        """What the stream raises is the application's error; what its server does, as where the client has gone away, is not, nor is being told to stop."""
        stream(lines)
        with pytest.raises((OSError, ValueError, SystemExit, SERVER["Gone"])):
            SERVER["serve"](WsgiCall(environ()).result, write)

        assert agent.counts("exception.") == (
            {f"exception.{counted}.site_views_stream": 1} if counted else {}
        )
        assert agent.counts("response.") == {"response.200": 1}
        told = line()
        assert told["level"] == ("ERROR" if counted else "INFO")
        assert told.get("exception", {}).get("class") == counted

    @pytest.mark.parametrize(
        ("module", "error"), [(SHOP, OSError), (SHOP, ValueError), (UPSTREAM, ValueError)]
    )
    def test_read_by_a_function_of_the_servers(
        self,
        module: dict[str, Any],
        error: type[Exception],
        stream: Callable[..., None],
        agent: Agent,
    ) -> None:
        """Where a server reads a stream in another function than it closes it, as it does with files, what that raises is the application's error."""
        stream(lambda: module["lines"](error))
        with pytest.raises(error):
            SERVER["serve_file"](WsgiCall(environ()).result)

        assert agent.counts("exception.") == {f"exception.{error.__name__}.site_views_stream": 1}

    @pytest.mark.parametrize("error", [ValueError, OSError])
    def test_through_a_middleware_of_the_applications(
        self, error: type[Exception], stream: Callable[..., None], agent: Agent
    ) -> None:
        """A generator around the application, by whoever wrote the stream, closes it while it raises."""
        stream(lambda: SHOP["lines"](error))
        with pytest.raises(error):
            list(SHOP["through"](WsgiCall(environ()).result))

        assert agent.counts("exception.") == {f"exception.{error.__name__}.site_views_stream": 1}

    @pytest.mark.parametrize("broken", [False, True])
    def test_called_while_an_exception_is_handled(
        self, broken: bool, stream: Callable[..., None], agent: Agent
    ) -> None:
        """An exception that a caller handled already when the request began is not the stream's; its own is."""
        stream(lambda: SHOP["lines"](ValueError) if broken else ["one"])
        try:
            raise LookupError("of the caller's")
        except LookupError:
            with contextlib.suppress(ValueError):
                fetch_wsgi("/")

        assert agent.counts("exception.") == (
            {"exception.ValueError.site_views_stream": 1} if broken else {}
        )

    def test_an_answer_that_is_no_stream(
        self, django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """Where there is no stream, what the server raises while it writes is no error of the application's."""
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("", views.plain)))
        with pytest.raises(RuntimeError):
            SERVER["serve"](
                WsgiCall(environ()).result, lambda data: (_ for _ in ()).throw(RuntimeError)
            )

        assert agent.counts("exception.") == {}

    def test_ignored(self, stream: Callable[..., None], start_agent: Callable[..., Agent]) -> None:
        """Of a request to a path that is to be ignored, a broken stream is not told either, however late."""
        stream(lambda: SHOP["lines"](ValueError))
        agent = start_agent(IGNORE_PATHS="/")
        calls = [WsgiCall(environ()) for _ in range(2)]  # the second ends the first
        for call in calls:
            with pytest.raises(ValueError, match="in the stream"):
                call.read()

        assert agent.counts() == {"ignored": 2}

    @pytest.mark.parametrize(
        ("lines", "cores", "counted"),
        [
            (lambda: SHOP["lines"](OSError), 1, {"exception.OSError.site_views_stream": 1}),
            (UPSTREAM["lines"], 1, {"exception.OSError.site_views_stream": 1}),
            (lambda: ["one"], 1, {}),
            (lambda: ["client gone"], 1, {}),
            (lambda: SHOP["lines"](OSError), 2, {}),
        ],
    )
    def test_uwsgi(
        self,
        lines: Callable[[], Any],
        cores: int,
        counted: dict[str, int],
        stream: Callable[..., None],
        agent: Agent,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Of uWSGI, which closes a stream when it has printed what that raised, the exception printed last is taken, unless it may be another request's."""

        def print_last(error: BaseException) -> None:
            monkeypatch.setattr(sys, "last_value", error, raising=False)

        uwsgi = ModuleType("uwsgi")
        uwsgi.cores = cores  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
        print_last(LookupError("of an earlier request"))
        stream(lines)
        result = WsgiCall(environ()).result
        try:
            for data in result:
                if data == b"client gone":
                    print_last(OSError("write error"))
        except OSError as error:
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # uWSGI is C
            print_last(error)
        result.close()

        assert agent.counts("exception.") == counted
        assert agent.counts("request")["request"] == 1

    @pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")  # Django's
    @pytest.mark.parametrize("whose", ["client", "stream"])
    def test_an_os_error_under_asgi(
        self, whose: str, stream: Callable[..., None], agent: Agent
    ) -> None:
        """A server may raise an `OSError` where it cannot send on, which is none of the application's; one that the stream raises is."""
        from django.core.handlers.asgi import ASGIHandler

        async def lines() -> Any:
            yield "one"
            raise ConnectionResetError

        async def run() -> None:
            async def receive() -> dict[str, Any]:
                if received:
                    await asyncio.sleep(30)
                received.append(True)
                return {"type": "http.request"}

            async def send(message: dict[str, Any]) -> None:
                if message.get("body") and whose == "client":
                    raise ConnectionResetError

            received: list[bool] = []
            await ASGIHandler()(scope(), receive, send)

        stream(lines)
        with pytest.raises(ConnectionResetError):
            asyncio.run(run())
        gc.collect()

        assert agent.counts("exception.") == (
            {"exception.ConnectionResetError.site_views_stream": 1} if whose == "stream" else {}
        )
        assert agent.counts("response.") == {"response.200": 1}

    def test_a_failure_of_ours(
        self, stream: Callable[..., None], agent: Agent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where we cannot tell what a stream has raised, the request ends all the same."""
        agent.errors_expected = True
        monkeypatch.setattr(django_request, "_is_the_servers", None)
        stream(lambda: SHOP["lines"](ValueError))
        with pytest.raises(ValueError, match="in the stream"):
            fetch_wsgi("/")

        assert agent.errors() == 1
        assert agent.counts("response.") == {"response.200": 1}
