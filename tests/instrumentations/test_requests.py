"""Calls by requests to a real server: each counts once, and the library behaves as ever."""

from __future__ import annotations

import inspect
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.util import Retry

from tests.helpers.ports import free_port
from tests.instrumentations.conftest import Agent
from tests.instrumentations.http_server import Server
from tests.instrumentations.raised import raised

HOST = "127_0_0_1"

ONE = {f"http.{HOST}": 1, f"http.status.{HOST}.200": 1}


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """A session that heeds no proxy of the environment."""
    with requests.Session() as made:
        made.trust_env = False
        yield made


def test_a_call_counts_once(web: Server, session: requests.Session, agent: Agent) -> None:
    """The libraries beneath requests see the call, too, and leave it to requests."""
    assert session.get(f"{web.url}/?q=secret").text == "hello"
    assert agent.counts("http") == ONE


def test_redirects_are_part_of_the_call(
    web: Server, session: requests.Session, agent: Agent
) -> None:
    """Four requests on the wire, one call, under the host that the application has named."""
    other = f"http://localhost:{web.port}/redirect/2"

    assert session.get(f"{web.url}/to?{other}").text == "hello"
    assert len(web.seen) == 4
    assert agent.counts("http") == ONE


def test_each_redirect_that_the_application_follows_itself(
    web: Server, session: requests.Session, agent: Agent
) -> None:
    """Without `allow_redirects` each step is a call."""
    response = session.get(f"{web.url}/redirect/2", allow_redirects=False)
    while response.next is not None:
        response = session.send(response.next, allow_redirects=False)

    assert response.text == "hello"
    assert agent.counts("http") == {
        f"http.{HOST}": 3,
        f"http.status.{HOST}.302": 2,
        f"http.status.{HOST}.200": 1,
    }


@pytest.mark.parametrize("status", [204, 304, 404, 418, 500, 503])
def test_statuses(web: Server, session: requests.Session, agent: Agent, status: int) -> None:
    """A response of 4xx or 5xx is false, and an answer all the same."""
    assert session.get(f"{web.url}/status/{status}").status_code == status
    assert agent.counts("http") == {f"http.{HOST}": 1, f"http.status.{HOST}.{status}": 1}


def test_calls_without_an_answer(web: Server, session: requests.Session, agent: Agent) -> None:
    """They are counted by the class of what requests raises; the next call counts as ever."""
    session.max_redirects = 2
    failures: list[tuple[str, Callable[[], Any]]] = [
        ("ConnectionError", lambda: session.get(f"http://127.0.0.1:{free_port()}/")),
        ("ConnectionError", lambda: session.get(f"{web.url}/drop")),
        ("ReadTimeout", lambda: session.get(f"{web.url}/slow", timeout=0.05)),
        ("TooManyRedirects", lambda: session.get(f"{web.url}/redirect/5")),
    ]
    for name, call in failures:
        with pytest.raises(getattr(requests, name)):
            call()
    session.get(web.url)

    assert agent.counts("http") == {
        f"http.{HOST}": 5,
        f"http.error.{HOST}.ConnectionError": 2,
        f"http.error.{HOST}.ReadTimeout": 1,
        f"http.error.{HOST}.TooManyRedirects": 1,
        f"http.status.{HOST}.200": 1,
    }
    assert max(agent.values(f"http.{HOST}")) >= 50


@pytest.mark.parametrize(
    ("url", "error", "host"),
    [  # without a host: nothing was sent, so nothing is counted
        ("no-scheme", "MissingSchema", None),
        ("bob:hunter2@x/path", "InvalidSchema", "unknown"),
        ("http://", "InvalidURL", None),
        ("http:///path", "InvalidURL", None),
        ("http://[::1", "InvalidURL", None),
        ("http://bob:hunter2@/path", "InvalidURL", None),
        ("gopher://x/", "InvalidSchema", "x"),
        ("gopher:///path", "InvalidSchema", "unknown"),
        ("gopher://bob:hunter2@/path", "InvalidSchema", "unknown"),
        ("gopher://bob:hunter2@x/path", "InvalidSchema", "x"),
        ("http://bob:hunter2@127.0.0.1:{free}/path", "ConnectionError", HOST),
        ("http://127.0.0.1:{web}/to?http://bob:hunter2@/path", "InvalidURL", HOST),
    ],
)
def test_addresses_that_requests_refuses(
    web: Server,
    session: requests.Session,
    start_agent: Callable[..., Agent],
    url: str,
    error: str,
    host: str | None,
) -> None:
    """The exception is that of requests; a call counts once, under its host, or as of an unknown one."""
    url = url.format(free=free_port(), web=web.port)
    without = raised(lambda: session.get(url))
    agent = start_agent()

    assert raised(lambda: session.get(url)) == without
    assert without[0][0] is getattr(requests.exceptions, error)
    counted = {f"http.{host}": 1, f"http.error.{host}.{error}": 1}
    assert agent.counts("http") == ({} if host is None else counted)


