"""Every test of the core leaves it as it found it: no patch, no name, no sample, no socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from introspect.agent import metrics
from introspect.agent.metrics import TIMER, Metric

Declare = Callable[..., Metric]


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Declare metrics for one test, whatever the instrumentations have declared under these names."""
    monkeypatch.setattr(metrics, "_catalogue", {})

    def declare(name: str, kind: str = TIMER, *tags: str, **totals: Any) -> Metric:
        return Metric(name, kind, "ms", tags, "declared by a test", **totals)

    return declare
