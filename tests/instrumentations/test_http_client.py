"""Calls by http.client and urllib to a real server: each counts once, and the library behaves as ever."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

import pytest

from tests.helpers.ports import free_port
from tests.instrumentations.conftest import Agent
from tests.instrumentations.handlers import fetch_wsgi, urlconf
from tests.instrumentations.http_server import Server

HOST = "127_0_0_1"

ONE = {f"http.{HOST}": 1, f"http.status.{HOST}.200": 1}


@pytest.fixture
def connection(web: Server) -> Iterator[http.client.HTTPConnection]:
    """A connection to the server."""
    made = http.client.HTTPConnection(web.host, web.port, timeout=10)
    yield made
    made.close()


@pytest.fixture
def opener() -> OpenerDirector:
    """What `urllib.request.urlopen` uses, without the proxies of the environment."""
    return build_opener(ProxyHandler({}))


def read(connection: http.client.HTTPConnection, method: str, target: str, **more: Any) -> bytes:
    """Send one request and return the body of its response."""
    connection.request(method, target, **more)
    return connection.getresponse().read()


def test_a_call_counts_once(
    web: Server, connection: http.client.HTTPConnection, agent: Agent
) -> None:
    """From the request line to the status line; the body is the application's to read."""
    assert read(connection, "GET", "/?q=secret") == b"hello"
    assert agent.counts("http") == ONE


def test_connections_are_reused_as_ever(
    web: Server, connection: http.client.HTTPConnection, agent: Agent
) -> None:
    """Several calls over one connection are several calls, and nothing is left on it."""
    before = set(vars(connection))
    for body in (None, b"ab", iter([b"a", b"b"])):
        headers = {"Content-Length": "2"} if body else {}
        assert read(connection, "POST", "/", body=body, headers=headers) == b"hello"
        assert set(vars(connection)) == before

    assert agent.counts("http") == {f"http.{HOST}": 3, f"http.status.{HOST}.200": 3}


def test_a_request_written_by_hand(
    web: Server, connection: http.client.HTTPConnection, agent: Agent
) -> None:
    """`putrequest`, `putheader`, `endheaders`, `send`: each in its own call."""
    connection.putrequest(method="POST", url="/", skip_accept_encoding=True)
    connection.putheader("Content-Length", "3")
    connection.endheaders()
    connection.send(b"abc")

    assert connection.getresponse().read() == b"hello"
    assert agent.counts("http") == ONE


def test_a_call_without_an_answer_is_counted_by_class(web: Server, agent: Agent) -> None:
    """The exception is that of http.client or of the socket."""

    def call(port: int, target: str, timeout: float = 10) -> None:
        made = http.client.HTTPConnection(web.host, port, timeout=timeout)
        try:
            read(made, "GET", target)
        finally:
            made.close()

    for error, port, target, timeout in (
        (ConnectionRefusedError, free_port(), "/", 10),
        (TimeoutError, web.port, "/slow", 0.05),
        (http.client.RemoteDisconnected, web.port, "/drop", 10),
    ):
        with pytest.raises(error):
            call(port, target, timeout)

    assert agent.counts("http") == {
        f"http.{HOST}": 3,
        f"http.error.{HOST}.ConnectionRefusedError": 1,
        f"http.error.{HOST}.TimeoutError": 1,
        f"http.error.{HOST}.RemoteDisconnected": 1,
    }


