"""All instrumentations at once: every view of the project, served by gunicorn and by uvicorn."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import rawhttp
from tests.helpers.processes import introspect_run, script
from tests.helpers.serve import Server, serve
from tests.helpers.services import EtsyStatsd
from tests.helpers.site import PROJECT, SERVICE, Site
from tests.helpers.statsd import StatsdListener
from tests.instrumentations.http_server import Server as WebServer

SERVERS = {
    "gunicorn": [
        script("gunicorn"),
        "--bind={host}:{port}",
        "--worker-class=gthread",
        "--no-control-socket",
        "shop.wsgi",
    ],
    "uvicorn": [script("uvicorn"), "--host={host}", "--port={port}", "shop.asgi:application"],
}

# Of every kind of view one, and of every kind of mistake; `/decorated/` answers with the time of day.
PATHS = [
    "/",
    "/plain/",
    "/late-template/",
    "/async-plain/",
    "/async-queries/",
    "/async-error/",
    "/stream/",
    "/stream-error/",
    "/async-stream/",
    "/download/",
    "/class/",
    "/async-class/",
    "/books/",
    "/shelf/a/books/1/",
    "/shelf/a/books/999/",
    "/partial/",
    "/object/",
    "/method/",
    "/lambda/",
    "/shouted/",
    "/value-error/",
    "/missing/",
    "/forbidden/",
    "/suspicious/",
    "/gone/",
    "/redirect/",
    "/cookie/",
    "/queries/150/",
    "/cursor/",
    "/sell/",
    "/broken-sql/",
    "/outgoing/requests/",
    "/outgoing/urllib3/",
    "/outgoing/urllib/",
    "/slow/5/",
    "/async-slow/5/",
    "/log/",
    "/cached/",
    "/whoami/",
    "/api/count/",
    "/api/books/",
    "/api/books/1/",
    "/api/books/999/",
    "/admin/",
    "/admin/login/",
    "/plain",
    "/nowhere/",
    "/wp-login.php",
    "/%ff%fe/",
    "/a:1|c%7C@0.1%23x:y%0Abad:1%7Cms/",
    "/?q=%ff",
    "/constructor/",
    "/__proto__/",
]


def ask_everything(server: Server) -> list[object]:
    """Return every answer of the site, comparable from run to run."""
    ask = rawhttp.request
    url = server.base_url
    answers = [ask("GET", url + path) for path in PATHS]
    answers += [ask("POST", f"{url}/echo/", body=b"a=1&b=\xff"), ask("HEAD", f"{url}/")]
    answers += [ask("POST", f"{url}/api/count/", {"Content-Type": "application/json"}, b'{"a": 1}')]
    answers += [ask(method, f"{url}/class/") for method in ("PUT", "OPTIONS", "BREW")]
    answers += [ask("GET", f"{url}/plain/", {"X-Early": wish}) for wish in ("1", "raise")]
    answers += [
        ask("GET", f"{url}/plain/", {"Host": host}) for host in ("elsewhere.example", "[", "a b")
    ]
    answers += [
        ask("GET", f"{url}/plain/", {"X-Request-Start": "t=nonsense", "X-Request-ID": "*/ ;"})
    ]
    return [without_tokens(answer) for answer in answers]


def without_tokens(answer: rawhttp.RawResponse) -> object:
    """Return an answer without the random tokens of Django's forms and cookies, and the time."""
    status_line, headers, body = answer.comparable(rawhttp.VOLATILE_HEADERS | {"expires"})
    before, found, after = body.partition(b'name="csrfmiddlewaretoken" value="')
    if found:
        body = before + after[64:]
    kept = tuple(header for header in headers if not header.lower().startswith(b"set-cookie: csrf"))
    return status_line, kept, body


def reached_django(answers: list[object]) -> int:
    """Return how many of the answers are Django's: a line that the server itself refuses never reaches it."""
    return sum(b"Invalid" not in body for _status, _headers, body in answers)  # type: ignore[misc]


@pytest.fixture(params=SERVERS)
def command(request: pytest.FixtureRequest) -> list[str]:
    """The words that start each server."""
    return SERVERS[request.param]


@pytest.fixture
def expected(
    command: list[str], stocked_site: Site, web: WebServer, known_answers: dict[str, list[object]]
) -> list[object]:
    """What the site answers without the agent."""
    program = command[0]
    if program not in known_answers:
        env = stocked_site.environment(PROJECT_OUTGOING=web.url)
        with serve(command, env, PROJECT) as server:
            known_answers[program] = ask_everything(server)
    return known_answers[program]


@pytest.fixture(scope="module")
def known_answers() -> dict[str, list[object]]:
    """Answers without the agent, by server."""
    return {}


