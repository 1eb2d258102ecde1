"""The ID on its way out: to whom it is sent, what is left alone, and what the response says."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import urllib3
from django.http import HttpRequest, HttpResponse
from django.urls import path

from introspect.agent import work
from introspect.agent.correlation import Inbound, parse_traceparent
from tests.helpers.ports import LOOPBACK
from tests.instrumentations import handlers
from tests.instrumentations.http_server import Server

Start = Callable[..., Any]

ID = "9110dbba-6dd9-4d1c-8828-11be81ac0561"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CHILD = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def with_requests(url: str, **headers: str) -> None:
    """Call with requests."""
    requests.get(url, headers=headers, timeout=10).close()


def with_urllib3(url: str, **headers: str) -> None:
    """Call with urllib3."""
    with urllib3.PoolManager() as manager:
        manager.request("GET", url, headers=headers)


def with_urllib(url: str, **headers: str) -> None:
    """Call with urllib, that is with http.client."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        answer.read()


Call = Callable[..., None]


@pytest.fixture(params=[with_requests, with_urllib3, with_urllib])
def call(request: pytest.FixtureRequest) -> Call:
    """Each library in turn."""
    library: Call = request.param
    return library


@pytest.fixture
def unit() -> Iterator[work.Work]:
    """A unit of work, that of a request that brought a `traceparent`."""
    made = work.Work(Inbound(ID, parse_traceparent(f"00-{TRACE}-{SPAN}-00")))
    work.current.set(made)
    yield made
    work.leave()


def sent(web: Server) -> list[dict[str, str]]:
    """Return the headers of every request that the server has seen, names in lower case."""
    return [{k.lower(): v for k, v in headers.items()} for _, _, headers in web.seen]


def test_headers_are_added(start_agent: Start, web: Server, call: Call, unit: work.Work) -> None:
    """A call gets the ID and a `traceparent` of its own, a child of the one that came in."""
    start_agent()
    call(web.url)
    call(web.url)

    first, second = sent(web)
    assert first["x-request-id"] == second["x-request-id"] == ID
    spans = []
    for headers in (first, second):
        match = CHILD.fullmatch(headers["traceparent"])
        assert match is not None
        assert match[1] == TRACE
        assert match[3] == "00"
        spans.append(match[2])
    assert len({SPAN, *spans}) == 3


def test_a_trace_that_begins_here(start_agent: Start, web: Server, call: Call) -> None:
    """Without an inbound `traceparent` the trace ID is the ID's own digits, and it is sampled."""
    start_agent()
    work.current.set(work.Work(Inbound(ID)))
    call(web.url)

    match = CHILD.fullmatch(sent(web)[0]["traceparent"])
    assert match is not None
    assert match[1] == ID.replace("-", "")
    assert match[3] == "01"


def test_headers_that_are_there_are_kept(
    start_agent: Start, web: Server, call: Call, unit: work.Work
) -> None:
    """What the application has set itself is neither replaced nor doubled."""
    start_agent()
    call(web.url, **{"x-REQUEST-id": "mine", "TraceParent": "my-own"})

    _, _, headers = web.seen[0]
    names = [name.lower() for name in headers]
    assert sent(web)[0]["x-request-id"] == "mine"
    assert sent(web)[0]["traceparent"] == "my-own"
    assert names.count("x-request-id") == names.count("traceparent") == 1


@pytest.mark.parametrize(
    "authorization",
    [
        "AWS4-HMAC-SHA256 Credential=x/20240101/eu/s3/aws4_request, SignedHeaders=host, Signature=y",
        "AWS4-ECDSA-P256-SHA256 Credential=x, Signature=y",
        "AWS x:y",
        'Signature keyId="x",signature="y"',
        "GOOG4-RSA-SHA256 Credential=x, Signature=y",
        "TC3-HMAC-SHA256 Credential=x, Signature=y",
        "SharedKey account:x",
        "HMAC-SHA256 Signature=y",
    ],
)
def test_signed_requests_are_left_alone(
    start_agent: Start, web: Server, call: Call, unit: work.Work, authorization: str
) -> None:
    """A request whose headers are signed gets no further header."""
    start_agent()
    call(web.url, Authorization=authorization)

    assert not {"x-request-id", "traceparent"} & sent(web)[0].keys()


