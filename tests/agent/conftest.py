"""Every test of the core leaves it as it found it: no patch, no name, no sample, no socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from introspect.agent import correlation, emitter, guard, metrics, patching, settings, work
from introspect.agent.metrics import TIMER, Metric

Declare = Callable[..., Metric]


def _reset() -> None:
    patching.inject_faults(False)
    patching.undo_all()
    emitter.configure(None)
    guard.configure(debug=False)
    defaults, _ = settings.read({})
    metrics.configure(defaults)
    correlation.configure(defaults)
    work.configure(None)
    work.ride_along(None)
    work._last_overhead_seconds = 0.0
    work.leave()
    work.process().start_afresh()


@pytest.fixture(autouse=True)
def fresh_agent() -> Iterator[None]:
    """Put the core back to where an interpreter starts."""
    _reset()
    yield
    _reset()


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Declare metrics for one test, whatever the instrumentations have declared under these names."""
    monkeypatch.setattr(metrics, "_catalogue", {})

    def declare(name: str, kind: str = TIMER, *tags: str, **totals: Any) -> Metric:
        return Metric(name, kind, "ms", tags, "declared by a test", **totals)

    return declare