def test_mistakes_of_the_application_are_its_own(
    web: Server,
    connection: http.client.HTTPConnection,
    start_agent: Callable[..., Agent],
) -> None:
    """Calls in the wrong order, and targets that are none, fail as they do without us."""

    def failures() -> list[tuple[type[BaseException], str]]:
        found = []
        for wrong in (
            lambda: connection.getresponse(),  # noqa: PLW0108  the patched method, looked up now
            lambda: connection.endheaders(),  # noqa: PLW0108
            lambda: connection.putrequest("GET", "/a b"),
            lambda: connection.putrequest("GET", "/\r\nX: y"),
            lambda: connection.putrequest("GET"),  # type: ignore[call-arg]
            lambda: connection.putrequest("GET", 5),  # type: ignore[arg-type]
            lambda: connection.request("GET", "/é"),
        ):
            with pytest.raises(Exception) as caught:  # noqa: PT011
                wrong()
            connection.close()
            found.append((caught.type, str(caught.value)))
        return found

    without = failures()
    agent = start_agent()

    assert failures() == without
    assert read(connection, "GET", "/") == b"hello"
    assert agent.counts("http.status") == {f"http.status.{HOST}.200": 1}


def test_a_tunnel_counts_under_its_far_end(
    web: Server, connection: http.client.HTTPConnection, agent: Agent
) -> None:
    """In a tunnel the connection's host is the proxy."""
    connection.set_tunnel("Far.example", 80, {"Proxy-Authorization": "secret"})

    assert read(connection, "GET", "/") == b"hello"
    assert web.seen[0][:2] == ("CONNECT", "Far.example:80")
    assert agent.counts("http") == {"http.far_example": 1, "http.status.far_example.200": 1}


def test_a_tunnel_that_the_proxy_refuses(
    web: Server, connection: http.client.HTTPConnection, agent: Agent
) -> None:
    """It is a call to the far end without an answer."""
    connection.set_tunnel("refused.example", 80)

    with pytest.raises(OSError, match="Tunnel connection failed"):
        read(connection, "GET", "/")

    assert agent.counts("http") == {
        "http.refused_example": 1,
        "http.error.refused_example.OSError": 1,
    }


def test_urllib_counts_each_request(web: Server, opener: OpenerDirector, agent: Agent) -> None:
    """Redirects are requests of their own, and a 404 is an exception, and an answer."""
    with opener.open(f"{web.url}/redirect/2") as response:
        assert response.read() == b"hello"
    with pytest.raises(HTTPError) as missing:
        opener.open(f"{web.url}/status/404")
    missing.value.close()
    with pytest.raises(URLError):
        opener.open(f"http://127.0.0.1:{free_port()}/")

    assert agent.counts("http") == {
        f"http.{HOST}": 5,
        f"http.status.{HOST}.302": 2,
        f"http.status.{HOST}.200": 1,
        f"http.status.{HOST}.404": 1,
        f"http.error.{HOST}.ConnectionRefusedError": 1,
    }


def test_a_proxy_is_not_the_host(web: Server, agent: Agent) -> None:
    """Through a plain proxy a call counts under the host that it is meant for."""
    opener = build_opener(ProxyHandler({"http": f"http://user:secret@127.0.0.1:{web.port}"}))

    with opener.open("http://u:p@far.example/x?q=http://other/") as response:
        assert response.read() == b"by proxy"

    assert agent.counts("http") == {"http.far_example": 1, "http.status.far_example.200": 1}


def test_a_url_within_a_path_is_not_the_host(
    web: Server, connection: http.client.HTTPConnection, agent: Agent
) -> None:
    """Only a target in absolute form names another host."""
    read(connection, "GET", "/?next=http://other.example/")

    assert agent.counts("http") == ONE


def test_threads_do_not_hide_each_other(web: Server, agent: Agent) -> None:
    """Calls of several threads are several calls."""

    def call() -> None:
        made = http.client.HTTPConnection(web.host, web.port, timeout=10)
        for _ in range(5):
            read(made, "GET", "/")
        made.close()

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert agent.counts("http") == {f"http.{HOST}": 40, f"http.status.{HOST}.200": 40}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_request_sums_its_calls(
    web: Server, opener: OpenerDirector, django: Callable[..., None], agent: Agent
) -> None:
    """What a view calls is summed up in its request, whichever library it uses."""
    import requests
    import urllib3
    from django.http import HttpResponse
    from django.urls import path

    def view(request: Any) -> Any:
        requests.get(web.url, timeout=5)
        with urllib3.PoolManager() as pool:
            pool.request("GET", web.url)
        opener.open(Request(web.url)).close()
        return HttpResponse("x")

    django(ROOT_URLCONF=urlconf(path("", view)))

    fetch_wsgi("/")

    calls = agent.values(f"http.{HOST}")
    assert len(calls) == 3
    assert agent.values("request.http") == [pytest.approx(sum(calls), abs=0.01)]


