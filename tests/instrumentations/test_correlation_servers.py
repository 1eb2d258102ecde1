"""One ID through a request behind real servers: log lines, access lines, threads, tasks, child processes."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import rawhttp
from tests.helpers.processes import REPOSITORY, introspect_run, wait_until
from tests.helpers.serve import serve
from tests.helpers.site import PROJECT, Site
from tests.helpers.statsd import StatsdListener
from tests.instrumentations.http_server import Server as Web
from tests.instrumentations.story_site import SERVERS, Story, environment, manage, story

ID = "9110dbba-6dd9-4d1c-8828-11be81ac0561"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture(scope="module", params=SERVERS)
def running(
    request: pytest.FixtureRequest, stocked_site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Story]:
    """The story's site behind each server, its access log in the JSON lines, too."""
    file = tmp_path_factory.mktemp("story") / "log.json"
    with story(request.param, stocked_site, file) as started:
        yield started


def get(running: Story, path: str, correlation_id: str, **headers: str) -> dict[str, Any]:
    """Fetch a page and return its JSON; `shop` answers with the ID in the header."""
    answer = rawhttp.get(running.url + path, {"X-Request-ID": correlation_id, **headers})
    assert answer.status == 200, answer.body
    assert answer.all_headers("X-Request-ID") == [correlation_id]
    found = json.loads(answer.body)
    assert isinstance(found, dict)
    return found


def test_log_lines_and_access_line(running: Story) -> None:
    """The application's own lines and the server's access line carry the request's ID, and no query string."""
    name = "log-lines-0001"
    assert get(running, "/own/?token=query-secret", name) == {"here": name}

    lines = wait_until(
        lambda: (
            [line for line in running.of(name) if "access" in line["logger"]] and running.of(name)
        )
    )
    messages = {line["logger"]: line["message"] for line in lines}
    access = next(text for logger, text in messages.items() if "access" in logger)
    assert messages["story"] == "step one"
    assert messages["story.silent"] == "nobody's handler gets this"
    assert "/own/" in access
    assert "query-secret" not in running.file.read_text()
    assert all(line["service"] == "story" for line in lines)


def test_the_applications_format_string(running: Story) -> None:
    """`%(correlation_id)s` and `%(service)s` work in the application's own format."""
    name = "format-string-0001"
    get(running, "/own/", name)

    wait_until(lambda: f"[{name} story] story: step one" in running.server.stderr)


def test_djangos_own_lines(running: Story) -> None:
    """Django's lines on a page that is missing, one that fails, and one that is suspicious carry the ID."""
    paths = {"/nowhere/": "django.request", "/boom/": "django.request",
             "/suspicious/": "django.security.SuspiciousOperation"}  # fmt: skip
    for number, (path, logger) in enumerate(paths.items()):
        name = f"djangos-own-{number:04}"
        rawhttp.get(running.url + path, {"X-Request-ID": name})
        wait_until(lambda name=name: running.of(name))
        assert logger in {line["logger"] for line in running.of(name)}


def test_threads_and_pools(running: Story) -> None:
    """Threads and pools that a request uses are a part of it; the next request's are of the next."""
    for name in ("threads-0001", "threads-0002"):
        found = get(running, "/threads/", name)
        assert found == dict.fromkeys(found, name)


def test_tasks(running: Story) -> None:
    """Tasks of asyncio, and each crossing between async and sync code, are a part of the request."""
    if "gevent" in str(running.server.process.args):
        # All greenlets share an OS thread, and with it its running loop: `RuntimeError: asyncio.run()
        # cannot be called from a running event loop`, with the agent or without.
        pytest.skip("under gevent, asyncio refuses an event loop inside another one's thread")
    for name in ("tasks-0001", "tasks-0002"):
        found = get(running, "/tasks/", name)
        assert found == dict.fromkeys(found, name)


def test_child_processes(running: Story) -> None:
    """A command that a request starts has the request's ID; an environment of its own making stays so."""
    name = "child-0001"
    found = get(running, "/child/", name)

    assert found["inherited"].strip() == found["explicit"].strip() == name
    assert "INTROSPECT" not in found["bare"]
    commands = running.of(name, "command")
    assert [line["name"] for line in commands] == ["tell_id", "tell_id"]


