"""Calls by urllib3 to a real server: each counts once, and the library behaves as ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3
from urllib3.util import Retry

from tests.helpers.ports import free_port
from tests.instrumentations.conftest import Agent
from tests.instrumentations.http_server import Server
from tests.instrumentations.raised import raised

HOST = "127_0_0_1"

ONE = {f"http.{HOST}": 1, f"http.status.{HOST}.200": 1}


@pytest.fixture
def manager() -> Iterator[urllib3.PoolManager]:
    """A pool manager."""
    with urllib3.PoolManager() as made:
        yield made


@pytest.fixture
def pool(web: Server) -> Iterator[urllib3.HTTPConnectionPool]:
    """A pool of connections to the server, used without a manager."""
    with urllib3.HTTPConnectionPool(web.host, web.port) as made:
        yield made


def test_a_call_counts_once(web: Server, manager: urllib3.PoolManager, agent: Agent) -> None:
    """http.client sees the call, too, and leaves it to urllib3."""
    assert manager.request("GET", web.url).data == b"hello"
    assert agent.counts("http") == ONE


@pytest.mark.parametrize("method", ["manager", "pool"])
def test_redirects_and_retries_are_part_of_the_call(
    web: Server, request: pytest.FixtureRequest, agent: Agent, method: str
) -> None:
    """However many requests go over the wire, the application has made one call."""
    caller = request.getfixturevalue(method)
    base = web.url if method == "manager" else ""

    assert caller.request("GET", f"{base}/redirect/3").data == b"hello"
    assert len(web.seen) == 4
    assert agent.counts("http") == ONE
    agent.clear()
    assert (
        caller.request("GET", f"{base}/flaky", retries=Retry(5, status_forcelist=[503])).status
        == 200
    )
    assert len(web.seen) == 7
    assert agent.counts("http") == ONE


def test_a_redirect_to_another_host(
    web: Server, manager: urllib3.PoolManager, agent: Agent
) -> None:
    """The call counts under the host that the application has named."""
    other = f"http://localhost:{web.port}/"

    assert manager.request("GET", f"{web.url}/to?{other}").data == b"hello"
    assert agent.counts("http") == ONE


@pytest.mark.parametrize("status", [404, 500])
def test_statuses(web: Server, manager: urllib3.PoolManager, agent: Agent, status: int) -> None:
    """Whatever the status, it is an answer."""
    assert manager.request("GET", f"{web.url}/status/{status}").status == status
    assert agent.counts("http") == {f"http.{HOST}": 1, f"http.status.{HOST}.{status}": 1}


def test_calls_without_an_answer(web: Server, manager: urllib3.PoolManager, agent: Agent) -> None:
    """They are counted by the class of what urllib3 raises; the next call counts as ever."""
    refused = f"http://127.0.0.1:{free_port()}/"
    failures: list[tuple[str, Callable[[], Any]]] = [
        ("MaxRetryError", lambda: manager.request("GET", refused)),
        ("NewConnectionError", lambda: manager.request("GET", refused, retries=False)),
        ("ReadTimeoutError", lambda: manager.request("GET", f"{web.url}/slow", timeout=0.05, retries=False)),
        ("ProtocolError", lambda: manager.request("GET", f"{web.url}/drop", retries=False)),
        ("MaxRetryError", lambda: manager.request("GET", f"{web.url}/redirect/5", retries=2)),
    ]  # fmt: skip
    for name, call in failures:
        with pytest.raises(getattr(urllib3.exceptions, name)):
            call()
    manager.request("GET", web.url)

    assert agent.counts("http") == {
        f"http.{HOST}": 6,
        f"http.error.{HOST}.MaxRetryError": 2,
        f"http.error.{HOST}.NewConnectionError": 1,
        f"http.error.{HOST}.ReadTimeoutError": 1,
        f"http.error.{HOST}.ProtocolError": 1,
        f"http.status.{HOST}.200": 1,
    }


@pytest.mark.parametrize(
    ("url", "error", "host"),
    [
        ("http://", "LocationValueError", "unknown"),
        ("http:///path", "LocationValueError", "unknown"),
        ("http://[::1", "LocationParseError", "unknown"),
        ("http://x:port/", "LocationParseError", "x"),
        ("http://bob:hunter2@/path", "LocationValueError", "unknown"),
        ("http://bob:hunter2@[::1/path", "LocationParseError", "unknown"),
        ("http://bob:hunter2@x:port/", "LocationParseError", "x"),
        ("http://bob:hunter2@127.0.0.1:{free}/", "MaxRetryError", HOST),
        ("http://127.0.0.1:{web}/to?http://bob:hunter2@/path", "LocationValueError", HOST),
    ],
)
def test_addresses_that_urllib3_refuses(
    web: Server,
    manager: urllib3.PoolManager,
    start_agent: Callable[..., Agent],
    url: str,
    error: str,
    host: str,
) -> None:
    """The exception is that of urllib3; a call counts once, under its host, or as of an unknown one."""
    url = url.format(free=free_port(), web=web.port)

    def call() -> Any:
        return manager.request("GET", url, retries=Retry(connect=0, redirect=1))

    without = raised(call)
    agent = start_agent()

    assert raised(call) == without
    assert without[0][0] is getattr(urllib3.exceptions, error)
    assert agent.counts("http") == {f"http.{host}": 1, f"http.error.{host}.{error}": 1}


def test_a_pool_whose_host_has_credentials(
    unresolvable: None, start_agent: Callable[..., Agent]
) -> None:
    """What somebody has left in a pool's host, and urllib3 takes for the name, is no part of a metric's."""

    def call() -> Any:
        with urllib3.HTTPConnectionPool("bob:hunter2@far.example", 80) as pool:
            return pool.request("GET", "/", retries=False)

    without = raised(call)
    agent = start_agent()

    assert raised(call) == without
    error = without[0][0].__name__
    assert agent.counts("http") == {
        "http.far_example": 1,
        f"http.error.far_example.{error}": 1,
    }


def test_credentials_are_no_part_of_a_name(
    web: Server, manager: urllib3.PoolManager, agent: Agent
) -> None:
    """Neither user nor password, nor what looks like one, nor the port."""
    for userinfo in ("user:secret", "a@b:secret", "user"):
        manager.request("GET", f"http://{userinfo}@127.0.0.1:{web.port}/secret?secret=1")

    assert agent.counts("http") == dict.fromkeys(ONE, 3)


def test_a_proxy_is_not_the_host(web: Server, agent: Agent) -> None:
    """A call through a proxy counts under the host that it is meant for."""
    with urllib3.ProxyManager(web.url) as proxy:
        assert proxy.request("GET", "http://far.example/x").data == b"by proxy"

    assert agent.counts("http") == {"http.far_example": 1, "http.status.far_example.200": 1}


def test_arguments_in_every_form(
    web: Server, pool: urllib3.HTTPConnectionPool, agent: Agent
) -> None:
    """`urlopen` takes its arguments by position and by name, in whichever order its version has."""
    pool.urlopen("GET", "/")
    pool.urlopen("POST", "/", b"body", {"X-Mine": "1"})
    pool.urlopen(url="/", method="GET")
    pool.urlopen("GET", url="/", headers={"X-Mine": "1"})
    with pytest.raises(TypeError):
        pool.urlopen()  # type: ignore[call-arg]

    assert agent.counts("http.status") == {f"http.status.{HOST}.200": 4}
    assert web.seen[1][2]["X-Mine"] == web.seen[3][2]["X-Mine"] == "1"


def test_a_body_is_streamed_as_ever(
    web: Server, manager: urllib3.PoolManager, agent: Agent
) -> None:
    """The call has ended when the headers are there; the body is the application's to read."""
    response = manager.request("GET", f"{web.url}/stream", preload_content=False)

    assert agent.counts("http") == ONE
    assert b"".join(response.stream(7)) == b"0123456789" * 3
    response.release_conn()


def test_connections_are_reused_as_ever(
    web: Server, pool: urllib3.HTTPConnectionPool, agent: Agent
) -> None:
    """Ten calls over one connection are ten calls."""
    for _ in range(10):
        pool.request("GET", "/")

    assert (pool.num_connections, pool.num_requests) == (1, 10)
    assert agent.counts("http") == {f"http.{HOST}": 10, f"http.status.{HOST}.200": 10}


def test_the_callers_headers_are_left_alone(
    web: Server, manager: urllib3.PoolManager, agent: Agent
) -> None:
    """Dictionaries of the application's are never written to."""
    mine = {"X-Mine": "1"}
    manager.headers = {"X-Default": "2"}

    manager.request("GET", web.url, headers=mine)
    manager.request("GET", web.url)

    assert mine == {"X-Mine": "1"}
    assert manager.headers == {"X-Default": "2"}


def test_calls_of_threads_are_their_own(
    web: Server, manager: urllib3.PoolManager, agent: Agent
) -> None:
    """A call in one thread hides none of another's."""
    threads = [
        threading.Thread(target=lambda: [manager.request("GET", web.url) for _ in range(5)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert agent.counts("http") == {f"http.{HOST}": 40, f"http.status.{HOST}.200": 40}
