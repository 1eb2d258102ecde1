"""Calls by http.client and urllib to a real server: each counts once, and the library behaves as ever."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import (
    BaseHandler,
    HTTPHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)

import pytest

from tests.helpers.ports import LOOPBACK, free_port
from tests.helpers.processes import clean_environment, wait_until
from tests.instrumentations.conftest import Agent
from tests.instrumentations.handlers import fetch_wsgi, urlconf
from tests.instrumentations.http_server import Server
from tests.instrumentations.raised import raised

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


class ByOtherMeans(http.client.HTTPConnection):
    """A connection to the server whatever its host says, as others have it to a Unix socket."""

    def connect(self) -> None:
        """Connect to the port on the loopback address."""
        self.sock = socket.create_connection((LOOPBACK, self.port))


@pytest.mark.parametrize(
    ("host", "target", "name"),
    [
        ("Far.example", "/", "far_example"),
        ("bob:hunter2@Far.example", "/", "far_example"),
        ("bob@far.example", "/", "far_example"),
        ("bob:hunter2@", "/", "unknown"),
        ("", "/", "unknown"),
        ("proxy.example", "http://bob:hunter2@Far.example/", "far_example"),
        ("proxy.example", "http://bob:hunter2@/", "unknown"),
        ("proxy.example", "http:///", "unknown"),
    ],
)
def test_a_host_that_is_none(web: Server, agent: Agent, host: str, target: str, name: str) -> None:
    """Credentials in a host's place, or none at all: the call is made as ever, and counts under no secret."""
    connection = ByOtherMeans(host, web.port)
    with contextlib.closing(connection):
        connection.request("GET", target)
        assert connection.getresponse().status == 200

    assert web.seen[0][1] == target
    assert agent.counts("http") == {f"http.{name}": 1, f"http.status.{name}.200": 1}


def test_a_host_that_cannot_be_found(unresolvable: None, start_agent: Callable[..., Agent]) -> None:
    """Where http.client takes credentials for a part of the name, its error is its own, and the name ours."""

    def call() -> None:
        with contextlib.closing(http.client.HTTPConnection("bob:hunter2@x", 80)) as connection:
            connection.request("GET", "/")

    without = raised(call)
    agent = start_agent()

    assert raised(call) == without
    assert without[0][0] is socket.gaierror
    assert agent.counts("http") == {"http.x": 1, "http.error.x.gaierror": 1}


