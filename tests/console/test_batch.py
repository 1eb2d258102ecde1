"""What waits for the file."""

from __future__ import annotations

import pytest

from introspect.console import batch as batch_module
from introspect.console.batch import Batch
from introspect.console.sketch import unpack
from tests.console.rows import batch, record


def test_points_of_one_bucket_are_merged() -> None:
    """However many batches wait, a series has one point per bucket, with everything in it."""
    waiting = Batch()
    for _ in range(100):
        waiting.add(batch(statsd=b"T:5|ms\nT:7|ms\nU:bob|s"))

    timer, members = waiting.points.values()
    assert (timer.count, timer.sum, timer.min, timer.max) == (200, 1200, 5, 7)
    assert sum(unpack(timer.packed()).values()) == 200
    assert members.members == {b"bob"}


@pytest.mark.parametrize(("limit", "value"), [("MAX_ROWS", 30), ("MAX_BYTES", 9_000)])
def test_lines_that_wait_are_bounded(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    """When too many or too large lines wait the oldest go, and are counted as lost."""
    monkeypatch.setattr(batch_module, limit, value)
    waiting = Batch()
    for number in range(100):
        waiting.add(batch(record(message=f"{number}")))

    kept = [log.values["message"] for log in waiting.logs]
    assert 20 < len(kept) <= 40
    assert kept == [str(number) for number in range(100 - len(kept), 100)]
    assert waiting.counts["store.lost"] == 100 - len(kept)


def test_points_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invented series do not fill memory while the file is locked."""
    monkeypatch.setattr(batch_module, "MAX_POINTS", 50)
    waiting = Batch()
    waiting.add(batch(statsd=b"\n".join(b"x%d:1|c" % number for number in range(80))))
    waiting.add(batch(statsd=b"x0:1|c"))

    assert len(waiting.points) == 50
    assert waiting.counts["store.lost"] == 30
    assert max(point.sum for point in waiting.points.values()) == 2
