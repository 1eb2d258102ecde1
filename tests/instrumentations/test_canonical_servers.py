"""The canonical line of requests behind real servers, however they end, beside what StatsD was sent."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil
import pytest
from django import VERSION

from tests.helpers import rawhttp
from tests.helpers.processes import wait_until
from tests.helpers.site import Site
from tests.helpers.statsd import StatsdListener
from tests.instrumentations.http_server import http_server
from tests.instrumentations.story_site import SERVERS, Story, story


@pytest.fixture(scope="module")
def listener() -> Iterator[StatsdListener]:
    """A StatsD server that each request's numbers are compared with."""
    with contextlib.closing(StatsdListener()) as started:
        yield started


@pytest.fixture(scope="module", params=["gthread", "uvicorn"])
def running(
    request: pytest.FixtureRequest,
    stocked_site: Site,
    listener: StatsdListener,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Story]:
    """The story's site behind a WSGI and an ASGI server, with metrics and lines."""
    file = tmp_path_factory.mktemp("canonical") / "log.json"
    settings = {"STATSD": listener.address, "DETAIL": "error"}
    with story(request.param, stocked_site, file, **settings) as started:
        yield started


def fetch(running: Story, path: str, name: str, **headers: str) -> rawhttp.RawResponse:
    """Fetch a page under an ID."""
    return rawhttp.get(running.url + path, {"X-Request-ID": name, **headers})


def test_numbers_are_those_of_statsd(running: Story, listener: StatsdListener) -> None:
    """Counts and times in the line are what the metrics of the same request say."""
    fetch(running, "/own/", "numbers-0000")  # a worker that is still starting would make a queue
    running.request("numbers-0000")
    listener.settle()  # a request is told of when its answer has been read, if only just
    listener.clear()
    start = time.time_ns() // 1_000_000 - 250
    answer = fetch(running, "/rows/?q=hunter2", "numbers-0001", **{"X-Request-Start": f"t={start}"})
    line = running.request("numbers-0001")
    listener.wait_for_count("story.response.200", 1)
    [total] = listener.values("story.request")
    [queries] = listener.values("story.request.db_queries")
    [db_ms] = listener.values("story.request.db")
    [first_byte] = listener.values("story.request.first_byte")
    [queue] = listener.values("story.request.queue")

    assert line["duration_ms"] == pytest.approx(total, abs=0.01)
    assert line["db_queries"] == queries == 3
    assert line["db_ms"] == pytest.approx(db_ms, abs=0.01)
    assert line["first_byte_ms"] == pytest.approx(first_byte, abs=0.01)
    assert line["queue_ms"] == pytest.approx(queue, abs=0.01)
    assert 200 < line["queue_ms"] < 5000
    assert line["db_duplicates"] == 1
    assert line["response_bytes"] == len(answer.body) == 4
    assert line["method"] == "GET"
    assert line["path"] == "/rows/"
    assert line["route"] == "rows/"
    assert line["view"] == "story.urls.rows"
    assert line["status"] == 200
    assert line["kind"] == "request"
    assert line["level"] == "INFO"
    assert "user_id" not in line
    assert "events" not in line


EVERYTHING = "everything-0001"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CREDENTIALS = base64.b64encode(b"bob:hunter2-password").decode()


@dataclass(frozen=True)
class Told:
    """What left a server that was asked for all that a line can tell: each secret has `hunter2` in it."""

    server: str
    form: str
    answer: rawhttp.RawResponse
    lines: list[dict[str, Any]]
    said: str
    datagrams: bytes
    called: tuple[str, str, dict[str, str]]

    @property
    def line(self) -> dict[str, Any]:
        """The request's own line."""
        [found] = [each for each in self.lines if "introspect.request" in each.values()]
        return found

    @property
    def own(self) -> dict[str, Any]:
        """That part of it for which ecs has no names."""
        return self.line.get("introspect", self.line)