@pytest.fixture
def under_agent(
    command: list[str], stocked_site: Site, web: WebServer
) -> Callable[..., list[object]]:
    """Return what the site answers under the agent with settings; the server has ended by then."""

    def answers(**settings: str) -> list[object]:
        env = stocked_site.environment(PROJECT_OUTGOING=web.url, **settings)
        with serve([*introspect_run(), *command], env, PROJECT) as server:
            found = ask_everything(server)
            if "INTROSPECT_TEST_FAULT" in settings:
                # Errors belong to no request: they leave with the first event that finds them a
                # second old. Uvicorn ends by a signal, which runs no exit hook.
                time.sleep(1.1)
                rawhttp.get(server.base_url)
            return found

    return answers


EVERYTHING_ON = {"INTROSPECT_DETAIL": "all", "INTROSPECT_SUPERUSER_ERRORS": "1"}


@pytest.mark.parametrize("everything", [False, True], ids=["defaults", "everything-on"])
@pytest.mark.parametrize("fault", ["1", "after", "end"])
def test_what_fails_of_ours_changes_no_answer(
    fault: str,
    everything: bool,
    expected: list[object],
    under_agent: Callable[..., list[object]],
    statsd: StatsdListener,
    tmp_path: Path,
) -> None:
    """With all observers raising, those behind the call, or each request's end, every byte is the site's, and errors count."""
    more = {**EVERYTHING_ON, "INTROSPECT_LOG": f"file://{tmp_path / 'log'}"} if everything else {}
    found = under_agent(INTROSPECT_STATSD=statsd.address, INTROSPECT_TEST_FAULT=fault, **more)
    statsd.settle()

    assert found == expected
    errors = statsd.count(f"{SERVICE}.introspect.errors")
    if fault == "end":  # which comes behind the datagram, and once for each request
        assert errors == statsd.count(f"{SERVICE}.request") > reached_django(found)
    else:
        assert errors > len(expected)
        # Without an observer ahead of it no request begins. Without those behind it none is known to be
        # answered, but what the server still holds at its exit is told, as aborted.
        lost = f"{SERVICE}.view" if fault == "1" else f"{SERVICE}.response"
        assert not [name for name in statsd.names() if name.startswith(lost)]


@pytest.mark.parametrize("form", ["plain", "dogstatsd"])
def test_etsys_statsd_accepts_every_line(
    form: str,
    expected: list[object],
    under_agent: Callable[..., list[object]],
    etsy_statsd: EtsyStatsd,
    command: list[str],
) -> None:
    """Whatever the views do and clients send, the daemon refuses no line, and survives."""
    service = f"{form}-{command[0].rpartition('/')[2]}"
    refused, counted = etsy_statsd.bad_lines(), etsy_statsd.count(f"{service}.response")

    found = under_agent(
        INTROSPECT_STATSD=etsy_statsd.address,
        INTROSPECT_STATSD_FORMAT=form,
        INTROSPECT_SERVICE=service,
        INTROSPECT_ENV="test env",
        INTROSPECT_VERSION="1.0:|@#",
        INTROSPECT_LOG="off",
    )

    assert found == expected
    responses = counted + reached_django(found)
    etsy_statsd.wait_for_count(f"{service}.response", responses)
    assert etsy_statsd.count(f"{service}.response") == responses
    assert etsy_statsd.bad_lines() == refused
    assert any(name.startswith(f"{service}.view") for name in etsy_statsd.timers())
    assert etsy_statsd.count(f"{service}.exception")


def test_everything_is_counted(
    expected: list[object], under_agent: Callable[..., list[object]], statsd: StatsdListener
) -> None:
    """One run reports every request once, and something under each metric of these areas."""
    found = under_agent(INTROSPECT_STATSD=statsd.address)
    statsd.settle()

    assert found == expected
    assert statsd.count(f"{SERVICE}.request") == reached_django(found)
    assert statsd.count(f"{SERVICE}.db.default.select") >= 150
    assert statsd.count(f"{SERVICE}.http.127_0_0_1") == 3
    assert statsd.count(f"{SERVICE}.http.status.127_0_0_1.200") == 3
    assert statsd.count(f"{SERVICE}.exception.ValueError.books_views_value_error") == 1
    assert statsd.count(f"{SERVICE}.exception.PermissionDenied.books_views_forbidden") == 1
    assert statsd.count(f"{SERVICE}.db.error.default.OperationalError") == 1
    assert statsd.count(f"{SERVICE}.template.books_index_html") >= 2
    assert statsd.count(f"{SERVICE}.introspect.errors") == 0
    assert {f"{SERVICE}.request.{name}" for name in ("db", "db_queries", "http", "template")} <= (
        statsd.names()
    )
