"""StatsD lines to points."""

from __future__ import annotations

import pytest

from introspect.console import sketch, statsd
from introspect.console.statsd import Aggregate, Point, Series, Taken

NOW = 1_795_435_207.5
BUCKET = 1_795_435_200


def take(*packets: bytes) -> Taken:
    """Feed packets and take what came of them."""
    aggregate = Aggregate()
    for packet in packets:
        aggregate.feed(packet, NOW)
    return aggregate.take(NOW)


def only(taken: Taken) -> Point:
    """The one point of what was taken."""
    assert not taken.bad
    (point,) = taken.points.values()
    return point


@pytest.mark.parametrize(
    ("packet", "kind", "count", "total"),
    [
        (b"T:1|c", "counter", 1, 1),
        (b"T:1|c\nT:2|c", "counter", 2, 3),
        (b"T:1|c\n\nT:2|c\n", "counter", 2, 3),
        (b"T:1|c\r\nT:2|c\r\n", "counter", 2, 3),
        (b"T:1|c:2|c", "counter", 2, 3),
        (b"T:1|c:2|c|@0.5", "counter", 3, 5),
        (b"T:1:2:3|ms", "timer", 3, 6),
        (b"T:1:2:3|d|@0.5|#a:b", "timer", 6, 12),
        (b"T:1|ms:2.5|ms", "timer", 2, 3.5),
        (b"T:1|c|@0.1", "counter", 10, 10),
        (b"T:10|ms|@0.1", "timer", 10, 100),
        (b"T:4e-05|ms", "timer", 1, 4e-05),
        (b"T:.5|ms", "timer", 1, 0.5),
        (b"T:-3|c", "counter", 1, -3),
        (b"T:+3|c", "counter", 1, 3),
        (b"T:12.5|h", "timer", 1, 12.5),
        (b"T:-12.5|h", "timer", 1, -12.5),
        (b"T:1|c|#env:prod|c:abc123", "counter", 1, 1),
        (b"T:1|c|#env:prod|@0.5", "counter", 2, 2),
        (b"T:1|c|#", "counter", 1, 1),
        (b"T:12.345|ms|@1.0", "timer", 1, 12.345),
        ("T.café:1|c".encode(), "counter", 1, 1),
    ],
)
def test_line_is_counted(packet: bytes, kind: str, count: float, total: float) -> None:
    """Each form of line that is in use gives the right count and sum."""
    taken = take(packet)
    point = only(taken)
    ((start, series),) = taken.points

    assert (series.kind, start) == (kind, BUCKET)
    assert (point.count, point.sum) == (pytest.approx(count), pytest.approx(total))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"T:nan|ms", "not a number"),
        (b"T:inf|ms", "not a number"),
        (b"T:Infinity|ms", "not a number"),
        (b"T:|ms", "not a number"),
        (b"T: 5 |ms", "not a number"),
        (b"T:1,5|ms", "not a number"),
        (b"T:0x10|c", "not a number"),
        (b"T:1_0|c", "not a number"),
        ("T:\u0661|c".encode(), "not a number"),
        (b"T:1:x|ms", "not a number"),
        (b"T:-5|ms", "negative time or absurd number"),
        (b"T:1e99|c", "negative time or absurd number"),
        (b"T:1|zz", "unknown type"),
        (b"T:1", "no type"),
        (b"T", "no value"),
        (b":7|c", "name is not printable"),
        (b"T\0:7|c", "name is not printable"),
        (b"\xff\xfe:7|c", "name is not UTF-8"),
        (b"n" * 301 + b":7|c", "name too long"),
        (b"T:1|c|@0", "sample rate is not above 0 and at most 1"),
        (b"T:1|c|@2", "sample rate is not above 0 and at most 1"),
        (b"T:1|c|@abc", "sample rate is not above 0 and at most 1"),
        (b"T:1|c|what", "unknown field"),
        (b"T:1|c|#" + b",".join(b"t%d:v" % n for n in range(31)), "too many tags"),
        (b"T:1|c|T1000", "timestamp is not of the last hour"),
        (b"_sc|T|0|#env:prod", "service check: not kept"),
        (b"_e{5,4}:T|text", "event is not as long as it says"),
        (b"_e{x,4}:T|text", "event without its lengths"),
        (b"T:|s", "not a set member"),
    ],
)
def test_bad_line_is_counted_and_changes_nothing(line: bytes, reason: str) -> None:
    """A line that cannot be understood is counted by its reason; its neighbours are kept."""
    taken = take(b"good:1|c\n" + line + b"\ngood:2|c")

    assert [(name, bad.count) for name, bad in taken.bad.items()] == [(reason, 1)]
    assert {series.metric: point.sum for (_, series), point in taken.points.items()} == {"good": 3}
    assert taken.lines == 3