def test_child_processes_of_event_loops(running: Story) -> None:
    """So does a command that an event loop starts, be it asyncio's own or uvloop's."""
    if "gevent" in str(running.server.process.args):
        pytest.skip("under gevent, asyncio refuses an event loop inside another one's thread")
    name = "child-of-a-loop-0001"
    found = get(running, "/child-of-a-loop/", name)

    assert found["inherited"].strip() == name
    assert len(running.of(name, "command")) == 1
    by_uvloop = "UvicornWorker" in str(running.server.process.args) and find_spec("uvloop")
    assert found["loop"] == ("uvloop" if by_uvloop else "asyncio")


def test_a_command_called_within_a_request_is_a_part_of_it(running: Story) -> None:
    """`call_command` in a view begins no unit of its own."""
    name = "call-command-0001"

    assert get(running, "/command/", name) == {"here": name, "kind": "request"}
    running.request(name)
    assert not running.of(name, "command")


@pytest.mark.parametrize(
    "given",
    ["short", "x" * 129, "has space in it", "semi;colon-0001", "new%0aline-0001", "ümlaut-0001",
     "<script>alert(1)</script>", "*/DROP-TABLE/*", ""],
)  # fmt: skip
def test_invalid_ids_are_nowhere(running: Story, given: str) -> None:
    """An ID of another form is replaced by a new one, and reaches no header and no line."""
    answer = rawhttp.get(f"{running.url}/own/", {"X-Request-ID": given})
    made = answer.header("X-Request-ID")

    assert made is not None
    assert UUID.fullmatch(made)
    assert json.loads(answer.body) == {"here": made}
    running.request(made)
    if len(given) > 5:
        assert given not in running.file.read_text()


NO_IDS = [
    "hostile", "hostile" + "x" * 122, "hostile id", "hostile*/ DROP TABLE x; /*", "hostile%s%d%n",
    "hostile'--", 'hostile"', "hostile;0001", "hostile,0001", "<hostile>", "hostile\t0001", "hostile\xff\xe9",
    "{hostile}", "$(hostile)", "hostile=0001", "hostile/0001", "hostile?0001", "hostile\\n0001",
]  # fmt: skip
HOSTILE_TRACE = "badc0ffee0badc0ffee0badc0ffee0ba"
NO_TRACEPARENTS = [
    f"ff-{HOSTILE_TRACE}-b7ad6b7169203331-01", f"00-{HOSTILE_TRACE}-0000000000000000-01",
    f"00-{HOSTILE_TRACE.upper()}-b7ad6b7169203331-01", f"00-{HOSTILE_TRACE}-b7ad6b7169203331-01-more",
    f"00-{HOSTILE_TRACE}-b7ad6b7169203331", f"0-{HOSTILE_TRACE}-b7ad6b7169203331-01",
    f"00-{HOSTILE_TRACE}-b7ad6b7169203331-0g", f"00-{'0' * 32}-b7ad6b7169203331-01", HOSTILE_TRACE,
]  # fmt: skip