def told(server: str, form: str, site: Site, file: Path) -> Told:
    """Ask a server for everything, and return what left it."""
    with (
        contextlib.closing(StatsdListener()) as listener,
        http_server() as web,
        story(
            server,
            site,
            file,
            STATSD=listener.address,
            LOG_FORMAT=form,
            ENV="test",
            VERSION="7.1",
        ) as running,
    ):
        # The number is what the answer's status will be; whatever follows the `?` is the query.
        to = f"http://hunter2-user:hunter2-password@{web.host}:{web.port}/status/?token=hunter2-to/503"
        secrets = {name: f"hunter2-{name}" for name in ("parameter", "literal", "password")}
        headers = {
            "X-Request-ID": EVERYTHING,
            "X-Request-Start": f"t={time.time() - 1:.3f}",
            "traceparent": f"00-{TRACE}-{SPAN}-01",
            "Authorization": f"Basic {CREDENTIALS}",  # gunicorn's access lines tell the user
            "Cookie": "sessionid=hunter2-session; own=hunter2-cookie",
            "Referer": "http://localhost/?token=hunter2-referer",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        url = f"{running.url}/everything/?token=hunter2-query"
        answer = rawhttp.request("POST", url, headers, urlencode({"to": to, **secrets}).encode())
        for logger in ('.access"', '"introspect.request"'):  # the last two, in either order
            wait_until(lambda name=logger: name in file.read_text())
        listener.wait_for_count("story.response.500", 1)
        listener.catch_up()
        [called] = web.seen
        said = running.server.stderr
        return Told(
            server, form, answer, running.lines(), said, b"\n".join(listener.datagrams), called
        )


@pytest.fixture(
    scope="module",
    params=[("gthread", "json"), ("uvicorn", "json"), ("gthread", "ecs"), ("uvicorn", "logstash")],
    ids="-".join,
)
def everything(
    request: pytest.FixtureRequest, stocked_site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Told:
    """A request that does everything, behind servers of both kinds and in each format."""
    return told(*request.param, stocked_site, tmp_path_factory.mktemp("everything") / "log.json")


def test_no_secret_of_a_request(everything: Told) -> None:
    """No parameter, literal, query string, credential, password or cookie is in a line, the one with the statements included, a metric or a header sent on."""
    events = everything.own["events"]
    statements = [event["statement"] for event in events if "statement" in event]
    assert len([text for text in statements if 'FROM "books_book" WHERE' in text]) == 3
    assert {"cache", "db", "http", "template"} <= {event["kind"] for event in events}
    # Others tell of the request as well: the view, Django ("Internal Server Error") and the server.
    assert len(everything.lines) >= 4
    ours = [text for text in everything.said.splitlines() if text.startswith("introspect")]
    method, _path, headers = everything.called
    assert method == "GET"
    assert headers["X-Request-ID"] == EVERYTHING
    assert headers["traceparent"].startswith(f"00-{TRACE}-")
    for output in (
        json.dumps(everything.lines, ensure_ascii=False),
        "\n".join(ours),
        everything.datagrams.decode(),
        json.dumps(headers),
        repr(everything.answer),
    ):
        assert "hunter2" not in output
        assert CREDENTIALS not in output


# What the line of that request says in the json format: a value, or its type where that varies.
LINE: dict[str, Any] = {
    "timestamp": str,
    "level": "ERROR",
    "logger": "introspect.request",
    "message": str,
    "service": "story",
    "env": "test",
    "version": "7.1",
    "host": socket.gethostname(),
    "pid": int,
    "kind": "request",
    "correlation_id": EVERYTHING,
    "span_id": str,
    "parent_id": SPAN,
    "method": "POST",
    "path": "/everything/",
    "route": "everything/",
    "view": "story.urls.everything",
    "status": 500,
    "first_byte_ms": float,
    "queue_ms": float,
    "response_bytes": int,
    "user_id": 77,
    "duration_ms": float,
    "cpu_ms": float,
    "db_ms": float,
    "db_queries": 3,
    "db_duplicates": 1,
    "template_ms": float,
    "http_ms": float,
    "http_calls": 1,
    "cache_ms": float,
    "cache_hits": 1,
    "cache_misses": 1,
    "slowest_query": {"ms": float, "name": "default.select", "statement": str},
    "exception": {"class": "HTTPError", "place": str},
    "events": list,
}

# What other formats call it otherwise, or have besides. What ecs has no name for is in `introspect`.
LOGSTASH = {"timestamp": "@timestamp", "logger": "logger_name"}
ECS = {
    "timestamp": "@timestamp",
    "level": "log.level",
    "logger": "log.logger",
    "message": "message",
    "service": "service.name",
    "env": "service.environment",
    "version": "service.version",
    "host": "host.hostname",
    "pid": "process.pid",
    "correlation_id": "trace.id",
    "span_id": "span.id",
    "parent_id": "parent.id",
    "method": "http.request.method",
    "path": "url.path",
    "status": "http.response.status_code",
    "response_bytes": "http.response.body.bytes",
    "user_id": "user.id",
}
ECS_EXCEPTION = {"error.type": "HTTPError", "error.message": type(None), "error.stack_trace": str}

EVENT = {"offset_ms": float, "kind": str, "name": str, "ms": float}
EVENTS: dict[str, dict[str, Any]] = {
    "cache": EVENT,
    "db": {**EVENT, "statement": str, "table": "books_book"},
    "http": {**EVENT, "span_id": str, "status": 503},
    "template": EVENT,
}


def expected_line(form: str) -> dict[str, Any]:
    """Return what that line says in a format."""
    if form == "json":
        return LINE
    if form == "logstash":
        return {"@version": "1", **{LOGSTASH.get(key, key): value for key, value in LINE.items()}}
    theirs = {ECS[key]: value for key, value in LINE.items() if key in ECS}
    ours = {key: value for key, value in LINE.items() if key not in ECS}
    del ours["duration_ms"], ours["exception"]
    return {
        "ecs.version": "8.11.0",
        **theirs,
        "event.duration": int,
        **ECS_EXCEPTION,
        "introspect": ours,
    }


def seen(found: Any, expected: Any) -> Any:
    """Return `found` with types in the places where `expected` has them, or where types differ."""
    if type(found) is dict and type(expected) is dict:
        return {key: seen(value, expected.get(key)) for key, value in found.items()}
    return found if type(found) is type(expected) else type(found)


def test_every_field_of_a_request(everything: Told) -> None:
    """A request's line has exactly these fields, each of its type, in each format; `cpu_ms` where it has a thread of its own."""
    expected = expected_line(everything.form)
    if everything.server == "uvicorn":
        expected = {name: value for name, value in expected.items() if name != "cpu_ms"}

    assert seen(everything.line, expected) == expected
    if everything.form == "json":
        assert list(everything.line) == list(expected)  # the order that the documents show
    for event in everything.own["events"]:
        kind = event["kind"]
        plain = kind == "db" and "statement" not in event  # the connection, opened
        assert seen(event, EVENTS[kind]) == (EVENT if plain else EVENTS[kind])


def test_a_request_that_fails(running: Story) -> None:
    """A view that raises: level ERROR, status, exception with its place, and what it had done."""
    fetch(running, "/boom/", "fails-0001")
    line = running.request("fails-0001")

    assert line["level"] == "ERROR"
    assert line["status"] == 500
    assert line["exception"]["class"] == "ValueError"
    assert line["exception"]["place"].startswith("story/urls.py:")
    [event] = [event for event in line["events"] if event["name"] == "default.select"]
    assert event["table"] == "books_book"


def test_a_stream_that_breaks(running: Story, listener: StatsdListener) -> None:
    """A stream that raises in the middle: level ERROR, exception with its place, what it had done, and the status that was sent."""
    listener.settle()
    listener.clear()
    assert fetch(running, "/stream-error/", "breaks-0001").status == 200
    line = running.request("breaks-0001")
    listener.wait_for_count("story.response.200", 1)

    assert line["level"] == "ERROR"
    assert line["status"] == 200
    assert line["message"].startswith("GET /stream-error/ 200 ")
    assert line["exception"]["class"] == "ValueError"
    assert line["exception"]["place"].startswith("books/views.py:")
    assert "default.select" in [event["name"] for event in line["events"]]
    assert listener.count("story.exception.ValueError.books_views_stream_error") == 1


def test_a_page_that_is_missing(running: Story) -> None:
    """A missing page is no error of the server's, and its path is no view."""
    fetch(running, "/nowhere/", "missing-0001")
    line = running.request("missing-0001")

    assert line["status"] == 404
    assert line["view"] == "unresolved"
    assert line["route"] is None
    assert line["level"] == "INFO"
    assert line["exception"]["class"] in ("Resolver404", "Http404")


def test_a_streamed_answer(running: Story) -> None:
    """The line of a streamed answer tells of all that happened until its end."""
    fetch(running, "/stream/", "stream-0001")
    line = running.request("stream-0001")

    assert line["db_queries"] == 3
    assert line["duration_ms"] > 150
    assert line["first_byte_ms"] < line["duration_ms"]
    assert "response_bytes" not in line


def test_the_user_only_if_loaded(running: Story, stocked_site: Site) -> None:
    """The user's ID is told where the application has asked for the user, and is not asked for."""
    key = stocked_site.manage(
        "shell",
        "-c",
        "from django.contrib.auth import *; from django.contrib.sessions.backends.db import *\n"
        "user = get_user_model().objects.get(username='reader'); session = SessionStore()\n"
        "session[SESSION_KEY] = str(user.pk); session[HASH_SESSION_KEY] = user.get_session_auth_hash()\n"
        "session[BACKEND_SESSION_KEY] = 'django.contrib.auth.backends.ModelBackend'; session.save()\n"
        "print('key', session.session_key, user.pk)",
    )
    _, session, user = next(
        line for line in key.splitlines() if line.startswith("key ")
    ).split()  # Django's shell may say what it has imported
    cookie = {"Cookie": f"sessionid={session}"}

    assert fetch(running, "/user/", "user-0001", **cookie).body == b"reader"
    assert fetch(running, "/rows/", "user-0002", **cookie).header("Vary") is None
    assert running.request("user-0001")["user_id"] == int(user)
    line = running.request("user-0002")
    assert "user_id" not in line
    assert line["db_queries"] == 3


def test_a_user_that_the_application_has_set(running: Story) -> None:
    """A user that the application has put on the request itself is told, too."""
    fetch(running, "/assigned/", "assigned-0001")

    assert running.request("assigned-0001")["user_id"] == 77


@pytest.mark.parametrize("server", ["sync", "gthread", "gevent", "runserver", "uvicorn"])
def test_a_client_that_goes_away(stocked_site: Site, tmp_path: Path, server: str) -> None:
    """A request whose client has gone away, also in the middle of a stream, has its line, once, and has not failed."""
    if server == "uvicorn" and VERSION < (5, 0):
        pytest.skip("Django notices under ASGI that a client has gone away from 5.0 on")
    with story(server, stocked_site, tmp_path / "log") as running:
        path = "/async-slow/" if server == "uvicorn" else "/endless/"
        with socket.create_connection(("127.0.0.1", running.server.port), 60) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: gone-0001\r\n\r\n".encode()
            )
            if server == "uvicorn":
                running.wait_for_begin("gone-0001")
            else:
                connection.recv(1000)
        line = running.request("gone-0001")

    assert line["path"] == path
    assert line["status"] == (None if server == "uvicorn" else 200)
    assert line["level"] == "INFO"
    assert "exception" not in line
    if server == "uvicorn":
        assert "aborted" in line["message"]


def ask_slowly(running: Story) -> socket.socket:
    """Send a request that takes long, to a worker that is up, and wait until it has begun."""
    fetch(running, "/own/", "warm-up-0001")
    connection = socket.create_connection(("127.0.0.1", running.server.port), 10)
    connection.sendall(
        b"GET /slow/ HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: stopped-0001\r\n\r\n"
    )
    running.wait_for_begin("stopped-0001")
    return connection


@pytest.mark.parametrize(
    ("server", "number"),
    [("sync", signal.SIGQUIT), ("sync", signal.SIGABRT), ("gevent", signal.SIGQUIT)],
)
def test_a_worker_that_is_told_to_stop(
    stocked_site: Site, tmp_path: Path, server: str, number: int
) -> None:
    """A request in the middle of which its worker is told to stop at once has its line, with what it did."""
    with (
        story(server, stocked_site, tmp_path / "log", DETAIL="all") as running,
        contextlib.closing(ask_slowly(running)),
    ):
        [worker] = psutil.Process(running.server.pid).children()
        os.kill(worker.pid, number)
        line = running.request("stopped-0001")

    assert line["status"] is None
    assert "aborted" in line["message"]
    assert line["view"] == "story.urls.slow"
    assert line["route"] == "slow/"
    assert line["db_queries"] == 1
    assert line["events"]


def test_runserver_that_is_stopped(stocked_site: Site, tmp_path: Path) -> None:
    """A request in the middle of which runserver is stopped, which waits for none, has its line."""
    with story("runserver", stocked_site, tmp_path / "log") as running:
        with contextlib.closing(ask_slowly(running)):
            running.server.signal(signal.SIGINT)
            running.server.process.wait(20)
        line = running.request("stopped-0001")

    assert line["status"] is None
    assert line["db_queries"] == 1


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="gunicorn's gevent worker does not answer")
def test_a_worker_that_loses_its_patience(stocked_site: Site, tmp_path: Path) -> None:
    """A request that gevent's worker ends because it takes longer than a reload waits is aborted, and no error."""
    options = ["--graceful-timeout=1"]
    with story("gevent", stocked_site, tmp_path / "log", *options) as running:
        with contextlib.closing(ask_slowly(running)):
            running.server.signal(signal.SIGHUP)
            wait_until(lambda: running.of("stopped-0001", "request"), 20)
        line = running.request("stopped-0001")

    assert line["status"] is None
    assert line["level"] == "INFO"
    assert "exception" not in line


