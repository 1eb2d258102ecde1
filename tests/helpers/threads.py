"""Threads that get into each other's way as much as they can."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

# Python changes threads every 5 ms otherwise, and most races stay unseen.
_SWITCH_SECONDS = 1e-6


def run_at_once(call: Callable[[], Result], number: int) -> list[Result]:
    """Run `call` in `number` threads that start together, each with the caller's context variables; what they return.

    An exception in one is raised here.
    """
    start = threading.Barrier(number)

    def started() -> Result:
        start.wait()
        return call()

    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        with ThreadPoolExecutor(number) as pool:
            futures = [pool.submit(contextvars.copy_context().run, started) for _ in range(number)]
            return [future.result() for future in futures]
    finally:
        sys.setswitchinterval(switch_interval)