@pytest.mark.parametrize("trust", ["1", "0"])
@pytest.mark.parametrize("server", ["gthread", "uvicorn"])
def test_what_is_not_accepted_gets_nowhere(
    stocked_site: Site, tmp_path: Path, web: Web, statsd: StatsdListener, server: str, trust: str
) -> None:
    """No invalid or untrusted value is in any log, statement, header or metric."""
    if trust == "1":
        given = [{"X-Request-ID": value, "X-Correlation-ID": value} for value in NO_IDS]
        given += [{"traceparent": value} for value in NO_TRACEPARENTS]
    else:
        parent = f"00-{HOSTILE_TRACE}-b7ad6b7169203331-01"
        given = [{"X-Request-ID": "hostile-0001", "traceparent": parent}]
    settings = {"SQL_COMMENT": "path,id", "DETAIL": "all", "STATSD": statsd.address}
    with story(
        server, stocked_site, tmp_path / "log", CORRELATION_TRUST=trust, **settings
    ) as running:
        answers = [rawhttp.get(f"{running.url}/relayed/?to={web.url}", more) for more in given]
        made = [str(answer.header("X-Request-ID")) for answer in answers]
        for name in made:
            running.request(name)
        statsd.wait_for_count("story.response.200", len(given))
        written = [running.file.read_text(), running.server.stdout, running.server.stderr]

    statements = [text for answer in answers for text in json.loads(answer.body)["sql"]]
    assert all(UUID.fullmatch(name) for name in made)
    assert len(set(made)) == len(given)
    assert len(statements) == len(made)
    for name, statement in zip(made, statements, strict=True):
        assert f"/* /relayed/ {name} */" in statement
    assert [headers["X-Request-ID"] for _, _, headers in web.seen] == made
    headers = [(answer.headers, answer.body) for answer in answers]
    for text in (*written, str(headers), str(web.seen), str(statsd.lines)):
        assert "hostile" not in text.lower()
        assert HOSTILE_TRACE not in text.lower()


def test_the_next_header_and_traceparent(running: Story) -> None:
    """Where the first header is not valid the next one counts, and of `traceparent` its trace ID."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    cases: list[tuple[dict[str, str], str]] = [
        ({"X-Request-ID": "bad one", "X-Correlation-ID": "second-0001"}, "second-0001"),
        ({"traceparent": f"00-{trace}-b7ad6b7169203331-01"}, trace),
        (
            {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "X-Request-ID": "first-0001"},
            "first-0001",
        ),
    ]
    for headers, expected in cases:
        answer = rawhttp.get(f"{running.url}/own/", headers)
        assert json.loads(answer.body) == {"here": expected}
        assert answer.header("X-Request-ID") == expected
    assert running.request("first-0001")["parent_id"] == "b7ad6b7169203331"


def test_requests_do_not_see_each_other(running: Story) -> None:
    """On connections that are kept alive, at once and in turn, each request has its own ID and no other, on its access line, too."""
    failures: list[object] = []
    answered: dict[str, str] = {}

    def client(letter: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", running.server.port, timeout=30)
        for number in range(10):
            path = f"/own/{letter}-{number}/"
            headers = {"X-Request-ID": f"client-{letter}-{number:04}"} if number % 2 else {}
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            here = json.loads(answer.read())["here"]
            answered[path] = here
            if here != answer.headers["X-Request-ID"] or (
                headers and here != headers["X-Request-ID"]
            ):
                failures.append((here, headers, answer.headers["X-Request-ID"]))
        connection.close()

    threads = [threading.Thread(target=client, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures
    ids = [line["correlation_id"] for line in running.lines() if line.get("kind") == "request"]
    assert len(ids) == len(set(ids))
    assert len(answered) == 40
    lines = wait_until(
        lambda: len(found := access_lines(running, r"/own/[a-d]-\d/")) == 40 and found
    )
    assert dict(lines) == answered


def access_lines(running: Story, path: str) -> list[tuple[str, str]]:
    """Return path and ID of each access line so far whose path matches."""
    return [
        (match[1], line["correlation_id"])
        for line in running.lines()
        if "access" in line["logger"]
        and (match := re.search(rf'"GET ({path}) HTTP/1\.1"', line["message"]))
    ]


def test_a_request_that_the_server_refuses_has_no_id_of_another(running: Story) -> None:
    """What the server says of a request that never reaches Django bears no earlier request's ID."""
    get(running, "/own/", "before-refused-0001")
    with socket.create_connection(("127.0.0.1", running.server.port), 10) as connection:
        connection.sendall(b"GET /\x00 REFUSED\r\n\r\n")
        connection.recv(1000)

    get(running, "/own/", "after-refused-0001")
    refusals = [
        line
        for line in running.lines()
        if line["logger"] in ("gunicorn.error", "uvicorn.error") and line["level"] == "WARNING"
    ]
    assert refusals
    assert {line["correlation_id"] for line in refusals} == {"-"}


