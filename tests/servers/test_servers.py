"""Every server that Django sites run on, with and without the agent: same bytes, and each request counted once."""

from __future__ import annotations

import collections
import contextlib
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.conftest import available
from tests.docs.test_snippets import snippets
from tests.helpers import rawhttp
from tests.helpers.ports import LOOPBACK, free_port
from tests.helpers.processes import introspect_run, script, wait_until
from tests.helpers.serve import Server, serve
from tests.helpers.services import EtsyStatsd, private_etsy_statsd
from tests.helpers.site import PROJECT, SERVICE, Site
from tests.helpers.statsd import StatsdListener

# gunicorn from 25 on opens a control socket in the working directory, which two gunicorns would share.
_GUNICORN = [script("gunicorn"), "--bind={host}:{port}", "--workers=2", "--no-control-socket"]
_UWSGI = [
    script("uwsgi"),
    "--http-socket={host}:{port}",
    "--master",
    "--processes=2",
    "--need-app",
    "--die-on-term",
]
_UWSGI += ["--module=shop.wsgi", f"--virtualenv={sys.prefix}"]
_RUNSERVER = [sys.executable, str(PROJECT / "manage.py"), "runserver", "{host}:{port}"]

SERVERS = {
    "gunicorn-sync": [*_GUNICORN, "--worker-class=sync", "shop.wsgi"],
    "gunicorn-gthread": [*_GUNICORN, "--worker-class=gthread", "--threads=4", "shop.wsgi"],
    "gunicorn-gevent": [*_GUNICORN, "--worker-class=gevent", "shop.wsgi"],
    "gunicorn-uvicorn": [*_GUNICORN, "--worker-class=uvicorn_worker.UvicornWorker", "shop.asgi"],
    "uvicorn": [script("uvicorn"), "--host={host}", "--port={port}", "shop.asgi:application"],
    "daphne": [script("daphne"), "-b", "{host}", "-p", "{port}", "shop.asgi:application"],
    "runserver": _RUNSERVER,
    "runserver-daphne": [*_RUNSERVER, "--settings=shop.daphne_settings"],
    "uwsgi": _UWSGI,
}

# What holds of each worker is seen best where there is one.
ONE_WORKER = [*SERVERS["gunicorn-sync"], "--workers=1"]

VARIANTS = [
    *((name, ()) for name in SERVERS),
    *((f"gunicorn-{kind}", ("--preload",)) for kind in ("sync", "gthread", "uvicorn")),
    ("gunicorn-gevent", ("--preload", "--config=gevent_first.py")),
    *((name, ("--max-requests=5",)) for name in SERVERS if name.startswith("gunicorn")),
    ("gunicorn-gthread", ("--preload", "--max-requests=5")),
    ("uvicorn", ("--workers=2",)),
    ("uvicorn", ("--reload",)),
    ("uvicorn", ("--loop=asyncio",)),  # else it takes uvloop's, where that is installed
    ("uwsgi", ("--enable-threads",)),
    ("uwsgi", ("--lazy-apps",)),
    ("uwsgi", ("--py-call-uwsgi-fork-hooks",)),
    ("uwsgi", ("--max-requests=5",)),
    ("uwsgi", ("--max-requests=5", "--skip-atexit")),
]

# Path and headers; the same bytes come back each time.
REQUESTS: list[tuple[str, dict[str, str]]] = [
    *(
        (path, {})
        for path in [
            "/",
            "/plain/",
            "/plain/?q=1",
            "/late-template/",
            "/async-plain/",
            "/async-queries/",
            "/async-error/",
            "/stream/",
            "/async-stream/",
            "/download/",
            "/class/",
            "/async-class/",
            "/books/",
            "/shelf/a/books/1/",
            "/shelf/a/books/99/",
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
            "/queries/5/",
            "/cursor/",
            "/sell/",
            "/broken-sql/",
            "/log/",
            "/cached/",
            "/whoami/",
            "/plain",
            "/nowhere/",
            "/nowhere/%E2%82%AC%0A/",
        ]
    ),
    ("/plain/", {"X-Early": "1"}),
    ("/plain/", {"X-Early": "raise"}),
    ("/plain/", {"Host": "elsewhere.example"}),
]


def words(name: str, options: tuple[str, ...]) -> list[str]:
    """Return the command of a server with more options, which go before the application's name."""
    program, *rest = SERVERS[name]
    return [program, *options, *rest]