@pytest.mark.parametrize(
    "authorization", ["Bearer signature-of-sorts", "Basic YTpi", "Token abc", "Digest username=x"]
)
def test_other_authorisations_are_not_signatures(
    start_agent: Start, web: Server, call: Call, unit: work.Work, authorization: str
) -> None:
    """A token or a password does not keep the ID from being sent."""
    start_agent()
    call(web.url, Authorization=authorization)

    assert sent(web)[0]["x-request-id"] == ID


def test_the_callers_objects_are_left_alone(
    start_agent: Start, web: Server, unit: work.Work
) -> None:
    """Headers of a session, of a call and of a prepared request are what they were, also when used again."""
    start_agent()
    given = {"X-Mine": "1"}
    with requests.Session() as session:
        before = dict(session.headers)
        prepared = session.prepare_request(requests.Request("GET", web.url, headers=given))
        prepared_before = dict(prepared.headers)
        session.get(web.url, headers=given, timeout=10)
        session.send(prepared)
        answer = session.send(prepared)
        assert dict(session.headers) == before
        assert dict(prepared.headers) == prepared_before
        assert dict(answer.request.headers) == prepared_before
    with urllib3.PoolManager(headers=given) as manager:
        manager.request("GET", web.url)
        manager.request("GET", web.url, headers=given)
    asked = urllib.request.Request(web.url, headers=given)
    with urllib.request.urlopen(asked, timeout=10) as answered:
        answered.read()
    with contextlib.closing(http.client.HTTPConnection(LOOPBACK, web.port)) as connection:
        connection.request("GET", "/", headers=given)
        connection.getresponse().read()

    assert given == {"X-Mine": "1"}
    assert dict(asked.header_items()).keys() <= {"X-mine", "Host", "User-agent"}
    assert len({headers["traceparent"] for headers in sent(web)}) == len(web.seen) == 7
    assert {headers["x-request-id"] for headers in sent(web)} == {ID}


def test_only_to_hosts_that_the_setting_names(
    start_agent: Start, web: Server, call: Call, unit: work.Work
) -> None:
    """A host outside the list gets neither header."""
    start_agent(CORRELATION_HOSTS="*.example.com,localhost")
    call(web.url)
    call(web.url.replace(LOOPBACK, "localhost"))

    outside, inside = sent(web)
    assert not {"x-request-id", "traceparent"} & outside.keys()
    assert inside["x-request-id"] == ID


def test_a_redirect_to_a_host_outside(
    start_agent: Start, web: Server, call: Call, unit: work.Work
) -> None:
    """A redirect does not carry the ID to a host that the setting does not name, and back it does."""
    start_agent(CORRELATION_HOSTS="localhost")
    inside = web.url.replace(LOOPBACK, "localhost")
    call(f"{inside}/to?{web.url}/to?{inside}/")

    first, second, third = sent(web)
    assert first["x-request-id"] == third["x-request-id"] == ID
    assert not {"x-request-id", "traceparent"} & second.keys()
    assert first["traceparent"] != third["traceparent"]


def test_a_proxy_is_not_the_destination(start_agent: Start, web: Server, unit: work.Work) -> None:
    """Through a proxy it is the far host that counts, whatever the proxy is called."""
    start_agent(CORRELATION_HOSTS="*.example.com")
    proxies = {"http": web.url}
    requests.get("http://api.example.com/", proxies=proxies, timeout=10).close()
    requests.get("http://elsewhere.org/", proxies=proxies, timeout=10).close()
    tunnel = http.client.HTTPConnection(LOOPBACK, web.port, timeout=10)
    tunnel.set_tunnel("api.example.com", 80)
    tunnel.request("GET", "/")
    tunnel.getresponse().read()
    tunnel.close()

    by_path = {(method, path_): {k.lower() for k in headers} for method, path_, headers in web.seen}
    assert "x-request-id" in by_path["GET", "http://api.example.com/"]
    assert "x-request-id" not in by_path["GET", "http://elsewhere.org/"]
    assert "x-request-id" not in by_path["CONNECT", "api.example.com:80"]
    assert "x-request-id" in by_path["GET", "/"]


def test_connections_that_are_kept_alive(start_agent: Start, web: Server) -> None:
    """On one connection each request has the ID of the unit that makes it."""
    start_agent()
    with requests.Session() as session:
        for number in range(4):
            work.current.set(work.Work(Inbound(f"kept-alive-{number}")))
            session.get(web.url, timeout=10)
        work.leave()
        session.get(web.url, timeout=10)

    assert [headers.get("x-request-id") for headers in sent(web)] == [
        *(f"kept-alive-{number}" for number in range(4)),
        None,
    ]