@pytest.mark.parametrize(("under", "shown"), [(introspect_run(), "documented-0001"), ([], "-")])
def test_uvicorns_access_lines_as_documented(
    stocked_site: Site, tmp_path: Path, under: list[str], shown: str
) -> None:
    """The log configuration in `docs/servers/uvicorn.md` shows the ID, and `-` where the agent is not there."""
    document = (REPOSITORY / "docs" / "servers" / "uvicorn.md").read_text()
    [snippet] = re.findall(r"^```json\n(.*?)^```$", document, re.DOTALL | re.MULTILINE)
    configuration = tmp_path / "log.json"
    configuration.write_text(snippet)
    command = [*under, *SERVERS["uvicorn"], f"--log-config={configuration}"]

    # The site of `tests/project`: the story's own format needs the agent.
    env = {**environment(stocked_site, tmp_path / "log"), "DJANGO_SETTINGS_MODULE": "shop.settings"}
    with serve(command, env, PROJECT) as server:
        rawhttp.get(f"{server.base_url}/nowhere/", {"X-Request-ID": "documented-0001"})
        line = wait_until(lambda: re.search(r".*GET /nowhere/.*", server.stdout))
        assert "Logging error" not in server.stderr

    assert re.search(r'127\.0\.0\.1:\d+ - "GET /nowhere/ HTTP/1\.1" 404', line.group())
    assert line.group().endswith(f" {shown}")


def test_runservers_lines(stocked_site: Site, tmp_path: Path) -> None:
    """`django.server` bears a request's ID, and not for what comes next on the connection and is no request."""
    with story("runserver", stocked_site, tmp_path / "log") as running:
        with socket.create_connection(("127.0.0.1", running.server.port), 10) as connection:
            connection.sendall(
                b"GET /own/ HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: runserver-0001\r\n\r\n"
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            running.request("runserver-0001")
            connection.sendall(b"GET / REFUSED\r\n\r\n")
            connection.recv(1000)
        said = wait_until(
            lambda: _said_by("django.server", running)[2:] and _said_by("django.server", running)
        )

    # How many lines a refusal takes depends on Python.
    first, *others = (line["correlation_id"] for line in said)
    assert first == "runserver-0001"
    assert set(others) == {"-"}
    assert any("REFUSED" in line["message"] for line in said[1:])


def _said_by(logger: str, running: Story) -> list[dict[str, Any]]:
    return [line for line in running.lines() if line["logger"] == logger]


def test_an_untrusted_id_is_ignored(stocked_site: Site, tmp_path: Path) -> None:
    """With trust off, what comes from outside is neither used nor passed on nor shown."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    with story("gthread", stocked_site, tmp_path / "log", CORRELATION_TRUST="0") as running:
        answer = rawhttp.get(
            f"{running.url}/own/",
            {"X-Request-ID": "untrusted-0001", "traceparent": f"00-{trace}-b7ad6b7169203331-01"},
        )
        made = answer.header("X-Request-ID")
        assert made is not None
        assert UUID.fullmatch(made)
        line = running.request(made)

    assert "parent_id" not in line
    text = running.file.read_text()
    assert "untrusted" not in text
    assert trace not in text


def test_later_logging_configuration(stocked_site: Site, tmp_path: Path) -> None:
    """A `dictConfig` in the middle of things changes nothing for the JSON lines."""
    with story("sync", stocked_site, tmp_path / "log") as running:
        rawhttp.get(f"{running.url}/reconfigured/", {"X-Request-ID": "configured-0001"})
        running.request("configured-0001")

    messages = [line["message"] for line in running.of("configured-0001")]
    assert messages.count("after a later dictConfig") == 1


def test_commands_have_ids_of_their_own(stocked_site: Site, tmp_path: Path) -> None:
    """Each command run by hand has a new ID, which its lines bear."""
    file = tmp_path / "log"
    first = manage(stocked_site, file, "tell_id")
    second = manage(stocked_site, file, "tell_id")

    ids = [done.stdout.strip() for done in (first, second)]
    assert all(UUID.fullmatch(found) for found in ids), first.stderr
    assert ids[0] != ids[1]
    lines = [json.loads(line) for line in file.read_text().split("\n")[:-1]]
    assert {line["correlation_id"] for line in lines} == set(ids)
