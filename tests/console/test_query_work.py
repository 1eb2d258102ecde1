"""Search and sort canonical lines, and one view's page."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import pytest

from introspect.console import query_work
from introspect.console.query import Filters, Span
from introspect.console.query_work import WorkFilter, search_work, view_page
from introspect.console.store import Store
from tests.console.rows import NOON, batch, request

SPAN = Span(NOON - 3600, NOON)
COUNT = 300


@pytest.fixture
def _requests(store: Store) -> None:
    """Three hundred requests of an hour, no two alike."""
    lines = [
        request(
            number * 11 - 3600,
            correlation_id=f"id-{number}",
            path=f"/shop/{number}/",
            view=f"shop.views.v{number % 10}",
            method="POST" if number % 4 == 0 else "GET",
            status=(200, 404, 500)[number % 100 % 3 if number % 100 < 6 else 0],
            duration_ms=(number * 37) % 499,
            db_queries=None if number % 5 else (number * 11) % 97,
            user_id=str(number % 7),
            host=f"web{number % 3}",
            service="front" if number % 2 else "billing",
            **({"exception": {"class": "KeyError", "message": "zanzibar"}} if number == 77 else {}),
        )
        for number in range(COUNT)
    ]
    store.write(batch(*lines), NOON)


FILTERS = [
    (WorkFilter(), lambda row: True),
    (WorkFilter(view="shop.views.v3"), lambda row: row["view"] == "shop.views.v3"),
    (WorkFilter(view="shop_views_v3"), lambda row: row["view"] == "shop.views.v3"),
    (
        WorkFilter(method="POST", host="web1"),
        lambda row: (row["method"], row["host"]) == ("POST", "web1"),
    ),
    (WorkFilter(status="404"), lambda row: row["status"] == 404),
    (WorkFilter(status="2xx"), lambda row: row["status"] == 200),
    (WorkFilter(status="5xx"), lambda row: row["status"] == 500),
    (WorkFilter(status="error"), lambda row: row["status"] == 500 or row["exception_class"]),
    (WorkFilter(status="nonsense"), lambda row: False),
    (WorkFilter(min_ms=100, max_ms=200), lambda row: 100 <= row["duration_ms"] <= 200),
    (
        WorkFilter(user_id="4", view="shop.views.v3"),
        lambda row: (row["user_id"], row["view"]) == ("4", "shop.views.v3"),
    ),
    (WorkFilter(correlation_id="id-42"), lambda row: row["correlation_id"] == "id-42"),
    (WorkFilter(text="zanz"), lambda row: row["exception_class"] == "KeyError"),
    (WorkFilter(text="shop 123"), lambda row: row["path"] == "/shop/123/"),
    (WorkFilter(kind="task"), lambda row: False),
]


@pytest.mark.usefixtures("_requests")
@pytest.mark.parametrize(("where", "passes"), FILTERS)
def test_search_finds_exactly_what_passes(
    reader: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    where: WorkFilter,
    passes: Callable[[dict[str, Any]], object],
) -> None:
    """Every filter with every order gives the rows that a plain scan gives, page after page."""
    columns = [row[1] for row in reader.execute("PRAGMA table_xinfo(work)")]
    rows = [dict(zip(columns, row, strict=True)) for row in reader.execute("SELECT * FROM work")]
    # Of a text only so many of the newest matches are sorted; all else is also searched by stretch.
    monkeypatch.setattr(query_work, "PATIENCE", 60)
    fews = [query_work.FEW] if where.text else [query_work.FEW, 5]
    for sort, descending, few in itertools.product(
        ("id", "duration_ms", "db_queries"), (True, False), fews
    ):
        monkeypatch.setattr(query_work, "FEW", few)
        expected = sorted(
            ((row[sort], row["id"]) for row in rows if passes(row) and row[sort] is not None),
            reverse=descending,
        )
        found = []
        after = None
        while len(found) <= COUNT:
            page = search_work(
                reader, SPAN, where, sort=sort, descending=descending, limit=90, after=after
            )
            found += [(row[sort], row["id"]) for row in page.rows]
            assert page.is_complete
            after = page.next
            if after is None:
                break
        assert found == expected, (sort, descending, few)


@pytest.mark.usefixtures("_requests")
def test_search_keeps_to_span_and_service(reader: sqlite3.Connection) -> None:
    """Only the span's requests of the service chosen are found."""
    page = search_work(reader, Span(NOON - 700, NOON - 350), filters=Filters(service="front"))

    assert len(page.rows) == 16
    assert {row["service"] for row in page.rows} == {"front"}
    assert all(NOON - 700 <= row["id"] / 1e6 < NOON - 350 for row in page.rows)