def test_a_timeout_of_gunicorns(stocked_site: Site, tmp_path: Path) -> None:
    """A request that takes longer than gunicorn allows has its line."""
    with story("sync", stocked_site, tmp_path / "log", "--timeout=2") as running:
        with contextlib.closing(ask_slowly(running)):
            wait_until(lambda: running.of("stopped-0001", "request"), 20)
        line = running.request("stopped-0001")

    assert line["status"] is None
    assert line["duration_ms"] > 1000


def test_a_graceful_stop(stocked_site: Site, tmp_path: Path) -> None:
    """A request that a stopping worker still answers has its ordinary line."""
    with story("sync", stocked_site, tmp_path / "log") as running:
        fetch(running, "/own/", "warm-up-0001")
        with socket.create_connection(("127.0.0.1", running.server.port), 10) as connection:
            connection.sendall(
                b"GET /slow/?seconds=1 HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: last-0001\r\n\r\n"
            )
            running.wait_for_begin("last-0001")
            running.server.signal(signal.SIGTERM)
            assert b"200 OK" in connection.recv(1000)
        line = running.request("last-0001")

    assert line["status"] == 200


@pytest.mark.parametrize("server", SERVERS)
def test_slow_requests_and_duplicates(stocked_site: Site, tmp_path: Path, server: str) -> None:
    """A slow request tells its events, capped, and how many of its statements were alike."""
    with story(server, stocked_site, tmp_path / "log", SLOW_REQUEST="1us") as running:
        fetch(running, "/many/250/", "many-0001")
        line = running.request("many-0001")

    assert line["db_queries"] == 250
    assert line["db_duplicates"] == 249
    selects = [event for event in line["events"] if event["name"] == "default.select"]
    assert 20 < len(selects) <= 100
    assert line["events_dropped"] >= 150
    assert [event["offset_ms"] for event in line["events"]] == sorted(
        event["offset_ms"] for event in line["events"]
    )
    assert line["slowest_query"]["name"].startswith("default.")
