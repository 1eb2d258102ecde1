"""The first page."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import time

import pytest

from introspect.console.query import Filters, Span
from introspect.console.query_overview import overview
from introspect.console.store import Store
from tests.console.rows import NOON, batch, request

NOW = int(time.time()) // 600 * 600
SPAN = Span(NOW - 900, NOW)
STATEMENT = "SELECT id FROM shop_basket WHERE user_id = %s"


@pytest.fixture
def _site(store: Store) -> None:
    """Ten minutes of a small site."""
    statsd = b"\n".join(
        [
            *[b"front.request:%d|ms" % ms for ms in (10, 20, 30, 440)],
            *[b"front.view.shop_views_basket.GET:%d|ms" % ms for ms in (10, 20, 30)],
            b"front.view.shop_views_report.POST:440|ms",
            b"front.response.200:3|c",
            b"front.response.500:1|c",
            b"front.request.db:100|ms",
            b"front.request.template:40|ms",
            b"front.request.queue:2|ms",
            b"front.template.shop_basket_html:40|ms",
            b"front.http.billing:33|ms",
            b"front.exception.ValueError.shop_views_report:1|c",
            b"front.process.rss:90000000|ms",
        ]
    )
    event = {
        "offset_ms": 1,
        "kind": "db",
        "name": "default.select",
        "ms": 9,
        "statement": STATEMENT,
    }
    failed = request(
        NOW - 300 - NOON,
        view="shop.views.report",
        status=500,
        correlation_id="aaaa-bbbb",
        exception={"class": "ValueError", "message": "no rows", "place": "shop/views.py:9"},
        events=[event],
    )
    other = request(
        NOW - 299 - NOON, exception={"class": "ValueError"}, correlation_id="other", events=[event]
    )
    store.write(batch(failed, other, statsd=statsd, now=NOW - 300), NOW - 300)


@pytest.mark.usefixtures("_site")
def test_overview_shows_how_the_site_is(reader: sqlite3.Connection) -> None:
    """Counts, percentiles, error rate, status codes, queue and processes are those sent."""
    page = overview(reader, SPAN)
    at = (NOW - 300 - page.rate.start) // page.rate.step

    assert (page.requests.count, page.requests.max) == (4, 440)
    assert page.requests.p50 == pytest.approx(20, rel=0.01)
    assert page.error_rate == 0.25
    assert page.rate.lines[0].values[at] == 4 / page.rate.step
    assert {line.label: line.values[at] for line in page.errors.lines} == {"4xx": 0, "5xx": 0.25}
    assert {line.label for line in page.statuses.lines} == {"200", "500"}
    assert page.queue.lines[0].values[at] == 2
    assert [(graph.title, graph.unit) for graph in page.processes] == [("process.rss", "bytes")]
    assert [mark.kind for mark in page.marks] == ["start"]


@pytest.mark.usefixtures("_site")
def test_where_the_time_goes_adds_up(reader: sqlite3.Connection) -> None:
    """The parts and the rest are together the mean request."""
    where = overview(reader, SPAN).where
    at = (NOW - 300 - where.start) // where.step
    parts = {line.label: line.values[at] for line in where.lines}

    assert parts == {
        "SQL": 25,
        "templates": 10,
        "outgoing calls": 0,
        "cache": 0,
        "the rest": 90,
    }


@pytest.mark.usefixtures("_site")
def test_tops_name_what_costs_most(reader: sqlite3.Connection) -> None:
    """Views by the name the code has, statements as text, templates, hosts, each with its share."""
    page = overview(reader, SPAN)

    assert [row.view for row in page.slowest] == ["shop.views.report", "shop.views.basket"]
    assert [row.view for row in page.busiest] == ["shop.views.basket", "shop.views.report"]
    assert page.costliest[0].share == pytest.approx(0.88)
    assert [value for value in page.busiest[0].spark if value is not None] == [20]
    (statement,) = page.statements
    assert (statement.statement, statement.count, statement.total) == (STATEMENT, 2, 18)
    assert [(row.name, row.share) for row in page.templates] == [("shop_basket_html", 1)]
    assert [row.name for row in page.hosts] == ["billing"]


@pytest.mark.usefixtures("_site")
def test_exception_leads_to_the_story_of_its_own_view(reader: sqlite3.Connection) -> None:
    """Of several exceptions of one class the one of the right view is linked."""
    (row,) = overview(reader, SPAN).exceptions

    assert (row.exception, row.view, row.count) == ("ValueError", "shop.views.report", 1)
    assert (row.place, row.message) == ("shop/views.py:9", "no rows")
    assert row.correlation_id == "aaaa-bbbb"


@pytest.mark.usefixtures("_site")
def test_filter_of_another_service_shows_nothing(reader: sqlite3.Connection) -> None:
    """A service that sent nothing has an empty page, which is still a page."""
    page = overview(reader, SPAN, Filters(service="billing"))

    assert page.requests.count == 0
    assert page.error_rate is None
    assert page.slowest == page.statements == page.exceptions == []


def test_empty_file_has_an_overview(reader: sqlite3.Connection) -> None:
    """Before anything came the page is empty, and plain JSON all the same."""
    page = overview(reader, Span(NOW - 7 * 86400, NOW))

    assert json.loads(json.dumps(dataclasses.asdict(page), allow_nan=False))["marks"] == []