class TestUrllib:
    """Calls by urllib.request, of which http.client sees the single requests."""

    def test_redirects_are_part_of_the_call(
        self, web: Server, opener: OpenerDirector, agent: Agent
    ) -> None:
        """A chain of redirects is one call, to the host that was asked first, with the last status."""
        far = f"http://localhost:{web.port}/redirect/2"
        with opener.open(f"{web.url}/to?{far}") as response:
            assert response.read() == b"hello"

        assert len(web.seen) == 4
        assert agent.counts("http") == ONE

    def test_the_call_lasts_from_the_first_hop_to_the_last(
        self, web: Server, opener: OpenerDirector, agent: Agent
    ) -> None:
        """Its time is that of all hops."""

        def release() -> None:
            wait_until(lambda: len(web.seen) == 2)
            time.sleep(0.2)
            web.release.set()

        threading.Thread(target=release).start()
        started = time.perf_counter()
        opener.open(f"{web.url}/to?{web.url}/slow").close()
        ended = time.perf_counter()

        (duration,) = agent.values(f"http.{HOST}")
        assert 150 < duration <= (ended - started) * 1000

    @pytest.mark.parametrize("status", [404, 503])
    def test_a_status_that_is_raised_is_an_answer(
        self, web: Server, opener: OpenerDirector, agent: Agent, status: int
    ) -> None:
        """What urllib raises for a status is counted as that, and not as an error."""
        with pytest.raises(HTTPError) as raised:
            opener.open(f"{web.url}/status/{status}")
        with raised.value:
            assert raised.value.read() == b"status"

        assert agent.counts("http") == {f"http.{HOST}": 1, f"http.status.{HOST}.{status}": 1}

    def test_a_redirect_that_is_refused_is_an_answer(
        self, web: Server, opener: OpenerDirector, agent: Agent
    ) -> None:
        """A redirect to a file, which urllib does not follow, ends the call with its status."""
        with pytest.raises(HTTPError) as raised:
            opener.open(f"{web.url}/to?file:///etc/hostname")
        raised.value.close()

        assert agent.counts("http") == {f"http.{HOST}": 1, f"http.status.{HOST}.302": 1}

    def test_an_opener_that_raises_no_status(self, web: Server, agent: Agent) -> None:
        """An opener without a handler of statuses returns them, and they are counted as well."""
        opener = OpenerDirector()
        opener.add_handler(HTTPHandler())
        with opener.open(f"{web.url}/status/404") as response:
            assert response.status == 404

        assert agent.counts("http") == {f"http.{HOST}": 1, f"http.status.{HOST}.404": 1}

    def test_an_opener_without_handlers(self, agent: Agent) -> None:
        """An opener that knows nobody to ask returns None, which is no answer and no error."""
        assert OpenerDirector().open("http://far.example/") is None
        assert agent.counts("http") == {"http.far_example": 1}

    def test_errors_are_counted_by_class(
        self, web: Server, opener: OpenerDirector, agent: Agent
    ) -> None:
        """A call without an answer counts under what went wrong, also where urllib wraps that."""
        failures: list[tuple[type[Exception], str, float]] = [
            (URLError, f"http://127.0.0.1:{free_port()}/", 10),
            (TimeoutError, f"{web.url}/slow", 0.05),
            (http.client.RemoteDisconnected, f"{web.url}/to?{web.url}/drop", 10),
        ]
        for error, url, timeout in failures:
            with pytest.raises(error):
                opener.open(url, timeout=timeout)
        opener.open(web.url).close()

        assert agent.counts("http") == {
            f"http.{HOST}": 4,
            f"http.error.{HOST}.ConnectionRefusedError": 1,
            f"http.error.{HOST}.TimeoutError": 1,
            f"http.error.{HOST}.RemoteDisconnected": 1,
            f"http.status.{HOST}.200": 1,
        }

    @pytest.mark.parametrize(
        ("url", "error", "host"),
        [
            ("http://", "URLError", "unknown"),
            ("http:///path", "URLError", "unknown"),
            ("http:path", "URLError", "unknown"),
            ("http://[::1", "ValueError", "unknown"),
            ("http://bob:hunter2@/path", "InvalidURL", "unknown"),
            ("http://bob:hunter2@[::1/", "ValueError", "unknown"),
            ("http://bob:hunter2@far.example/", "InvalidURL", "far_example"),
            ("http://bob:hunter2@far.example:80/", "gaierror", "far_example"),
            ("http://127.0.0.1:{free}/", "ConnectionRefusedError", HOST),
            ("http://127.0.0.1:{web}/to?http://bob:hunter2@/path", "InvalidURL", HOST),
        ],
    )
    def test_addresses_that_urllib_refuses(
        self,
        web: Server,
        opener: OpenerDirector,
        unresolvable: None,
        start_agent: Callable[..., Agent],
        url: str,
        error: str,
        host: str,
    ) -> None:
        """The exception is that of urllib; a call counts once, under its host, or as of an unknown one."""
        url = url.format(free=free_port(), web=web.port)
        without = raised(lambda: opener.open(url))
        agent = start_agent()

        assert raised(lambda: opener.open(url)) == without
        assert agent.counts("http") == {f"http.{host}": 1, f"http.error.{host}.{error}": 1}

    def test_arguments_in_every_form(
        self, web: Server, opener: OpenerDirector, agent: Agent
    ) -> None:
        """A URL may be text or a request, by position or by name, in all that urllib understands."""
        opener.open(Request(web.url)).close()
        opener.open(fullurl=web.url, data=b"a").close()
        opener.open(timeout=10, fullurl=Request(web.url)).close()
        opener.open(f" <URL:{web.url.upper()}/> ", None, 10).close()
        with pytest.raises(TypeError):
            opener.open()  # type: ignore[call-arg]

        assert agent.counts("http") == {f"http.{HOST}": 4, f"http.status.{HOST}.200": 4}

    def test_an_opener_that_somebody_else_has_wrapped(
        self, web: Server, monkeypatch: pytest.MonkeyPatch, start_agent: Callable[..., Agent]
    ) -> None:
        """Behind another agent's wrapper, whose arguments have no names, calls count alike."""
        monkeypatch.setattr(OpenerDirector, "open", passing_on(OpenerDirector.open))
        agent = start_agent()
        opener = build_opener(ProxyHandler({}))
        opener.open(f"{web.url}/redirect/1").close()
        opener.open(fullurl=f"{web.url}/redirect/1").close()

        assert agent.counts("http") == {f"http.{HOST}": 2, f"http.status.{HOST}.200": 2}

    def test_other_schemes_are_not_counted(
        self, opener: OpenerDirector, tmp_path: Path, agent: Agent
    ) -> None:
        """A file or data in the URL itself is no call, and a mistake in a URL is none either."""
        (tmp_path / "file").write_bytes(b"local")
        for url in ((tmp_path / "file").as_uri(), "data:,local"):
            with opener.open(url) as by_text, opener.open(Request(url)) as by_request:
                assert by_text.read() == by_request.read() == b"local"
        for wrong in ("nothing://x/", "ftp://", (tmp_path / "none").as_uri()):
            with pytest.raises(URLError):
                opener.open(wrong)

        assert agent.counts("http") == {}

    def test_other_schemes_hide_no_calls(self, web: Server, agent: Agent) -> None:
        """What a handler of another scheme calls in its turn is counted."""

        class Store(BaseHandler):
            def store_open(self, request: Request) -> Any:
                return build_opener(ProxyHandler({})).open(f"{web.url}/{request.selector}")

        build_opener(Store()).open("store:x").close()

        assert agent.counts("http") == ONE

    def test_a_file_within_the_call_of_another_library(
        self, opener: OpenerDirector, tmp_path: Path, web: Server, agent: Agent
    ) -> None:
        """A library that opens files by urllib counts as itself, and the next call as ever."""
        import requests

        (tmp_path / "file").write_bytes(b"local")

        class Files(requests.adapters.BaseAdapter):
            def send(self, request: Any, *_args: Any, **_kwargs: Any) -> requests.Response:
                response = requests.Response()
                response.status_code, response.request = 200, request
                response.raw = opener.open(request.url)
                return response

            def close(self) -> None:
                """Have nothing to close."""

        with requests.Session() as session:
            session.mount("file://", Files())
            answer = session.get((tmp_path / "file").as_uri())
            assert answer.content == b"local"
            answer.raw.close()
        opener.open(web.url).close()

        assert agent.counts("http.status") == {
            "http.status.unknown.200": 1,
            f"http.status.{HOST}.200": 1,
        }

    def test_nothing_imports_it(self) -> None:
        """An application that uses http.client alone does not get urllib.request from us."""
        code = (
            "import sys\n"
            "from introspect.agent import patching\n"
            "from introspect.instrumentations import http_client\n"
            "patching.apply(http_client.PATCHES)\n"
            "import http.client\n"
            "print('urllib.request' in sys.modules, sorted(set(patching.status().values())))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.stdout == "False ['applied', 'waiting']\n", done.stderr


def passing_on(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function as other agents do."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    return wrapper


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

    def test_every_hop_of_a_redirect_sends_it(
        self, web: Server, opener: OpenerDirector, in_request: Any, agent: Agent
    ) -> None:
        """A chain that counts as one call is still several requests, each a step of the trace."""
        in_request(lambda: opener.open(f"{web.url}/redirect/2").close())

        sent = [headers for _, _, headers in web.seen]
        assert [headers.get("X-Request-ID") for headers in sent] == ["from-outside-1"] * 3
        assert len({headers["traceparent"] for headers in sent}) == 3

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