class TestCorrelationHeaders:
    """The ID that goes on to other services."""

    @pytest.fixture
    def in_request(self, django: Callable[..., None]) -> Callable[[Callable[[], Any]], None]:
        """Run a function within a request that has the ID `from-outside-1`."""
        from django.http import HttpResponse
        from django.urls import path

        def run(action: Callable[[], Any]) -> None:
            def view(request: Any) -> Any:
                action()
                return HttpResponse("x")

            django(ROOT_URLCONF=urlconf(path("", view)), DEBUG_PROPAGATE_EXCEPTIONS=True)
            assert fetch_wsgi("/", x_request_id="from-outside-1").status == 200

        return run

    def test_every_library_sends_it_once(
        self, web: Server, opener: OpenerDirector, in_request: Any, agent: Agent
    ) -> None:
        """The libraries are stacked on http.client, where the header is added."""
        import requests
        import urllib3

        def calls() -> None:
            with requests.Session() as session, urllib3.PoolManager() as manager:
                session.trust_env = False
                session.get(web.url)
                manager.request("GET", web.url)
                opener.open(web.url).close()

        in_request(calls)

        assert [headers.get("X-Request-ID") for _, _, headers in web.seen] == ["from-outside-1"] * 3
        assert all(headers["traceparent"] for _, _, headers in web.seen)

    def test_what_the_application_sends_itself_stays(
        self, web: Server, connection: http.client.HTTPConnection, in_request: Any, agent: Agent
    ) -> None:
        """A header that is there, in whatever case, is neither replaced nor doubled."""
        in_request(lambda: read(connection, "GET", "/", headers={"x-request-id": "its-own"}))

        assert [v for k, v in web.seen[0][2].items() if k.lower() == "x-request-id"] == ["its-own"]

    @pytest.mark.parametrize(
        "header",
        [
            {"Authorization": "AWS4-HMAC-SHA256 Credential=x, SignedHeaders=host, Signature=y"},
            {"Authorization": 'Signature keyId="x"'},
            {"Signature-Input": "sig=()"},
        ],
    )
    def test_a_signed_request_gets_none(
        self,
        web: Server,
        connection: http.client.HTTPConnection,
        in_request: Any,
        agent: Agent,
        header: dict[str, str],
    ) -> None:
        """A header more would break the signature."""
        in_request(lambda: read(connection, "GET", "/", headers=header))

        assert {key.lower() for key in web.seen[0][2]} == {
            "host", "accept-encoding", *(key.lower() for key in header)
        }  # fmt: skip

    def test_hosts_that_are_not_named_get_none(
        self, web: Server, in_request: Any, start_agent: Callable[..., Agent]
    ) -> None:
        """Each hop of a redirect is judged by its own host, whatever its query says."""
        import requests

        start_agent(CORRELATION_HOSTS="127.0.0.1")

        def calls() -> None:
            with requests.Session() as session:
                session.trust_env = False
                session.get(f"{web.url}/to?http://localhost:{web.port}/")

        in_request(calls)

        assert ["X-Request-ID" in headers for _, _, headers in web.seen] == [True, False]

    def test_outside_a_request_there_is_none(
        self, web: Server, connection: http.client.HTTPConnection, agent: Agent
    ) -> None:
        """A call that belongs to nothing carries nothing."""
        read(connection, "GET", "/")

        assert {key.lower() for key in web.seen[0][2]} == {"host", "accept-encoding"}
