"""The unit of work, a request, a command or a task, and what is measured while it is current.

Measurements are appended to the current unit and leave in one go when it ends. What happens
outside any unit goes to the process's own buffer, which is sent when it is full, when it is a
second old at the next event, and at exit.
"""

from __future__ import annotations

import _thread
import os
import time
from contextvars import ContextVar
from itertools import count as counting_from
from operator import itemgetter
from time import perf_counter as clock
from typing import TYPE_CHECKING, Any, NamedTuple

from introspect.agent import correlation, emitter, frames, guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from introspect.agent.correlation import Inbound, Traceparent
    from introspect.agent.metrics import Series

# A unit that measures more than this (a command in a loop) sends as it goes.
SAMPLES_HELD = 1000

SECONDS_BUFFERED = 1.0

# Of a unit that sends as it goes, so many of its latest calls are kept for its canonical line.
EVENTS_KEPT = 200

# Distinct statements that are counted to find duplicates.
STATEMENTS_KEPT = 1000

FOREVER = float("inf")


class Sample(NamedTuple):
    """One timed call: ``area`` names the per-unit total that it adds to, if any."""

    series: Series
    started: float
    seconds: float
    area: str | None
    detail: Any


class Query(NamedTuple):
    """The detail of an SQL statement's sample."""

    sql: str
    mysql: bool
    error: str | None


class Call(NamedTuple):
    """The detail of an outgoing call's sample."""

    span_id: str | None
    status: int | None
    error: str | None


def milliseconds(seconds: float) -> float:
    """Return milliseconds with three decimals."""
    return round(seconds * 1000, 3)