def test_gauge_deltas() -> None:
    """Signed values change a gauge, unsigned ones set it, and the level outlives a batch."""
    aggregate = Aggregate()
    for packet in (b"T:7|g", b"T:+3|g", b"T:-1.5|g"):
        aggregate.feed(packet, NOW)
    first = only(aggregate.take(NOW))
    aggregate.feed(b"T:-10|g", NOW)
    second = only(aggregate.take(NOW))

    assert (first.last, first.min, first.max, first.count) == (8.5, 7, 10, 3)
    assert second.last == -1.5


def test_gauge_delta_starts_from_what_the_file_knows() -> None:
    """After a restart a delta is added to the level before it."""
    aggregate = Aggregate({Series("T", "gauge", "", "", ()): 40.0})
    aggregate.feed(b"T:+2|g", NOW)

    assert only(aggregate.take(NOW)).last == 42


def test_set_counts_different_members() -> None:
    """A set has as many members as there were different ones, numbers and odd ones included."""
    taken = take(b"T:bob|s\nT:eve|s\nT:bob|s\nT:5|s\nT:a b/c|s\nT:x:y|s")
    point = only(taken)

    assert sketch.cardinality([point.packed()]) == 5
    assert point.count == 6


def test_tags_become_the_series() -> None:
    """DogStatsD tags name service, environment and the rest, in any order of theirs."""
    taken = take(
        b"front.view:12|ms|#view:shop.views.basket,method:GET,service:front,env:prod\n"
        b"front.view:13|ms|#service:front,env:prod,method:GET,view:shop.views.basket"
    )
    ((_, series),) = taken.points

    tags = (("method", "GET"), ("view", "shop.views.basket"))
    assert series == Series("view", "timer", "front", "prod", tags)


def test_plain_and_tagged_names_give_the_same_series_but_for_the_environment() -> None:
    """What the agent writes in either format lands in the same metric."""
    taken = take(b"front.response.200:1|c\nfront.response:1|c|#status:200,service:front")

    assert [series for _, series in taken.points] == [
        Series("response", "counter", "front", "", (("status", "200"),))
    ]


def test_timestamp_puts_a_value_into_its_own_bucket() -> None:
    """A DogStatsD timestamp of the last hour decides the bucket."""
    taken = take(b"T:1|c|T%d\nT:2|c" % (BUCKET - 95))

    assert {start: point.sum for (start, _), point in taken.points.items()} == {
        BUCKET - 100: 1,
        BUCKET: 2,
    }


def test_event_is_kept() -> None:
    """A DogStatsD event gives its title and text, whatever stands in them."""
    taken = take(b"_e{8,10}:a|b:deep|some: text|#env:prod")

    assert taken.events == [(int(NOW), "a|b:deep", "some: text")]


def test_percentiles_of_sampled_timers() -> None:
    """Sampled and unsampled values of one timer weigh what they stand for."""
    taken = take(b"T:10|ms|@0.01\n" + b"\n".join([b"T:500|ms"] * 5))
    point = only(taken)

    assert sketch.quantile(point.sketch, 0.9) == pytest.approx(10, rel=0.01)
    assert sketch.quantile(point.sketch, 0.99) == pytest.approx(500, rel=0.01)


def test_invented_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names are invented, only so many are remembered; the rest is counted."""
    monkeypatch.setattr(statsd, "MAX_SERIES", 50)
    aggregate = Aggregate()
    for number in range(200):
        aggregate.feed(b"invented%d:1|c" % number, NOW)
    taken = aggregate.take(NOW)

    assert len(taken.points) == 50
    assert taken.bad["too many names at once"].count == 150
    aggregate.feed(b"later:1|c", NOW)
    assert len(aggregate.take(NOW).points) == 1
