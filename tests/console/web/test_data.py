"""The data that the pages fetch."""

from __future__ import annotations

import pytest

from introspect.console.web import plugin
from introspect.console.web.data import READERS
from tests.console.generate import HOSTILE
from tests.console.web.conftest import Console

REQUIRED = {"metric": {"metric": "request"}, "story": {"id": "x"}, "view": {"view": "x"}}


@pytest.mark.parametrize("name", READERS)
def test_every_address_answers(shop: Console, name: str) -> None:
    """Each data address answers with JSON that nobody keeps a copy of."""
    answer = shop.get(f"/-/data/{name}", params=REQUIRED.get(name))

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert "no-store" in answer.headers["cache-control"]
    assert isinstance(answer.json(), dict)


@pytest.mark.parametrize("name", READERS)
def test_every_address_answers_when_there_is_nothing(empty_console: Console, name: str) -> None:
    """Before anything was received each data address answers all the same."""
    answer = empty_console.get(f"/-/data/{name}", params=REQUIRED.get(name))

    assert answer.status_code == 200, answer.text


def test_unknown_data_is_404(shop: Console) -> None:
    """An address that no page asks for is no server error."""
    answer = shop.get("/-/data/nothing")

    assert answer.status_code == 404
    assert answer.json() == {"error": "There is no such data."}


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("overview?range=2y", "range='2y': expected one of 15m, 1h, 6h, 24h, 7d."),
        ("overview?from=9&to=5", "from=9 and to=5 are no range of time."),
        ("overview?from=0&to=99999999999999", "are no range of time"),
        ("overview?from=-5&to=7", "are no range of time"),
        ("overview?from=nan&to=7", "from='nan': expected a number of ordinary size."),
        ("overview?from=x", "from='x': expected a number."),
        ("metric", "The parameter metric is missing."),
        ("metric?metric=request&before=year", "expected one of '', 'day', 'week'"),
        ("requests?sort=path", "sort='path': expected one of 'id', 'duration_ms'"),
        ("requests?sort=duration_ms%20DESC%3B%20DROP%20TABLE%20work", "expected one of"),
        ("requests?min_ms=1e400", "expected a number of ordinary size"),
        ("requests?min_ms=fast", "min_ms='fast': expected a number."),
        ("tail?after=--", "after='--': expected a number."),
        ("story", "The parameter id is missing."),
        ("view?view=", "The parameter view is missing."),
    ],
)
def test_bad_parameters_are_explained(shop: Console, query: str, complaint: str) -> None:
    """A parameter that makes no sense is named, with what is expected instead."""
    answer = shop.get(f"/-/data/{query}")

    assert answer.status_code == 400
    assert complaint in answer.json()["error"]


SQL = "x' OR 1=1; DROP TABLE work; --"
HOSTILES = (SQL, '" OR "" NEAR(', "%", "*", 'a* -" (', HOSTILE, "\x00", "💥" * 300, "'" * 50)
FILTERS = {
    "requests": (
        "view",
        "status",
        "method",
        "user",
        "id",
        "kind",
        "version",
        "host",
        "q",
        "after",
        "service",
        "env",
    ),
    "logs": ("q", "level", "logger", "id", "service", "env"),
    "tail": ("q", "level", "logger", "id"),
    "metrics": ("text", "service"),
    "metric": ("metric", "tag.view", "tag.x", "by", "service", "env"),
    "overview": ("service", "env"),
    "view": ("view", "service"),
    "story": ("id",),
}


@pytest.mark.parametrize(
    ("name", "parameter"), [(name, one) for name, many in FILTERS.items() for one in many]
)
def test_filters_take_anything_as_a_value(shop: Console, name: str, parameter: str) -> None:
    """Whatever stands in a filter is a value to look for: never SQL, never a server error."""
    total = shop.data("requests")["rows"]
    for hostile in HOSTILES:
        answer = shop.get(
            f"/-/data/{name}", params={**REQUIRED.get(name, {}), "range": "1h", parameter: hostile}
        )

        assert answer.status_code in (200, 400), (hostile, answer.text)
        if name in ("requests", "logs") and parameter not in ("after", "q", "status"):
            assert all(hostile == HOSTILE for _ in answer.json()["rows"])
    assert shop.data("requests")["rows"] == total


def test_requests_are_filtered_and_sorted(shop: Console) -> None:
    """View, status, duration, user and text narrow the list; any number sorts it, page after page."""
    rows = shop.data("requests", view="shop.views.search", min_ms=60, sort="db_ms")["rows"]
    assert rows
    assert {row["view"] for row in rows} == {"shop.views.search"}
    assert all(row["duration_ms"] >= 60 for row in rows)
    assert [row["db_ms"] for row in rows] == sorted((row["db_ms"] for row in rows), reverse=True)
    first = shop.data("requests", sort="duration_ms")
    second = shop.data("requests", sort="duration_ms", after=first["next"])
    assert min(row["duration_ms"] for row in first["rows"]) >= max(
        row["duration_ms"] for row in second["rows"]
    )
    assert {row["status"] for row in shop.data("requests", status="4xx")["rows"]} == {404}
    user = next(row["user_id"] for row in first["rows"] if row["user_id"])
    assert {row["user_id"] for row in shop.data("requests", user=user)["rows"]} == {user}


def test_services_are_apart(shop: Console) -> None:
    """The service filter holds for numbers, rows and lines alike."""
    both, front, billing = (
        shop.data("overview", **chosen)["requests"]["count"]
        for chosen in ({}, {"service": "front"}, {"service": "billing"})
    )
    assert both == pytest.approx(front + billing)
    assert billing > 0
    assert {row["service"] for row in shop.data("requests", service="billing")["rows"]} == {
        "billing"
    }
    assert {row["service"] for row in shop.data("logs", service="billing")["rows"]} == {"billing"}


def test_a_metric_of_yesterday_comes_along(shop: Console) -> None:
    """Asked to compare, a metric's data holds the same graphs a day or a week earlier."""
    for before, seconds in (("day", 86400), ("week", 604800)):
        answer = shop.data("metric", metric="request", before=before)

        assert answer["shift"] == seconds
        assert [graph["title"] for graph in answer["before"]] == [
            graph["title"] for graph in answer["graphs"]
        ]
        assert answer["before"][0]["start"] < answer["graphs"][0]["start"] - seconds + 700


def test_what_is_no_number_is_null() -> None:
    """JSON knows neither nan nor infinity: they are told as null, and all else as it is."""
    answer = plugin.as_json(
        {"a": float("nan"), "b": [float("inf"), 1.5, {"c": -float("inf")}], "d": "nan"}
    )

    assert answer.body == '{"a":null,"b":[null,1.5,{"c":null}],"d":"nan"}'