def test_threads_send_their_own(start_agent: Start, web: Server) -> None:
    """Threads that call at once through one session each send the ID of their own unit."""
    start_agent()
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=4))

    def calls(name: str) -> None:
        work.current.set(work.Work(Inbound(name)))
        for _ in range(5):
            session.get(f"{web.url}/{name}", timeout=10)

    threads = [threading.Thread(target=calls, args=(f"thread-{n}-0001",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.close()

    assert len(web.seen) == 20
    assert all(path_ == f"/{headers['X-Request-ID']}" for _, path_, headers in web.seen)


def test_what_outlives_its_unit(start_agent: Start, web: Server, call: Call) -> None:
    """A thread that goes on behind the end of its request has the ID on its log lines, and sends it no further."""
    start_agent()
    made = work.Work(Inbound(ID))
    work.current.set(made)
    ended = threading.Event()
    ids = []

    def run() -> None:
        ended.wait(10)
        call(web.url)
        ids.append(work.correlation_id())

    thread = threading.Thread(target=run)
    thread.start()
    made.finish()
    ended.set()
    thread.join()

    assert ids == [ID]
    assert not {"x-request-id", "traceparent"} & sent(web)[0].keys()


@pytest.mark.parametrize(
    ("headers", "names"),
    [
        ("X-Trace", {"X-Trace"}),
        ("traceparent", {"Traceparent"}),
        ("X-Trace,X-Request-ID", {"X-Trace"}),
        ("traceparent,X-Trace", {"X-Trace", "Traceparent"}),
    ],
)
def test_which_headers(
    start_agent: Start, web: Server, call: Call, unit: work.Work, headers: str, names: set[str]
) -> None:
    """The first header named is sent, and `traceparent` where it is among them."""
    start_agent(CORRELATION_HEADERS=headers)
    call(web.url)

    known = {"x-trace", "x-request-id", "x-correlation-id", "traceparent"}
    assert known & sent(web)[0].keys() == {name.lower() for name in names}


def own_header(request: HttpRequest) -> HttpResponse:
    """Answer with a header of the application's own."""
    return HttpResponse("x", headers={"x-request-id": "the application's"})


def exposing(value: str) -> Callable[[HttpRequest], HttpResponse]:
    """Make a view that exposes headers to scripts of other origins."""
    return lambda _request: HttpResponse("x", headers={"Access-Control-Expose-Headers": value})


PATTERNS = [
    path("own/", own_header),
    path("plain/", lambda _request: HttpResponse("x")),
    path("one/", exposing("X-Other")),
    path("same/", exposing("X-Other, x-request-id")),
    path("longer/", exposing("X-Request-ID-Hash")),
    path("all/", exposing("*")),
    path("none/", exposing("")),
]


@pytest.fixture(params=["wsgi", "asgi"])
def fetch(request: pytest.FixtureRequest, django: Callable[..., None]) -> Any:
    """Serve a request by WSGI, and by ASGI."""
    django(ROOT_URLCONF=handlers.urlconf(*PATTERNS))
    return handlers.FETCH[request.param]


@pytest.mark.parametrize(
    ("url", "exposed"),
    [
        ("/plain/", None),
        ("/one/", "X-Other, X-Request-ID"),
        ("/same/", "X-Other, x-request-id"),
        ("/longer/", "X-Request-ID-Hash, X-Request-ID"),
        ("/all/", "*"),
        ("/none/", "X-Request-ID"),
        ("/nowhere/", None),
    ],
)
def test_the_response_header(start_agent: Start, fetch: Any, url: str, exposed: str | None) -> None:
    """The response bears the ID; where it exposes headers to other origins, that one too."""
    start_agent()
    answer = fetch(url, x_request_id="inbound-0001")

    assert answer.header("X-Request-ID") == "inbound-0001"
    assert answer.header("Access-Control-Expose-Headers") == exposed


def test_a_header_of_the_applications_own(start_agent: Start, fetch: Any) -> None:
    """A response header that the application has set stays."""
    start_agent()
    answer = fetch("/own/")

    assert [v for k, v in answer.headers if k.lower() == "x-request-id"] == ["the application's"]


def test_no_response_header_for_traceparent_alone(start_agent: Start, fetch: Any) -> None:
    """`traceparent` is no response header: where only that is named, the response is as it was."""
    start_agent(CORRELATION_HEADERS="traceparent")
    answer = fetch("/plain/")

    assert {name.lower() for name, _ in answer.headers} & {"traceparent", "x-request-id"} == set()