def answers(server: Server) -> list[object]:
    """Send every request of `REQUESTS` and return what came back, comparable from run to run."""
    return [asked(server.base_url + path, headers).comparable() for path, headers in REQUESTS]


def asked(url: str, headers: dict[str, str]) -> rawhttp.RawResponse:
    """Send a request, again where a worker that was about to end has taken the connection unread.

    Uvicorn's worker, once it has served `--max-requests`, resets or closes what it has accepted since.
    """
    for _ in range(5):
        with contextlib.suppress(ConnectionError):
            return rawhttp.get(url, headers)
        time.sleep(0.5)
    return rawhttp.get(url, headers)


@contextlib.contextmanager
def under_agent(
    command: Sequence[str], site: Site, statsd: StatsdListener, **variables: str
) -> Iterator[Server]:
    """Serve the site under `introspect-run`, which reports to `statsd`; all has arrived when the block ends."""
    env = site.environment(INTROSPECT_STATSD=statsd.address, **variables)
    with serve([*introspect_run(), *command], env, PROJECT) as server:
        yield server
        statsd.settle()


@pytest.fixture(scope="module")
def plain_answers(stocked_site: Site) -> Callable[[str], list[object]]:
    """What each server answers without the agent; each is asked once."""
    known: dict[str, list[object]] = {}

    def of(name: str) -> list[object]:
        if name not in known:
            with serve(SERVERS[name], stocked_site.environment(), cwd=PROJECT) as server:
                known[name] = answers(server)
        return known[name]

    return of


@pytest.mark.parametrize(
    ("name", "options"),
    VARIANTS,
    ids=lambda value: value if isinstance(value, str) else "".join(value),
)
def test_same_bytes_and_each_request_counted_once(
    name: str,
    options: tuple[str, ...],
    stocked_site: Site,
    statsd: StatsdListener,
    plain_answers: Callable[[str], list[object]],
) -> None:
    """Under the agent a server answers what it did without, chunk by chunk, and every request is counted exactly once."""
    if name == "gunicorn-gevent" and sys.version_info >= (3, 14):
        pytest.skip("gunicorn's gevent worker does not answer there without the agent either")
    with under_agent(words(name, options), stocked_site, statsd) as server:
        assert_answers(server, plain_answers(name), statsd)
    assert_counts(plain_answers(name), statsd)


def assert_answers(server: Server, expected: list[object], statsd: StatsdListener) -> None:
    """Assert that a server answers every request as expected, and wait until as many have been counted."""
    got = answers(server)
    for (path, headers), before, after in zip(REQUESTS, expected, got, strict=True):
        assert after == before, (path, headers)
    statsd.wait_for_count(f"{SERVICE}.request", len(REQUESTS))


def assert_counts(expected: list[object], statsd: StatsdListener) -> None:
    """Assert that every request has been counted exactly once, with its view and status."""
    statuses = collections.Counter(int(status_line.split()[1]) for status_line, _, _ in expected)

    assert statsd.count(f"{SERVICE}.request") == len(REQUESTS)
    assert {status: statsd.count(f"{SERVICE}.response.{status}") for status in statuses} == statuses
    assert sum(
        line.weight for line in statsd.lines if line.name.startswith(f"{SERVICE}.view.")
    ) == len(REQUESTS)


@pytest.mark.parametrize(
    "options",
    [
        ("--ini={folder}/mysite.ini", "--http-socket={host}:{port}"),
        ("--emperor={folder}", "--vassal-set=http-socket={host}:{port}"),
    ],
    ids=["ini", "emperor"],
)
def test_uwsgis_documented_file(
    options: tuple[str, ...],
    stocked_site: Site,
    statsd: StatsdListener,
    plain_answers: Callable[[str], list[object]],
    tmp_path: Path,
) -> None:
    """The settings in the documented file hold, for itself and for an emperor's vassal: same bytes, each request counted once."""
    (text,) = snippets("docs/servers/uwsgi.md", "ini")
    for documented, here in (
        ("module = mysite.wsgi", f"module = shop.wsgi\nvirtualenv = {sys.prefix}"),
        ("udp://127.0.0.1:8125", statsd.address),
    ):
        assert documented in text
        text = text.replace(documented, here)
    (tmp_path / "mysite.ini").write_text(text)
    command = [script("uwsgi"), *(word.replace("{folder}", str(tmp_path)) for word in options)]
    env = stocked_site.environment(INTROSPECT_STATSD="off")

    with serve([*introspect_run(), *command, "--die-on-term"], env, PROJECT) as server:
        assert_answers(server, plain_answers("uwsgi"), statsd)
        statsd.settle()
    assert_counts(plain_answers("uwsgi"), statsd)