class Total:
    """What the calls of one area took together within a unit."""

    __slots__ = ("calls", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0


_NO_CALLS = Total()

_seconds = itemgetter(2)  # of a sample


class Work:
    """A unit of work. Ended at most once, by whichever thread gets there first."""

    __slots__ = (
        "_next_span_ids",
        "_span_id",
        "_trace_id",
        "correlation_id",
        "counts",
        "cpu_started",
        "events",
        "events_dropped",
        "exception",
        "failed",
        "finished",
        "flush_at",
        "inbound",
        "last_comment",
        "muted",
        "name",
        "pid",
        "samples",
        "slowest_query",
        "sql_comments",
        "started",
        "statements",
        "thread",
        "totals",
        "wall_started",
    )

    kind = "process"

    def __init__(self, inbound: Inbound | None = None, name: str = "") -> None:
        self.started = clock()
        self.name = name
        self.pid = os.getpid()
        self.finished = False
        self.muted = False  # measured, but not to be reported
        self.correlation_id = inbound.correlation_id if inbound else correlation.NONE
        self.inbound: Traceparent | None = inbound.traceparent if inbound else None
        self._span_id = self._trace_id = ""
        self._next_span_ids: Iterator[int] | None = None
        # Plain tuples in the order of Sample: a NamedTuple costs three times as much to make.
        self.samples: list[tuple[Series, float, float, str | None, Any]] = []
        # Not added up before they leave: to read a number and write it back is two steps, and what
        # another thread counts in between would be lost.
        self.counts: list[tuple[Series, int]] = []
        self.totals: dict[str, Total] = {}
        self.flush_at = FOREVER
        self.sql_comments: dict[str, Any] = {}  # by alias, in the form of django_sql_comment
        self.last_comment = ""
        # For the canonical line.
        self.failed = False
        self.exception: dict[str, str] | None = None
        self.events: list[tuple[Series, float, float, str | None, Any]] = []
        self.events_dropped = 0
        self.slowest_query: tuple[Series, float, float, str | None, Any] | None = None
        self.statements: dict[Any, int] = {}
        if _on_end is not None:
            self.wall_started = time.time()
            self.thread = _thread.get_ident()
            self.cpu_started = time.thread_time()

    @property
    def span_id(self) -> str:
        """The ID of this unit as one step of a trace; made when it is first asked for."""
        if not self._span_id:
            self._span_id = correlation.new_span_id()
        return self._span_id

    def next_span_id(self) -> str:
        """Return the ID of one more step of this unit: the first is random, others follow it."""
        # Random ones for all would be a system call each.
        if self._next_span_ids is None:
            self._next_span_ids = counting_from(int(correlation.new_span_id(), 16) >> 1 | 1)
        return f"{next(self._next_span_ids):016x}"

    @property
    def trace_id(self) -> str:
        """The ID of the trace that this unit begins: its correlation ID in 32 digits."""
        if not self._trace_id:
            self._trace_id = correlation.trace_id_of(self.correlation_id)
        return self._trace_id

    def traceparent(self, span_id: str) -> str:
        """Return the ``traceparent`` that hands on this unit's trace, with *span_id* as parent."""
        if self.inbound is not None:
            return str(self.inbound._replace(parent_id=span_id))
        # Sampled: somebody who traces further down should not be switched off by our not tracing.
        return f"00-{self.trace_id}-{span_id}-01"

    def count(self, series: Series, increment: int = 1) -> None:
        """Add *increment* to a counter."""
        self.counts.append((series, increment))

    def time(self, series: Series, seconds: float) -> None:
        """Add a timing that belongs to no area, such as the whole unit's."""
        self.samples.append((series, 0.0, seconds, None, None))

    def value(self, series: Series, number: float) -> None:
        """Add a reading that is not a time; timings are in seconds until they leave."""
        self.time(series, number / 1000)

    def total(self, area: str) -> Total:
        """Return the total of *area* so far as ``settle`` has added it up."""
        return self.totals.get(area, _NO_CALLS)

    def tally(self, area: str, number: int = 1) -> None:
        """Add *number* to the calls of *area*, for what is counted and not timed."""
        total = self.totals.get(area)
        if total is None:
            total = self.totals[area] = Total()
        total.calls += number

    def describe(self) -> dict[str, Any]:
        """Return what the canonical line says of this kind of unit alone."""
        return {"name": self.name}

    def comment_parts(self, parts: tuple[str, ...]) -> list[str]:
        """Return the texts for those *parts* of an SQL comment that this kind of unit knows."""
        return [self.correlation_id] if "id" in parts else []

    def comments_are_final(self, _parts: tuple[str, ...]) -> bool:
        """Tell whether a later statement's *parts* will say the same."""
        return True

    def settle(self) -> None:
        """Add the samples held to the totals, and keep the latest calls as events."""
        totals = self.totals
        for series, _started, seconds, area, _detail in self.samples:
            if area is not None:
                try:
                    total = totals[area]
                except KeyError:  # once for each area
                    total = totals[area] = Total()
                total.seconds += seconds
                if series.area == area:
                    total.calls += 1
        if _on_end is not None:
            self._keep_events()

    def _keep_events(self) -> None:
        calls = [sample for sample in self.samples if sample[1]]
        queries = [sample for sample in calls if type(sample[4]) is Query]
        if queries:
            slowest = max(queries, key=_seconds)
            if self.slowest_query is None or slowest[2] > self.slowest_query[2]:
                self.slowest_query = slowest
            statements = self.statements
            for query in queries:
                text = query[4][0]
                if text in statements:
                    statements[text] += 1
                elif len(statements) < STATEMENTS_KEPT:
                    statements[text] = 1
        self.events += calls
        surplus = len(self.events) - EVENTS_KEPT
        if surplus > 0:
            self.events_dropped += surplus
            del self.events[:surplus]

    def overflow(self) -> None:
        """Send what is held although the unit goes on, unless another thread is about it."""
        if not _overflowing.acquire(blocking=False):
            return
        try:
            self.settle()
            self._send()
            if self.flush_at != FOREVER:
                self.flush_at = clock() + SECONDS_BUFFERED
        finally:
            _overflowing.release()

    def finish(self) -> bool:
        """Mark the unit as ended; ``False`` if it was already, or if a fork has taken us along."""
        if self.finished or self.pid != os.getpid():
            self.finished = True
            return False
        self.finished = True
        return True

    def send(self, ending_since: float) -> None:
        """Hand what is held to the emitter, and note what the end of the unit took us.

        *ending_since* is when it began, in seconds of ``perf_counter``. The cost is known when the
        datagram has gone, so it is told by the next unit.
        """
        global _last_overhead_seconds
        if _last_overhead_seconds:
            self.time(emitter.OVERHEAD.series[()], _last_overhead_seconds)
        if ending_since >= _next_readings and _take_readings is not None:
            _readings_ride_along(self, ending_since)
        self._send()
        if _on_end is not None and not self.muted:
            _on_end(self, ending_since)
        _last_overhead_seconds = clock() - ending_since

    def _send(self) -> None:
        samples, counts = _taken(self.samples), _taken(self.counts)
        if not self.muted:
            emitter.send(samples, counts)


class Command(Work):
    """A unit of work that may go on for hours, so it sends what it has every second.

    A management command, or a task.
    """

    __slots__ = ()

    kind = "command"

    def __init__(self, inbound: Inbound, name: str) -> None:
        super().__init__(inbound, name)
        self.flush_at = self.started + SECONDS_BUFFERED

    def end(
        self, ended: float, timer: Series, failures: Series, error: BaseException | None
    ) -> None:
        """End at *ended*, and report it: timed as *timer*, and with *error* one of *failures*."""
        if not self.finish():
            return
        self.settle()
        self.time(timer, ended - self.started)
        if error is not None:
            self.failed = True
            self.exception = {"class": type(error).__qualname__}
            place = frames.place_of(error.__traceback__)
            if place is not None:
                self.exception["place"] = place
            self.count(failures)
        self.send(ended)


class ProcessBuffer(Work):
    """What is measured outside any unit of work, in any thread of this process."""

    __slots__ = ("exit_registered", "lock", "sent")

    def __init__(self) -> None:
        super().__init__()
        self.sent = clock()
        self.exit_registered = False
        self.lock = _thread.allocate_lock()

    def add(self, sample: tuple[Series, float, float, str | None, Any]) -> None:
        """Add one sample."""
        if self.pid != os.getpid():
            self.start_afresh()
        self.samples.append(sample)

    def count(self, series: Series, increment: int = 1) -> None:
        """See ``Work.count``."""
        if self.pid != os.getpid():
            self.start_afresh()
        super().count(series, increment)

    def recorded(self) -> None:
        """Send if it is time to; called after each event."""
        if not self.exit_registered:
            self.exit_registered = True
            import atexit

            # uWSGI's --skip-atexit leaves this out: the last second's events are lost then.
            atexit.register(self.flush)
            emitter.open_ahead()
        held = max(len(self.samples), len(self.counts))
        if held >= SAMPLES_HELD or clock() - self.sent >= SECONDS_BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Send what is held, unless this is a fork's copy of it, or a flush is under way."""
        # Never waits: the garbage collector may run an event inside a flush of the same thread.
        if self.pid != os.getpid() or not self.lock.acquire(blocking=False):
            return
        try:
            self.sent = clock()
            self._send()
        finally:
            self.lock.release()

    def start_afresh(self) -> None:
        """Forget, in a forked child, what the parent will send itself."""
        self.pid = os.getpid()
        self.samples.clear()
        self.counts.clear()
        self.sent = clock()
        self.lock = _thread.allocate_lock()


current: ContextVar[Work | None] = ContextVar("introspect_work", default=None)
"""The unit of work that this thread, greenlet or task is in. It stays set after the unit has
ended, so that an access log line still sees it, and is overwritten by the next, never reset."""

_current = current.get

SECONDS_BETWEEN_READINGS = 10.0

_last_overhead_seconds = 0.0
_next_readings = 0.0
_take_readings: Callable[[Work], None] | None = None
_on_end: Callable[[Work, float], None] | None = None

detail_wanted = False
"""Whether the detail of a sample is wanted. Not a function: every query asks."""

_process = ProcessBuffer()

# Held while some unit sends as it goes, which is rare: two threads of one unit must not both send
# what it holds. Never waited for.
_overflowing = _thread.allocate_lock()


def _leave_parent() -> None:
    """See to it that a forked child sends what it measures itself, and nothing of its parent's."""
    global _last_overhead_seconds, _overflowing
    _overflowing = _thread.allocate_lock()
    _last_overhead_seconds = 0.0
    _process.start_afresh()
    unit = current.get()
    if unit is not None:
        unit.finished = True  # it ends in the parent; here only its correlation ID lives on


# One hook for ever, since it cannot be taken back. uWSGI by default runs none: it forks outside any
# unit of work, and the process's buffer looks at the process ID as well.
os.register_at_fork(after_in_child=_leave_parent)


def configure(on_end: Callable[[Work, float], None] | None) -> None:
    """Call *on_end* with each unit and the moment of its end; keep the detail it wants.

    Without it nothing is kept that only a canonical line would tell.
    """
    global _on_end, detail_wanted
    _on_end = on_end
    detail_wanted = on_end is not None


def ride_along(take_readings: Callable[[Work], None] | None) -> None:
    """Let *take_readings* add to a unit that ends, at most every ten seconds."""
    global _take_readings
    _take_readings = take_readings


def _readings_ride_along(unit: Work, now: float) -> None:
    global _next_readings
    _next_readings = now + SECONDS_BETWEEN_READINGS
    try:
        if _take_readings is not None:
            _take_readings(unit)
    except Exception:
        guard.swallow(_readings_ride_along)


def process() -> ProcessBuffer:
    """Return the buffer for what happens outside any unit of work."""
    return _process


def correlation_id() -> str:
    """Return the ID of the unit that this thread, greenlet or task is in, or was in last."""
    work = current.get()
    if work is not None:
        return work.correlation_id
    return correlation.inherited_id() or correlation.NONE


def active() -> Work | None:
    """Return the current unit of work, unless it has ended."""
    work = current.get()
    return None if work is None or work.finished else work


def record(
    series: Series, started: float, ended: float, area: str | None, detail: Any = None
) -> None:
    """Add one timed call (seconds of ``perf_counter``) to the current unit.

    The per-unit total of *area* grows by its duration, and its count by one if *series* is of the
    metric with that name.
    """
    work = _current()
    if work is None or work.finished:
        _process.add((series, started, ended - started, area, None))
        _process.recorded()
        return
    samples = work.samples
    samples.append((series, started, ended - started, area, detail))
    if len(samples) >= SAMPLES_HELD or ended >= work.flush_at:
        work.overflow()


def count_error() -> None:
    """Count an exception that the guard has swallowed, whatever unit it happened in."""
    _process.count(emitter.ERRORS.of())
    _process.recorded()


def count(series: Series, increment: int = 1) -> None:
    """Add *increment* to a counter of the current unit."""
    work = _current()
    if work is None or work.finished:
        _process.count(series, increment)
        _process.recorded()
        return
    counts = work.counts
    counts.append((series, increment))
    if len(counts) >= SAMPLES_HELD:
        work.overflow()


def _taken(held: list[Any]) -> list[Any]:
    """Empty a list and return what it held."""
    # Two steps, each atomic: another thread may append in between.
    taken = held[:]
    del held[: len(taken)]
    return taken
