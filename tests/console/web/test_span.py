"""Ranges of time in addresses."""

from __future__ import annotations

import pytest

from introspect.console.query import Filters, Span
from introspect.console.web.span import RANGES, BadAddressError, filters_of, number_of, span_of

NOW = 1_700_000_000.5


@pytest.mark.parametrize(("name", "seconds"), RANGES.items())
def test_named_range_ends_now(name: str, seconds: int) -> None:
    """A named range is that long and includes the present second."""
    span = span_of({"range": name}, NOW)

    assert span.seconds == seconds
    assert span.end == 1_700_000_001


def test_default_is_an_hour() -> None:
    """An address without a range means the last hour."""
    assert span_of({}, NOW).seconds == 3600


def test_fixed_range_is_taken_as_it_is() -> None:
    """`from` and `to` are epoch seconds; without `to` the range ends now."""
    assert span_of({"from": "1699990000", "to": "1699993600", "range": "7d"}, NOW) == Span(
        1699990000, 1699993600
    )
    assert span_of({"from": "1699990000"}, NOW) == Span(1699990000, 1700000000)


def test_fixed_range_is_never_empty() -> None:
    """However near its ends are, a range holds at least one bucket."""
    assert span_of({"from": "1699990000.1", "to": "1699990000.2"}, NOW).seconds == 10


def test_range_of_years_is_refused() -> None:
    """A range longer than anything is kept is a mistake."""
    with pytest.raises(BadAddressError, match="no range of time"):
        span_of({"from": "1", "to": "1699990000"}, NOW)


def test_empty_filters_mean_all() -> None:
    """An empty service or environment filters nothing."""
    assert filters_of({"service": "", "env": ""}) == Filters()
    assert filters_of({"service": "front", "env": "prod"}) == Filters("front", "prod")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e99", "9007199254740993", "1_0x", "٣x"])
def test_odd_numbers_are_refused(text: str) -> None:
    """What is no number, or too large to be exact, is refused by name."""
    with pytest.raises(BadAddressError, match=r"^limit="):
        number_of({"limit": text}, "limit", 0)
