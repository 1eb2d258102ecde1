"""Percentiles and sets from packed sketches."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from introspect.console import sketch


def packed(values: list[float], weight: float = 1) -> bytes:
    """Pack values into a sketch."""
    made: sketch.Sketch = {}
    sketch.add(made, values, weight)
    return sketch.pack(made)


def nearest_rank(values: list[float], q: float) -> float:
    """Return the smallest of the values that at least `q` of them do not exceed."""
    return sorted(values)[max(math.ceil(q * len(values) * (1 - 1e-12)), 1) - 1]


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [
        ([5.4, 204], 0.95, 204),
        ([5.4, 204], 0.5, 5.4),
        ([*range(1, 14)], 0.95, 13),
        ([*range(1, 101)], 0.95, 95),
        ([*range(1, 101)], 0.07, 7),
        ([7], 0.0, 7),
    ],
)
def test_percentile_of_few_values(values: list[float], q: float, expected: float) -> None:
    """Of two values the 95th percentile is the higher one; of a hundred it is the 95th."""
    assert sketch.quantile(sketch.unpack(packed(values)), q) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("q", [0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0])
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.lognormvariate(3, 1.5),
        lambda rng: rng.expovariate(0.01),
        lambda rng: rng.choice([0.4, 80.0, 3000.0]) * (1 + rng.random()),
    ],
)
def test_percentile_of_merged_buckets_is_right_to_one_percent(
    draw: Callable[[random.Random], float], q: float
) -> None:
    """A percentile over a hundred merged buckets is within 1 % of the one over all values."""
    rng = random.Random(2014)
    values = [draw(rng) for _ in range(20_000)]
    merged = sketch.merge(packed(values[at : at + 200]) for at in range(0, len(values), 200))

    exact = nearest_rank(values, q)
    assert sketch.quantile(merged, q) == pytest.approx(exact, rel=0.01)


def test_percentile_is_not_an_average_of_percentiles() -> None:
    """A quiet bucket does not weigh as much as a busy one."""
    merged = sketch.merge([packed([10.0] * 990), packed([1000.0] * 10)])

    assert sketch.quantile(merged, 0.95) == pytest.approx(10, rel=0.01)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.floats(-sketch.LARGEST, sketch.LARGEST, allow_subnormal=False), min_size=1, max_size=50
    ),
    st.floats(0, 1),
)
def test_any_values_survive_packing(values: list[float], q: float) -> None:
    """Values of any sign and size come back within 1 %, after packing and unpacking."""
    found = sketch.quantile(sketch.unpack(packed(values)), q)

    exact = nearest_rank(values, q)
    assert found == pytest.approx(exact, rel=0.01, abs=1e-8)


def test_merging_is_the_same_in_any_order() -> None:
    """Merging packed sketches is commutative and associative."""
    rng = random.Random(7)
    one, two, three = (packed([rng.expovariate(0.1) for _ in range(300)]) for _ in range(3))

    there = sketch.merge_packed(sketch.merge_packed(one, two), three)
    back = sketch.merge_packed(three, sketch.merge_packed(two, one))
    assert there == back


@pytest.mark.parametrize("count", [1, 255, 256, 65_535, 65_536, 10_000_000])
def test_large_counts_survive_packing(count: int) -> None:
    """A count of any size is kept exactly."""
    assert sum(sketch.unpack(packed([5.0], count)).values()) == count


def test_fractional_weights_are_kept() -> None:
    """A sample rate of 0.3 counts each value as three and a third."""
    assert sum(sketch.unpack(packed([5.0, 7.0], 1 / 0.3)).values()) == pytest.approx(2 / 0.3)


def test_no_values_have_no_percentile() -> None:
    """Nothing merged gives no percentile, rather than zero."""
    assert sketch.quantiles(sketch.merge([None]), (0.5, 0.99)) == [None, None]


def test_set_is_exact_while_small() -> None:
    """Up to a thousand members are counted exactly, however often and wherever they occur."""
    one = sketch.pack_members(b"user%d" % number for number in range(600))
    two = sketch.pack_members(b"user%d" % number for number in range(400, 1000))

    assert sketch.cardinality([one, two, one]) == 1000


def test_large_set_is_estimated() -> None:
    """Of a hundred thousand members the number is right within a few per cent, in little room."""
    packs = [
        sketch.pack_members(b"user%d" % number for number in range(at, at + 20_000))
        for at in range(0, 100_000, 10_000)
    ]
    merged = packs[0]
    for other in packs[1:]:
        merged = sketch.merge_packed(merged, other)

    assert sketch.cardinality([merged]) == pytest.approx(110_000, rel=0.1)
    assert len(merged) == 1 + 8 * sketch.MEMBERS
