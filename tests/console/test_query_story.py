"""The story of a correlation ID."""

from __future__ import annotations

import dataclasses
import json
import sqlite3

import pytest

from introspect.console import query_story
from introspect.console.query_story import story
from introspect.console.store import Store
from tests.console.rows import NOON, batch, record, request

ID = "9110dbba-6dd9-4d1c-8828-11be81ac0561"
SPAN = "00f067aa0ba902b7"


def checkout() -> list[dict]:
    """A request of front that calls billing, which fails."""
    return [
        request(
            0,
            path="/checkout/",
            method="POST",
            duration_ms=100.0,
            status=502,
            events=[
                {
                    "offset_ms": 5,
                    "kind": "db",
                    "name": "default.select",
                    "ms": 4,
                    "statement": "SELECT 1",
                },
                {
                    "offset_ms": 20,
                    "kind": "http",
                    "name": "billing",
                    "ms": 60,
                    "span_id": SPAN,
                    "status": 500,
                },
            ],
            events_dropped=3,
        ),
        request(
            0.025,
            service="billing",
            host="web2",
            pid=7,
            path="/charge/",
            duration_ms=50.0,
            status=500,
            parent_id=SPAN,
            exception={"class": "ValueError", "message": "limit", "place": "billing/views.py:8"},
        ),
        record(0.03, service="billing", host="web2", pid=7, message="charging", level="WARNING"),
        record(0.09, message="charge failed"),
        record(0.5, message="written later by a thread"),
        record(0.05, pid=99, message="of another process"),
    ]


def test_story_spans_services(store: Store, reader: sqlite3.Connection) -> None:
    """The call of one service is tied to the request it caused in the other, at its offset."""
    store.write(batch(*checkout()), NOON)
    told = story(reader, ID)
    front, billing = told.chapters

    assert (told.start, told.services) == (NOON, ["billing", "front"])
    assert told.duration_ms == 500
    assert (front.title, front.depth, front.parent, front.events_dropped) == (
        "POST /checkout/",
        0,
        None,
        3,
    )
    assert (billing.title, billing.depth, billing.parent) == ("GET /charge/", 1, front.id)
    assert billing.offset_ms == 25
    assert billing.exception == "ValueError: limit (billing/views.py:8)"
    assert [(event.offset_ms, event.child) for event in front.events] == [
        (5, None),
        (20, billing.id),
    ]
    assert front.events[0].statement == "SELECT 1"
    json.dumps(dataclasses.asdict(told), allow_nan=False)


def test_log_lines_belong_to_the_work_they_were_written_in(
    store: Store, reader: sqlite3.Connection
) -> None:
    """A line belongs to the work of its own process that was running; others stand apart."""
    store.write(batch(*checkout()), NOON)
    told = story(reader, ID)

    assert [[line.message for line in chapter.logs] for chapter in told.chapters] == [
        ["charge failed"],
        ["charging"],
    ]
    assert [line.message for line in told.logs] == [
        "of another process",
        "written later by a thread",
    ]


def test_work_without_events_is_placed_by_its_span(
    store: Store, reader: sqlite3.Connection
) -> None:
    """Where the caller's events are not known, its own span still says who caused whom."""
    store.write(
        batch(
            request(0, span_id="aa"),
            request(
                0.001,
                span_id="bb",
                parent_id="aa",
                kind="task",
                logger="introspect.task",
                name="mail",
            ),
        ),
        NOON,
    )

    assert [(one.title, one.depth) for one in story(reader, ID).chapters] == [
        ("GET /basket/", 0),
        ("mail", 1),
    ]


def test_works_that_claim_to_have_caused_each_other_are_all_told(
    store: Store, reader: sqlite3.Connection
) -> None:
    """A circle of parents, as a hostile service may send, neither hangs nor hides anything."""
    store.write(
        batch(
            request(0, span_id="aa", parent_id="bb"),
            request(1, span_id="bb", parent_id="aa"),
            request(2, span_id="cc", parent_id="cc"),
        ),
        NOON,
    )

    assert len(story(reader, ID).chapters) == 3


def test_endless_story_is_cut(
    store: Store, reader: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ID on very many lines gives a bounded story that says so."""
    monkeypatch.setattr(query_story, "MAX_CHAPTERS", 20)
    monkeypatch.setattr(query_story, "MAX_LOGS", 30)
    chain = [request(n / 1000, span_id=f"s{n}", parent_id=f"s{n - 1}") for n in range(50)]
    store.write(batch(*chain, *[record(1)] * 50), NOON)
    told = story(reader, ID)

    assert (len(told.chapters), len(told.logs), told.truncated) == (20, 30, True)


def test_unknown_id_has_no_story(reader: sqlite3.Connection) -> None:
    """An ID that nobody sent gives nothing."""
    assert story(reader, "nobody") is None


def test_log_lines_alone_are_a_story(store: Store, reader: sqlite3.Connection) -> None:
    """Lines without any canonical line are told all the same."""
    store.write(batch(record(0), record(1)), NOON)
    told = story(reader, ID)

    assert (told.chapters, len(told.logs), told.duration_ms) == ([], 2, 1000)