@pytest.mark.parametrize("what", [None, 5, "http://x/", requests.Request("GET", "http://x/")])
def test_objects_that_cannot_be_sent(
    session: requests.Session, start_agent: Callable[..., Agent], what: Any
) -> None:
    """`send` fails as it does without us."""

    def failure() -> tuple[type[BaseException], str]:
        with pytest.raises((ValueError, AttributeError)) as caught:
            session.send(what)
        return caught.type, str(caught.value)

    without = failure()
    agent = start_agent()

    assert failure() == without
    assert len(agent.counts("http.error")) == 1


def test_credentials_are_no_part_of_a_name(
    web: Server, session: requests.Session, agent: Agent
) -> None:
    """Neither user nor password, nor what looks like one, nor the port."""
    for userinfo in ("user:secret", "us%40er:sec%3Aret", "user"):
        session.get(f"http://{userinfo}@127.0.0.1:{web.port}/secret?secret=1")

    assert agent.counts("http") == dict.fromkeys(ONE, 3)


def test_a_proxy_is_not_the_host(web: Server, session: requests.Session, agent: Agent) -> None:
    """A call through a proxy counts under the host that it is meant for."""
    proxies = {"http": f"http://user:secret@127.0.0.1:{web.port}"}

    assert session.get("http://far.example/x", proxies=proxies).text == "by proxy"
    assert agent.counts("http") == {"http.far_example": 1, "http.status.far_example.200": 1}


def test_retries_are_part_of_the_call(web: Server, session: requests.Session, agent: Agent) -> None:
    """Retries of the adapter's make one call."""
    session.mount("http://", HTTPAdapter(max_retries=Retry(5, status_forcelist=[503])))

    assert session.get(f"{web.url}/flaky").status_code == 200
    assert len(web.seen) == 3
    assert agent.counts("http") == ONE


def test_a_body_is_streamed_as_ever(web: Server, session: requests.Session, agent: Agent) -> None:
    """The call has ended when the headers are there; the body is the application's to read."""
    with session.get(f"{web.url}/stream", stream=True) as response:
        assert agent.counts("http") == ONE
        assert not response._content_consumed
        assert b"".join(response.iter_content(7)) == b"0123456789" * 3
    assert session.post(web.url, data=(part for part in [b"a", b"b"])).status_code == 200


def test_adapters_of_the_applications_own(session: requests.Session, agent: Agent) -> None:
    """An adapter that calls no network is a call like others."""

    class Adapter(BaseAdapter):
        def send(self, request: Any, **_options: Any) -> Any:  # type: ignore[override]
            response = requests.Response()
            response.status_code, response.request, response.url = 299, request, request.url
            return response

        def close(self) -> None:
            pass

    session.mount("mock://", Adapter())

    assert session.get("mock://Some.Where/x").status_code == 299
    assert agent.counts("http") == {"http.some_where": 1, "http.status.some_where.299": 1}


def test_the_session_is_left_as_it_is(
    web: Server, session: requests.Session, start_agent: Callable[..., Agent]
) -> None:
    """Signature, headers, adapters and pickling are those of requests."""
    signature = inspect.signature(requests.Session.send)
    headers = dict(session.headers)
    start_agent()
    mine = {"X-Mine": "1"}

    prepared = session.prepare_request(requests.Request("GET", web.url, headers=mine))
    before = dict(prepared.headers)
    response = session.send(prepared)
    copy = pickle.loads(pickle.dumps(session))

    assert inspect.signature(requests.Session.send) == signature
    assert dict(session.headers) == headers == dict(copy.headers)
    assert mine == {"X-Mine": "1"}
    assert dict(prepared.headers) == dict(response.request.headers) == before
    assert type(copy.get_adapter(web.url)) is HTTPAdapter
    assert copy.get(web.url).text == pickle.loads(pickle.dumps(response)).text == "hello"
    copy.close()


def test_calls_of_threads_are_their_own(web: Server, agent: Agent) -> None:
    """A call in one thread hides none of another's."""

    def call() -> None:
        with requests.Session() as session:
            session.trust_env = False
            for _ in range(5):
                session.get(web.url)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert agent.counts("http") == {f"http.{HOST}": 40, f"http.status.{HOST}.200": 40}
