"""Which inbound IDs are accepted, how new ones are made, and what is sent on."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from introspect.agent import correlation
from introspect.agent.correlation import Inbound, Policy, parse_traceparent

FORM = re.compile(r"[A-Za-z0-9._:-]{8,128}")
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

Accept = Callable[[Policy, dict[str, str]], Inbound]


def by_wsgi(policy: Policy, headers: dict[str, str]) -> Inbound:
    """Return what a WSGI request with these headers brings."""
    environ = {f"HTTP_{name.upper().replace('-', '_')}": text for name, text in headers.items()}
    return policy.accept(environ.get, policy.wsgi_keys)


def by_asgi(policy: Policy, headers: dict[str, str]) -> Inbound:
    """Return what an ASGI request with these headers brings."""
    scope = {name.lower(): text for name, text in headers.items()}
    return policy.accept(scope.get, policy.asgi_keys)


@pytest.fixture(params=[by_wsgi, by_asgi])
def accept(request: pytest.FixtureRequest) -> Accept:
    """Each of the two ways in."""
    way: Accept = request.param
    return way


@examples(deadline=None, database=None, max_examples=500)
@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9._:-]{0,140}\n?", fullmatch=True))
@example("x" * 8)
@example("x" * 128)
@example("x" * 129)
@example("valid-id-0001\n")
@example("\uff46ullwidth")
@example("١٢٣٤٥٦٧٨")
def test_any_value(value: str) -> None:
    """A value is taken as it is if it has the form of an ID, else a new UUID stands in its place."""
    found = by_wsgi(Policy(), {"X-Request-ID": value}).correlation_id

    assert FORM.fullmatch(found)
    assert (found == value) == (FORM.fullmatch(value) is not None)


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f" 00-{TRACE}-{SPAN}-01\t", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-holds", True),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"cc-{TRACE}-{SPAN}-01more", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"0-{TRACE}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}-1", False),
        (f"00-{TRACE}-{SPAN}", False),
        (f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01", False),
        (f"00-{TRACE[:-1]}é-{SPAN}-01", False),
        ("", False),
    ],
)
def test_traceparent(accept: Accept, value: str, valid: bool) -> None:
    """`traceparent` is read as W3C's recommendation says; its trace ID is the ID."""
    parsed = parse_traceparent(value)

    assert (parsed is not None) is valid
    found = accept(Policy(), {"traceparent": value})
    assert (found.correlation_id == TRACE) is valid
    assert (found.traceparent is not None) is valid


@pytest.mark.parametrize(
    ("flags", "sent"), [("00", "00"), ("01", "01"), ("03", "03"), ("ff", "03"), ("08", "00")]
)
def test_flags_that_are_sent_on(flags: str, sent: str) -> None:
    """Flags that are not defined are sent on as zero, and any version as 00."""
    parsed = parse_traceparent(f"cc-{TRACE}-{SPAN}-{flags}")

    assert str(parsed) == f"00-{TRACE}-{SPAN}-{sent}"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Request-ID": "first-0001", "X-Correlation-ID": "second-0001"}, "first-0001"),
        ({"X-Request-ID": "bad", "X-Correlation-ID": "second-0001"}, "second-0001"),
        ({"X-Request-ID": "bad", "traceparent": f"00-{TRACE}-{SPAN}-01"}, TRACE),
        ({"traceparent": f"00-{TRACE}-{SPAN}-01", "X-Request-ID": "first-0001"}, "first-0001"),
        ({"X-Other": "other-0001"}, None),
        ({}, None),
    ],
)
def test_the_first_valid_header_wins(
    accept: Accept, headers: dict[str, str], expected: str | None
) -> None:
    """Headers are asked in the order of the setting; without a valid one there is a new UUID."""
    found = accept(Policy(), headers).correlation_id

    if expected:
        assert found == expected
    else:
        assert re.fullmatch(
            r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", found
        )


def test_trust_off(accept: Accept) -> None:
    """Without trust no header counts, and none is sent on as a parent."""
    policy = Policy(trust=False)
    found = accept(policy, {"X-Request-ID": "first-0001", "traceparent": f"00-{TRACE}-{SPAN}-01"})

    assert found.correlation_id not in ("first-0001", TRACE)
    assert found.traceparent is None
    assert policy.header == "X-Request-ID"
    assert policy.sends_traceparent


@pytest.mark.parametrize(
    ("headers", "header", "sends"),
    [
        (("X-Request-ID", "X-Correlation-ID", "traceparent"), "X-Request-ID", True),
        (("traceparent", "X-Trace"), "X-Trace", True),
        (("TraceParent",), None, True),
        (("X-Trace",), "X-Trace", False),
    ],
)
def test_what_is_sent(headers: tuple[str, ...], header: str | None, sends: bool) -> None:
    """The first header that is no `traceparent` goes out, and `traceparent` if it is among them."""
    policy = Policy(headers)

    assert policy.header == header
    assert policy.sends_traceparent is sends


@pytest.mark.parametrize(
    ("hosts", "host", "allowed"),
    [
        (("*",), "anything.example", True),
        (("api.example.com",), "API.example.com", True),
        (("api.example.com",), "api.example.com.evil.org", False),
        (("*.example.com",), "a.b.example.com", True),
        (("*.example.com",), "example.com", False),
        (("*.example.com",), "evilexample.com", False),
        (("10.0.0.7", "*.internal"), "10.0.0.7", True),
        (("10.0.0.7",), "10x0x0x7", False),
        ((), "anything.example", False),
    ],
)
def test_hosts(hosts: tuple[str, ...], host: str, allowed: bool) -> None:
    """Only hosts that the setting names get the headers."""
    assert Policy(hosts=hosts).may_send_to(host) is allowed


def test_new_ids() -> None:
    """New IDs and span IDs are of their form, and no two are alike."""
    ids = {correlation.new_id() for _ in range(1000)}
    spans = {correlation.new_span_id() for _ in range(1000)}

    assert len(ids) == len(spans) == 1000
    assert all(correlation.is_valid(found) for found in ids)
    assert all(re.fullmatch("[0-9a-f]{16}", found) for found in spans)
    assert all(parse_traceparent(f"00-{correlation.trace_id_of(i)}-{SPAN}-01") for i in ids)


@pytest.mark.parametrize(
    ("given_id", "trace"),
    [
        ("9110dbba-6dd9-4d1c-8828-11be81ac0561", "9110dbba6dd94d1c882811be81ac0561"),
        (TRACE, TRACE),
    ],
)
def test_the_trace_id_of_an_id(given_id: str, trace: str) -> None:
    """A UUID's digits are the trace ID; any other text's is a hash, the same each time."""
    assert correlation.trace_id_of(given_id) == trace
    other = correlation.trace_id_of("not-hexadecimal")
    assert re.fullmatch("[0-9a-f]{32}", other)
    assert other == correlation.trace_id_of("not-hexadecimal")
    assert correlation.trace_id_of("0" * 32).strip("0")


@pytest.mark.parametrize(
    ("value", "expected"), [("inherited-0001", "inherited-0001"), ("bad\nid", None), ("", None)]
)
def test_inheritance(monkeypatch: pytest.MonkeyPatch, value: str, expected: str | None) -> None:
    """A child takes over an ID from its environment only if it is valid."""
    monkeypatch.setenv(correlation.CHILD_VARIABLE, value)

    assert correlation.inherited_id() == expected