@pytest.mark.parametrize("name", SERVERS)
def test_counts_are_exact_when_requests_come_at_once(
    name: str, stocked_site: Site, statsd: StatsdListener
) -> None:
    """Sixty requests over eight connections at a time are counted as sixty, each under its own view."""
    # Two async views at once in gevent's one thread are more than asgiref can do, agent or not.
    slow = "async_slow" if "asgi" in " ".join(SERVERS[name]) else "slow"
    paths = ["/plain/", "/queries/2/", f"/{slow.replace('_', '-')}/3/"] * 20

    with under_agent(SERVERS[name], stocked_site, statsd) as server:
        with ThreadPoolExecutor(8) as pool:
            statuses = list(
                pool.map(lambda path: rawhttp.get(server.base_url + path).status, paths)
            )
        statsd.wait_for_count(f"{SERVICE}.request", len(paths))

    assert statuses == [200] * len(paths)
    assert statsd.count(f"{SERVICE}.request") == len(paths)
    for view in ("plain", "queries", slow):
        assert statsd.count(f"{SERVICE}.view.books_views_{view}.GET") == 20
    assert statsd.count(f"{SERVICE}.db.default.select") == 40


@pytest.mark.parametrize(
    "name", ["gunicorn-sync", "gunicorn-gthread", "gunicorn-gevent", "uvicorn", "daphne", "uwsgi"]
)
def test_a_client_that_leaves_early_is_counted_once(
    name: str, stocked_site: Site, statsd: StatsdListener
) -> None:
    """A client that hangs up before the answer costs no second count, and the next client is served."""
    with under_agent(SERVERS[name], stocked_site, statsd) as server:
        with socket.create_connection((server.host, server.port)) as connection:
            connection.sendall(b"GET /async-slow/200/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert rawhttp.get(f"{server.base_url}/plain/").status == 200
        statsd.wait_for_count(f"{SERVICE}.view.books_views_plain.GET", 1)
        statsd.settle(1.0)

    assert statsd.count(f"{SERVICE}.request") in {1, 2}  # a server may notice before it asks Django
    assert statsd.count(f"{SERVICE}.view.books_views_async_slow.GET") <= 1


# Under daphne the client is left to wait for the rest, agent or not.
@pytest.mark.parametrize("name", [name for name in SERVERS if "daphne" not in name])
def test_an_exception_in_the_midst_of_a_stream(
    name: str, stocked_site: Site, statsd: StatsdListener
) -> None:
    """What a streamed response raises is counted once under its view, whoever sends it, and its request once, with the status that was sent."""
    with under_agent(SERVERS[name], stocked_site, statsd) as server:
        assert rawhttp.get(f"{server.base_url}/stream-error/").status == 200
        statsd.wait_for_count(f"{SERVICE}.request", 1)
    statsd.catch_up()

    assert statsd.count(f"{SERVICE}.request") == statsd.count(f"{SERVICE}.response.200") == 1
    assert statsd.count(f"{SERVICE}.view.books_views_stream_error.GET") == 1
    exceptions = [line.name for line in statsd.lines if ".exception." in line.name]
    assert exceptions == [f"{SERVICE}.exception.ValueError.books_views_stream_error"]


@pytest.mark.parametrize("name", ["gunicorn-gthread", "uvicorn", "daphne"])
def test_requests_of_one_connection_are_counted_one_by_one(
    name: str, stocked_site: Site, statsd: StatsdListener
) -> None:
    """A kept connection's requests are each counted, under the view that each of them asked."""
    with under_agent(SERVERS[name], stocked_site, statsd) as server:
        host = f"Host: {server.host}\r\n\r\n"
        message = f"GET /plain/ HTTP/1.1\r\n{host}GET /partial/ HTTP/1.1\r\n{host}"
        with socket.create_connection((server.host, server.port), timeout=60) as connection:
            connection.sendall(message.encode())
            received = b""
            while b"hello from a partial" not in received and (more := connection.recv(65_536)):
                received += more
        statsd.wait_for_count(f"{SERVICE}.request", 2)

    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert statsd.count(f"{SERVICE}.request") == 2
    assert statsd.count(f"{SERVICE}.view.books_views_plain.GET") == 1
    assert statsd.count(f"{SERVICE}.view.books_views_greet.GET") == 1


def test_streams_are_compared_chunk_by_chunk(
    plain_answers: Callable[[str], list[object]],
) -> None:
    """What the servers are compared by are a stream's very chunks, which gunicorn makes of each line of the view's."""
    stream = plain_answers("gunicorn-sync")[REQUESTS.index(("/stream/", {}))]
    _status_line, headers, body = stream  # type: ignore[misc]

    assert b"Transfer-Encoding: chunked" in headers
    chunks = body.split(b"\r\n")
    assert chunks[::2] == [*[b"%X" % len(line) for line in chunks[1:-3:2]], b"0", b""]
    assert [line[:2] for line in chunks[1:-3:2]] == [b"%d " % number for number in range(5)]


def test_a_request_is_one_datagram_when_it_is_over(
    stocked_site: Site, statsd: StatsdListener
) -> None:
    """What a worker has measured in a request leaves in one datagram: a stream's not before the stream is over."""
    count = 10
    with (
        socket.create_server((LOOPBACK, 0)) as outgoing,
        under_agent(
            ONE_WORKER,
            stocked_site,
            statsd,
            PROJECT_OUTGOING=f"http://{LOOPBACK}:{outgoing.getsockname()[1]}/",
        ) as server,
    ):
        outgoing.settimeout(20)
        with socket.create_connection((server.host, server.port), timeout=20) as client:
            client.sendall(b"GET /held-stream/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            called, _ = outgoing.accept()
            with called:  # in the midst of the stream, whose first line has been sent
                statsd.catch_up()
                assert f"{SERVICE}.request" not in statsd.names()
                called.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            received = b""
            while piece := client.recv(65_536):
                received += piece
        for _ in range(count):
            assert rawhttp.get(f"{server.base_url}/").status == 200
        statsd.wait_for_count(f"{SERVICE}.request", 1 + count)

    assert received.endswith(b"\r\n4\r\n200\n\r\n0\r\n\r\n")
    told = [names_in(datagram) for datagram in statsd.datagrams]
    stream, *pages = [names for names in told if "request" in names]
    assert {"http.127_0_0_1", "view.books_views_held_stream.GET", "response.200"} <= set(stream)
    assert len(pages) == count
    assert pages[0]["db.default.select"] == 2
    assert pages == [pages[0]] * count
    assert stream["request"] == pages[0]["request"] == pages[0]["response.200"] == 1
    # What belongs to no request goes by itself: what the server logs before and after.
    others = {name.partition(".")[0] for names in told if "request" not in names for name in names}
    assert others <= {"log"}


def names_in(datagram: bytes) -> collections.Counter[str]:
    """Return the names in a datagram, without what the agent tells of the process and of itself."""
    names = (line.partition(":")[0].partition(".")[2] for line in datagram.decode().split("\n"))
    return collections.Counter(
        name for name in names if not name.startswith(("process.", "introspect."))
    )


def test_no_thread_is_added(stocked_site: Site, statsd: StatsdListener) -> None:
    """After twenty requests a worker has as many threads under the agent as it has without."""

    def threads(server: Server) -> int:
        for _ in range(20):
            assert rawhttp.get(f"{server.base_url}/").status == 200
        (worker,) = psutil.Process(server.pid).children()
        return len(os.listdir(f"/proc/{worker.pid}/task"))

    with serve(ONE_WORKER, stocked_site.environment(), PROJECT) as server:
        expected = threads(server)
    with under_agent(ONE_WORKER, stocked_site, statsd) as server:
        assert threads(server) == expected
        statsd.wait_for_count(f"{SERVICE}.request", 20)


# A sitecustomize of the environment's own. Whoever answers for the machine's names is not asked.
UNKNOWN_HOST = """
import socket

getaddrinfo = socket.getaddrinfo

def without_one(host, *more, **named):
    if host == "no.such.invalid":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return getaddrinfo(host, *more, **named)

socket.getaddrinfo = without_one
"""


def test_statsd_under_a_name_that_nobody_knows(
    stocked_site: Site, plain_answers: Callable[[str], list[object]], tmp_path: Path
) -> None:
    """A StatsD whose host is unknown changes no byte of any answer, and a worker says so in one line."""
    (tmp_path / "sitecustomize.py").write_text(UNKNOWN_HOST)
    env = stocked_site.environment(
        INTROSPECT_STATSD="udp://no.such.invalid:8125", PYTHONPATH=str(tmp_path)
    )
    with serve([*introspect_run(), *ONE_WORKER], env, PROJECT) as server:
        assert answers(server) == plain_answers("gunicorn-sync")
        said = [line for line in server.stderr.splitlines() if line.startswith("introspect")]

    assert len(said) == 1
    assert "StatsD at udp://no.such.invalid:8125 cannot be reached" in said[0]
    assert "Name or service not known" in said[0]


def test_uwsgi_without_threads_reaches_statsd_over_tcp(stocked_site: Site) -> None:
    """Where threads run only while somebody waits, the one that connects does, and no request is lost."""
    count = 20
    with socket.create_server((LOOPBACK, 0)) as statsd:
        statsd.settimeout(20)
        env = stocked_site.environment(
            INTROSPECT_STATSD=f"tcp://{LOOPBACK}:{statsd.getsockname()[1]}"
        )
        command = [*introspect_run(), *SERVERS["uwsgi"], "--processes=1"]
        with serve(command, env, PROJECT) as server:
            # Only for so long does the first request wait for a connection: it may cost that one's lines.
            wait_until(lambda: rawhttp.get(f"{server.base_url}/nowhere/") and is_readable(statsd))
            connection, _ = statsd.accept()
            with connection:
                connection.settimeout(20)
                for _ in range(count):
                    assert rawhttp.get(f"{server.base_url}/plain/").status == 200
                received = b""
                while received.count(b"shop.response.200:") < count:
                    more = connection.recv(65_536)
                    assert more, received
                    received += more


def is_readable(waiting: socket.socket) -> bool:
    """Tell whether something has come, or somebody."""
    return bool(select.select([waiting], [], [], 0)[0])


@contextlib.contextmanager
def reached_by(way: str, folder: Path) -> Iterator[StatsdListener | EtsyStatsd]:
    """Give a StatsD server that is reached in another way than by UDP."""
    if way == "etsy-tcp":
        tcp_port = free_port()
        with available(lambda: private_etsy_statsd(tcp_port)) as port:
            yield EtsyStatsd(LOOPBACK, port, f"tcp://{LOOPBACK}:{tcp_port}")
    else:
        path = folder / "statsd.sock" if way.startswith("unix") else None
        with contextlib.closing(StatsdListener(way, path)) as listener:
            yield listener


@pytest.mark.parametrize(
    "way",
    ["unix-datagram", "unix-stream", "tcp", pytest.param("etsy-tcp", marks=pytest.mark.host_only)],
)
def test_every_way_to_statsd(way: str, stocked_site: Site, tmp_path: Path) -> None:
    """By a Unix socket of either kind and by TCP, once the way is open, each request is counted once at the other end."""
    lost, counted = f"{SERVICE}.response.404", f"{SERVICE}.response.200"
    command = [*introspect_run(), *SERVERS["gunicorn-gthread"], "--workers=1"]
    with reached_by(way, tmp_path) as statsd:
        env = stocked_site.environment(INTROSPECT_STATSD=statsd.address)
        with serve(command, env, PROJECT) as server:
            rawhttp.get(f"{server.base_url}/nowhere/")  # is answered when the worker is up
            # Only for so long does the first request wait for a connection: it may cost that one's lines.
            wait_until(lambda: rawhttp.get(f"{server.base_url}/nowhere/") and statsd.count(lost))
            for number in range(1, 21):
                assert rawhttp.get(f"{server.base_url}/plain/").status == 200
                statsd.wait_for_count(counted, number)
        statsd.catch_up()
        assert statsd.count(counted) == 20


def test_etsy_statsd_accepts_every_line(stocked_site: Site, etsy_statsd: EtsyStatsd) -> None:
    """Etsy's statsd refuses no line of all that a gunicorn under the agent sends, and counts each request."""
    refused, counted = etsy_statsd.bad_lines(), etsy_statsd.count("etsy.response.")
    env = stocked_site.environment(INTROSPECT_STATSD=etsy_statsd.address, INTROSPECT_SERVICE="etsy")

    with serve([*introspect_run(), *SERVERS["gunicorn-gthread"]], env, PROJECT) as server:
        answers(server)
    expected = counted + len(REQUESTS)
    etsy_statsd.wait_for_count("etsy.response.", expected)

    assert etsy_statsd.count("etsy.response.") == expected
    assert etsy_statsd.bad_lines() == refused
    assert {
        "etsy.request",
        "etsy.view.books_views_plain.GET",
        "etsy.db.default.select",
    } <= etsy_statsd.timers()
    assert etsy_statsd.counters()["etsy.response.410"] == 1
