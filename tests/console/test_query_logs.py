"""Search log lines."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from introspect.console import query_logs
from introspect.console.query import Filters, Span
from introspect.console.query_logs import LogFilter, search_logs, tail_logs
from introspect.console.store import Store
from tests.console.rows import NOON, batch, record

SPAN = Span(NOON - 3600, NOON)
WORDS = ("basket", "order", "invoice", "parcel")


@pytest.fixture
def _lines(store: Store) -> None:
    """Three hundred lines of an hour."""
    lines = [
        record(
            number * 12 - 3600,
            message=f"the {WORDS[number % 4]} number {number} changed",
            level=("INFO", "WARNING", "ERROR")[0 if number % 10 else number // 10 % 3],
            logger=("shop", "shop.cart", "shopping")[number % 3],
            service="front" if number % 2 else "billing",
            correlation_id=f"id-{number % 50}",
        )
        for number in range(300)
    ]
    store.write(batch(*lines), NOON)


FILTERS = [
    (LogFilter(), lambda row: True),
    (LogFilter("parcel"), lambda row: "parcel" in row["message"]),
    (LogFilter('"number 42"'), lambda row: "number 42 " in row["message"]),
    (
        LogFilter("num* -parcel -order"),
        lambda row: "basket" in row["message"] or "invoice" in row["message"],
    ),
    (LogFilter(level="error"), lambda row: row["level"] == "ERROR"),
    (LogFilter(logger="shop"), lambda row: row["logger"] in ("shop", "shop.cart")),
    (
        LogFilter("order", "INFO", "shop.cart"),
        lambda row: (
            "order" in row["message"] and (row["level"], row["logger"]) == ("INFO", "shop.cart")
        ),
    ),
    (LogFilter(correlation_id="id-7"), lambda row: row["correlation_id"] == "id-7"),
    (
        LogFilter("order", correlation_id="id-9"),
        lambda row: row["correlation_id"] == "id-9" and "order" in row["message"],
    ),
    (LogFilter("nowhere"), lambda row: False),
]


@pytest.mark.usefixtures("_lines")
@pytest.mark.parametrize(("where", "passes"), FILTERS)
def test_search_finds_exactly_what_passes(
    reader: sqlite3.Connection, where: LogFilter, passes: Callable[[dict[str, Any]], object]
) -> None:
    """Every filter gives the lines that a plain scan gives, newest first, with right counts."""
    columns = [row[1] for row in reader.execute("PRAGMA table_xinfo(logs)")]
    rows = [
        dict(zip(columns, row, strict=True))
        for row in reader.execute("SELECT * FROM logs ORDER BY id DESC")
    ]
    expected = [row["id"] for row in rows if passes(row)]
    page = search_logs(reader, SPAN, where, limit=40)
    found = [row["id"] for row in page.rows]
    following = page.next
    while following is not None and len(found) < 1000:
        more = search_logs(reader, SPAN, where, limit=40, before=following, count=False)
        found += [row["id"] for row in more.rows]
        following = more.next

    assert found == expected
    assert page.total == len(expected)
    assert sum(facet.count for facet in page.levels) == len(expected)
    assert sum(facet.count for facet in page.loggers) == len(expected)
    assert sum(sum(line.values) for line in page.timeline.lines) == len(expected)
    assert page.counted_since is None
    tail = tail_logs(reader, 0, where, limit=1000)
    assert [row["id"] for row in tail] == expected[::-1]


@pytest.mark.usefixtures("_lines")
def test_search_keeps_to_span_and_service(reader: sqlite3.Connection) -> None:
    """Only lines of the span and the service chosen are found and counted."""
    page = search_logs(reader, Span(NOON - 1200, NOON - 600), filters=Filters(service="front"))

    assert len(page.rows) == page.total == 25
    assert all(NOON - 1200 <= row["id"] / 1e6 < NOON - 600 for row in page.rows)


@pytest.mark.usefixtures("_lines")
def test_too_many_matches_are_counted_from_the_newest(
    reader: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a bound counting stops, and the page says since when it counts."""
    monkeypatch.setattr(query_logs, "MAX_COUNTED", 100)
    page = search_logs(reader, SPAN, LogFilter("number"))

    assert page.total == 100
    assert page.counted_since == pytest.approx(NOON - 1200)


@pytest.mark.usefixtures("_lines")
@pytest.mark.parametrize("where", [LogFilter("number", "ERROR"), LogFilter(level="ERROR")])
def test_search_that_takes_too_long_goes_on_where_it_stopped(
    reader: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, where: LogFilter
) -> None:
    """Out of time a page is short, and the next ones bring the rest."""
    monkeypatch.setattr(query_logs, "PATIENCE", -1)
    found, following, pages = [], None, 0
    while pages == 0 or following is not None:
        page = search_logs(reader, SPAN, where, limit=5, before=following, count=False)
        found += [row["id"] for row in page.rows]
        following = page.next
        pages += 1

    assert pages > 3
    query = "SELECT id FROM logs WHERE level = 'ERROR' ORDER BY id DESC"
    assert found == [identity for (identity,) in reader.execute(query)]


@pytest.mark.usefixtures("_lines")
def test_tail_brings_what_is_new(store: Store, reader: sqlite3.Connection) -> None:
    """After a line only newer ones are brought, oldest first, and no flood of them."""
    last = search_logs(reader, SPAN, limit=1).rows[0]["id"]
    assert tail_logs(reader, last) == []
    store.write(batch(*[record(10 + number, message=f"n{number}") for number in range(5)]), NOON)

    assert [row["message"] for row in tail_logs(reader, last)] == ["n0", "n1", "n2", "n3", "n4"]
    assert [row["message"] for row in tail_logs(reader, last, limit=2)] == ["n3", "n4"]


def test_invented_loggers_are_still_found(store: Store, reader: sqlite3.Connection) -> None:
    """Lines of a logger beyond those counted by name are found all the same."""
    store._loggers.update(f"invented{number}" for number in range(2000))
    store.write(batch(record(-60, logger="late.one"), record(-60, logger="late.two")), NOON)
    page = search_logs(reader, SPAN, LogFilter(logger="late.one"))

    assert len(page.rows) == 1
