"""Threads that ship log lines end with the test that has them started."""

from __future__ import annotations

from introspect.agent import ending, outputs


def end_shippers() -> list[outputs.Shipper]:
    """Let every shipper of this process end, which else would speak in the tests to come; wait for none, and return them."""
    ended = []
    for step in list(ending._steps):
        shipper = getattr(step, "__self__", None)
        if not isinstance(shipper, outputs.Shipper) or shipper._queue is None:
            continue
        shipper._queue.running = False
        shipper._queue.wake.set()
        shipper._queue = None  # nobody wants to know, at the end of all tests, what is lost
        ended.append(shipper)
    return ended
