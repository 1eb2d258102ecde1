"""What all reads share: buckets, words, marks."""

from __future__ import annotations

import itertools
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from introspect.console import query
from introspect.console.query import ALL, Filters, Span
from introspect.console.store import Store
from tests.console.rows import NOON, batch, record, request


@settings(deadline=None)
@given(st.integers(0, 8 * 86400), st.integers(10, 7 * 86400))
def test_graph_has_a_bounded_number_of_points_that_are_still_kept(age: int, seconds: int) -> None:
    """Whatever the span, a graph is neither too long nor made of buckets that are gone."""
    span = Span(NOON - age - seconds, NOON - age)
    step = query.step_for(span, now=NOON)
    resolution = query.resolution_for(span, step, now=NOON)

    assert seconds / step <= query.MAX_BUCKETS
    assert step % resolution == 0
    keep = query.KEEP[resolution]
    assert keep is None or NOON - span.start < keep


@settings(deadline=None)
@given(st.integers(0, 3 * 86400), st.integers(10, 3 * 86400))
def test_pieces_cover_a_span_once(age: int, seconds: int) -> None:
    """The stored buckets of a span follow each other without gap or overlap, and are few."""
    span = Span(NOON - age - seconds, NOON - age)
    pieces = query.pieces(span, now=NOON)
    covered = [(start, start + step) for step, starts in pieces for start in starts]

    assert all(end == start for (_, end), (start, _) in itertools.pairwise(covered))
    assert covered[0][0] <= span.start < covered[0][1]
    assert covered[-1][0] < span.end <= covered[-1][1]
    assert len(covered) < seconds / 600 + 30


def test_recent_span_is_exact_to_ten_seconds() -> None:
    """Of the last hours a span's edges are exact, whatever coarse buckets make its middle."""
    pieces = query.pieces(Span(NOON - 7190, NOON - 10), now=NOON)

    assert pieces[0][1][0] == NOON - 7190
    assert pieces[-1] == (10, range(NOON - 60, NOON - 10, 10))


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("basket", '"basket"'),
        ("basket full", '"basket" AND "full"'),
        ('"to basket" full', '"to basket" AND "full"'),
        ("basket -full", '"basket" NOT "full"'),
        ("bask*", '"bask"*'),
        ('say"so', '"say""so"'),
        ("AND OR NOT NEAR", '"AND" AND "OR" AND "NOT" AND "NEAR"'),
        ("-only", None),
        ('"', None),
        ("* - ( )", None),
        ("", None),
    ],
)
def test_words_become_a_search(text: str, expression: str | None) -> None:
    """What people type is looked for, not interpreted."""
    assert query.full_text(text) == expression


@settings(deadline=None)
@given(st.text(max_size=60))
def test_nothing_typed_is_a_syntax_error(text: str) -> None:
    """No text makes SQLite complain."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE t USING fts5 (x)")
        for begins in (False, True):
            expression = query.full_text(text, begins=begins)
            if expression is not None:
                connection.execute("SELECT * FROM t WHERE t MATCH ?", (expression,)).fetchall()
    finally:
        connection.close()


def test_services_and_environments(store: Store, reader: sqlite3.Connection) -> None:
    """Every service and environment is known, whichever of its ways it was heard of."""
    store.write(
        batch(request(), record(service="billing", env="test"), statsd=b"mail.request:1|ms"), NOON
    )

    assert query.services(reader) == ["billing", "front", "mail"]
    assert query.environments(reader) == ["prod", "test"]


def test_workers_that_start_together_are_one_mark(store: Store, reader: sqlite3.Connection) -> None:
    """The starts of a server's workers are one mark with their number."""
    store.write(batch(*[request(pid, pid=pid) for pid in range(4)]), NOON)
    store.write(batch(request(600, pid=77, service="billing")), NOON + 600)
    span = Span(NOON - 60, NOON + 3600)

    titles = [mark.title for mark in query.marks(reader, span, ALL)]
    assert titles == ["front 1.4.2 started (4)", "billing 1.4.2 started"]
    assert len(query.marks(reader, span, Filters(service="billing"))) == 1


def test_reader_cannot_write(reader: sqlite3.Connection) -> None:
    """A connection for reading refuses to write."""
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM logs")


def test_receiver_tells_what_was_refused(store: Store, reader: sqlite3.Connection) -> None:
    """What was received and refused over a span can be read."""
    store.write(batch(statsd=b"T:1|c\nT:x|c"), NOON)
    told = query.receiver(reader, Span(NOON - 60, NOON + 60))

    assert told.totals["statsd.lines"] == 2
    assert [(bad.reason, bad.count) for bad in told.bad_lines] == [("not a number", 1)]
