"""Taking names on the wire apart."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from introspect import instrumentations
from introspect.agent import metrics
from introspect.console import names


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("front.request", "timer", ("front", "request", ())),
        (
            "front.view.shop_views_basket.GET",
            "timer",
            ("front", "view", ("shop_views_basket", "GET")),
        ),
        ("front.response.200", "counter", ("front", "response", ("200",))),
        ("front.db.connect.default", "timer", ("front", "db.connect", ("default",))),
        ("front.db.default.select", "timer", ("front", "db", ("default", "select"))),
        ("front.cache.hit.default", "counter", ("front", "cache.hit", ("default",))),
        ("front.cache.hit.default", "timer", ("front", "cache", ("hit", "default"))),
        ("prod.eu.front.request.db", "timer", ("prod.eu.front", "request.db", ())),
        ("db.db.default.select", "timer", ("db", "db", ("default", "select"))),
        ("request", "timer", ("", "request", ())),
        ("nginx.requests.total", "counter", ("", "nginx.requests.total", ())),
        ("front.request", "gauge", ("", "front.request", ())),
        ("a..b", "timer", ("", "a..b", ())),
    ],
)
def test_name_is_taken_apart(name: str, kind: str, expected: tuple) -> None:
    """A name of the agent's gives service, metric and tag values; any other stays whole."""
    assert names.split(name, kind) == expected


def test_tagged_name_has_its_values_beside_it() -> None:
    """With DogStatsD tags the name is prefix and metric alone."""
    assert names.split("front.view", "timer", tagged=True) == ("front", "view", ())
    assert names.split("view", "timer", tagged=True) == ("", "view", ())


def agent_metrics() -> list[metrics.Metric]:
    """Every metric that the agent can send."""
    for package in (instrumentations, importlib.import_module("introspect.agent")):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return metrics.catalogue()


def test_console_knows_every_metric_of_the_agent() -> None:
    """Whatever the agent declares is known here by the same kind, unit and tags."""
    declared = {metric.name: metric for metric in agent_metrics()}
    assert {"request", "view", "db", "http"} <= declared.keys()

    for name, metric in declared.items():
        known = names.CATALOGUE[name]
        kind = names.TIMER if metric.kind == metrics.DISTRIBUTION else metric.kind
        assert (known.kind, known.unit, known.tags) == (kind, metric.unit, metric.tags), name


def test_every_metric_of_the_agent_is_understood() -> None:
    """What the agent writes for a metric is read back as that metric with those tag values."""
    naming = metrics.Naming(service="front")
    for metric in agent_metrics():
        values = tuple(f"value_{tag}" for tag in metric.tags)
        written = naming.new_series(metric, values).head.rstrip(":")
        kind = names.TIMER if metric.kind == metrics.DISTRIBUTION else metric.kind

        assert names.split(written, kind) == ("front", metric.name, values)
