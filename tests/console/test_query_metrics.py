"""Any metric over any span."""

from __future__ import annotations

import math
import random
import sqlite3
import time

import pytest

from introspect.console.query import Filters, Span
from introspect.console.query_metrics import metric_graphs, metric_names, summary, tag_values
from introspect.console.store import Store
from tests.console.rows import batch

NOW = int(time.time()) // 600 * 600
"""The readers choose buckets by what is still kept at this moment."""


def write(store: Store, ago: float, *lines: bytes) -> None:
    """Write StatsD lines so many seconds before ``NOW``."""
    store.write(batch(statsd=b"\n".join(lines), now=NOW - ago), NOW - ago)


def test_summary_over_any_span_is_right_to_one_percent(
    store: Store, reader: sqlite3.Connection
) -> None:
    """Percentiles over spans of any length and place are those of exactly their values."""
    rng = random.Random(5)
    values = {}
    for ago in range(7200, 0, -70):
        values[NOW - ago] = [round(rng.lognormvariate(3, 1), 3) for _ in range(rng.randrange(40))]
        lines = [b"front.view.v%d.GET:%f|ms" % (n % 3, v) for n, v in enumerate(values[NOW - ago])]
        write(store, ago, *lines)

    for start, end in ((7200, 0), (3600, 10), (1230, 470), (100, 0)):
        span = Span(NOW - start, NOW - end)
        exact = sorted(
            value
            for moment, some in values.items()
            if span.start <= moment // 10 * 10 < span.end
            for value in some
        )
        told = summary(reader, "view", span)
        assert told.count == len(exact)
        assert told.total == pytest.approx(sum(exact))
        assert told.max == max(exact)
        for q, found in ((0.5, told.p50), (0.95, told.p95), (0.99, told.p99)):
            assert found == pytest.approx(exact[math.ceil(q * len(exact)) - 1], rel=0.01)


def test_summary_of_days_is_made_of_coarse_buckets(
    store: Store, reader: sqlite3.Connection
) -> None:
    """Days back, where fine buckets have gone, the count is that of ten-minute buckets."""
    for ago in (3 * 86400, 2.5 * 86400, 300):
        write(store, ago, *[b"T:1|ms"] * 5)

    assert summary(reader, "T", Span(NOW - 4 * 86400, NOW)).count == 15
    assert summary(reader, "T", Span(NOW - 4 * 86400, NOW - 86400)).count == 10


def test_timer_has_percentiles_and_a_rate(store: Store, reader: sqlite3.Connection) -> None:
    """A timer's graphs are its percentiles and mean, and how often it was."""
    write(store, 300, *[b"T:%d|ms" % ms for ms in range(1, 101)])
    latency, rate = metric_graphs(reader, "T", Span(NOW - 900, NOW))
    at = (NOW - 300 - latency.start) // latency.step

    assert latency.unit == "ms"
    assert {line.label: line.values[at] for line in latency.lines} == {
        "p50": pytest.approx(50, rel=0.01),
        "p95": pytest.approx(95, rel=0.01),
        "p99": pytest.approx(99, rel=0.01),
        "mean": pytest.approx(50.5),
    }
    assert rate.lines[0].values[at] == 100 / rate.step
    assert rate.lines[0].values[at - 1] == 0
    assert latency.lines[0].values[at - 1] is None


def test_counter_has_a_rate(store: Store, reader: sqlite3.Connection) -> None:
    """A counter's graph is per second, whatever its sample rate."""
    write(store, 300, b"T:5|c|@0.5")
    (graph,) = metric_graphs(reader, "T", Span(NOW - 900, NOW))

    assert (graph.unit, max(graph.lines[0].values)) == ("/s", 10 / graph.step)


def test_gauge_has_its_last_value(store: Store, reader: sqlite3.Connection) -> None:
    """A gauge's graph is its newest value in each step, and the extremes."""
    write(store, 300, b"T:5|g", b"T:9|g", b"T:7|g")
    (graph,) = metric_graphs(reader, "T", Span(NOW - 900, NOW))
    found = {
        line.label: [value for value in line.values if value is not None] for line in graph.lines
    }

    assert found == {"last": [7], "min": [5], "max": [9]}


def test_set_counts_members_of_a_whole_step(store: Store, reader: sqlite3.Connection) -> None:
    """Members that come again in another bucket of the same step are not counted again."""
    for ago in range(3000, 1800, -10):
        write(store, ago, b"T:bob|s", b"T:user%d|s" % (ago % 50))
    (graph,) = metric_graphs(reader, "T", Span(NOW - 3 * 86400, NOW))

    assert {value for value in graph.lines[0].values if value is not None} == {6}


def test_graph_can_be_split_by_a_tag(store: Store, reader: sqlite3.Connection) -> None:
    """Split by a tag there is one line per value, the busiest first, no more than asked for."""
    for number in range(5):
        write(store, 300, *[b"front.response.%d:1|c" % (200 + number)] * (number + 1))
    (graph,) = metric_graphs(reader, "response", Span(NOW - 900, NOW), by="status", limit=3)

    assert {line.label for line in graph.lines} == {"202", "203", "204"}
    assert tag_values(reader, "response", "status") == ["200", "201", "202", "203", "204"]
    (one,) = metric_graphs(reader, "response", Span(NOW - 900, NOW), tags={"status": "203"})
    assert max(one.lines[0].values) == 4 / one.step


def test_same_time_yesterday_is_the_same_graph(store: Store, reader: sqlite3.Connection) -> None:
    """The span a day before gives as many steps, so that both can be drawn over each other."""
    write(store, 86400 + 300, b"T:1|c")
    write(store, 300, b"T:1|c")
    today = Span(NOW - 3600, NOW)
    (now,) = metric_graphs(reader, "T", today)
    (before,) = metric_graphs(reader, "T", today.shifted(-86400))

    assert before.start == now.start - 86400
    assert sum(value or 0 for value in before.lines[0].values) > 0


def test_environment_filter_keeps_what_has_none(store: Store, reader: sqlite3.Connection) -> None:
    """Plain StatsD names no environment: it passes every filter, another environment does not."""
    write(
        store,
        300,
        b"front.request:1|ms",
        b"front.request:1|ms|#service:front,env:prod",
        b"front.request:1|ms|#service:front,env:test",
        b"billing.request:1|ms",
    )
    span = Span(NOW - 900, NOW)

    assert summary(reader, "request", span).count == 4
    assert summary(reader, "request", span, Filters(env="prod")).count == 3
    assert summary(reader, "request", span, Filters("front", "prod")).count == 2


def test_metrics_are_found_by_words(store: Store, reader: sqlite3.Connection) -> None:
    """Every word must occur in the name; what the catalogue says stands beside it."""
    write(store, 60, b"front.request.db:1|ms", b"front.db.default.select:1|ms", b"nginx.dbx:1|c")

    assert [name.metric for name in metric_names(reader, "DB")] == ["db", "nginx.dbx", "request.db"]
    (found,) = metric_names(reader, "db quest")
    assert (found.metric, found.kind, found.unit, found.services) == (
        "request.db",
        "timer",
        "ms",
        ["front"],
    )
    (tagged,) = [name for name in metric_names(reader) if name.metric == "db"]
    assert (tagged.tags, tagged.help) == (["alias", "verb"], "each statement")


def test_unknown_metric_has_no_graph(reader: sqlite3.Connection) -> None:
    """Nothing known is an empty list, not an error."""
    assert metric_graphs(reader, "nothing", Span(NOW - 900, NOW)) == []
    assert summary(reader, "nothing", Span(NOW - 900, NOW)).p95 is None