@pytest.mark.usefixtures("_requests")
def test_search_that_takes_too_long_goes_on_where_it_stopped(
    reader: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of time a page is short, says so, and the next ones bring the rest."""
    monkeypatch.setattr(query_work, "PATIENCE", -1)
    monkeypatch.setattr(query_work, "FEW", 5)
    found = []
    after = None
    pages = 0
    while pages == 0 or after is not None:
        page = search_work(reader, SPAN, WorkFilter(status="2xx", host="web1"), after=after)
        found += [row["id"] for row in page.rows]
        after = page.next
        pages += 1

    assert pages > 10
    query = "SELECT id FROM work WHERE status = 200 AND host = 'web1' ORDER BY id DESC"
    assert found == [identity for (identity,) in reader.execute(query)]
    by_number = search_work(reader, SPAN, sort="duration_ms")
    assert not by_number.is_complete


def test_sort_by_anything_else_is_refused(reader: sqlite3.Connection) -> None:
    """A column that is not a number cannot be sorted by: no SQL comes from outside."""
    with pytest.raises(ValueError, match="cannot be sorted by"):
        search_work(reader, SPAN, sort="path; DROP TABLE work")


@pytest.mark.usefixtures("_requests")
def test_requests_per_second_are_drawn(reader: sqlite3.Connection) -> None:
    """The graph above the requests adds up to their number."""
    graph = search_work(reader, SPAN, WorkFilter(view="none")).graph

    assert sum(value * graph.step for value in graph.lines[0].values) == pytest.approx(COUNT)


def test_view_page_says_what_a_view_does_and_who_calls_it(
    store: Store, reader: sqlite3.Connection
) -> None:
    """Statements and calls per request, methods, heat, callers, and the slowest requests."""
    now = int(time.time()) // 600 * 600
    query = {"kind": "db", "name": "default.select", "ms": 2, "statement": "SELECT 1"}
    lines = []
    for number in range(4):
        moment = now - 300 - NOON + number
        correlation, span = f"story-{number}", f"{number:016x}"
        call = {"offset_ms": 2, "kind": "http", "name": "billing", "ms": 5, "span_id": span}
        lines += [
            request(moment, correlation_id=correlation, view="shop.views.checkout", events=[call]),
            request(
                moment + 0.003,
                service="billing",
                view="billing.views.charge",
                correlation_id=correlation,
                parent_id=span,
                duration_ms=10.0 + number,
                events=[{"offset_ms": at, **query} for at in range(3)],
            ),
        ]
    lines.append(request(now - 290 - NOON, service="billing", view="billing.views.charge"))
    statsd = b"\n".join(
        b"billing.view.billing_views_charge.POST:%d|ms" % ms for ms in (10, 11, 12, 13)
    )
    store.write(batch(*lines, statsd=statsd, now=now - 300), now - 300)
    page = view_page(reader, "billing_views_charge", Span(now - 900, now))

    assert page.view == "billing.views.charge"
    assert (page.summary.count, page.methods, page.requests) == (4, ["POST"], 4)
    (statement,) = page.statements
    assert (statement.statement, statement.per_request, statement.ms_per_request) == (
        "SELECT 1",
        3,
        6,
    )
    assert [(one.service, one.origin, one.count) for one in page.callers] == [
        ("front", "shop.views.checkout", 4)
    ]
    assert page.called_directly == 1
    assert [row["duration_ms"] for row in page.slowest] == [13, 12.5, 12, 11, 10]
    assert sum(map(sum, page.heat.columns)) == 4
    assert len(page.heat.bounds) == len(page.heat.columns[0]) + 1


def test_unknown_view_has_an_empty_page(reader: sqlite3.Connection) -> None:
    """A view that nobody has heard of is not an error."""
    page = view_page(reader, "nothing", SPAN)

    assert (page.summary.count, page.statements, page.callers, page.slowest) == (0, [], [], [])
