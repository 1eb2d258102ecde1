"""The unit of work, a request, a command or a task, and what is measured while it is current.

Measurements are appended to the current unit and leave in one go when it ends. What happens
outside any unit goes to the process's own buffer, which is sent when it is full, when it is a
second old at the next event, and at exit.

Here, and in ``wrappers``, what runs for each request, statement or template touches little code and
data: between the application's own it runs cold, and takes two to three times what it does in a
loop.
"""

from __future__ import annotations

import _thread
import os
import time
from contextvars import ContextVar
from itertools import count as counting_from
from operator import sub
from time import perf_counter as clock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from introspect.agent import correlation, emitter, ending, frames, guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from introspect.agent.correlation import Inbound, Traceparent
    from introspect.agent.metrics import Series

# A unit that measures more than this (a command in a loop) sends as it goes.
SAMPLES_HELD = 1000

# The items of one sample in a unit's list: series, start, end (seconds of `perf_counter`), detail.
# One flat list: a tuple for each would be one more object to make, and to be looked at by the
# garbage collector.
SAMPLE_ITEMS = 4
ITEMS_HELD = SAMPLES_HELD * SAMPLE_ITEMS

SECONDS_BUFFERED = 1.0

# Of a unit that sends as it goes, so many of its latest calls are kept for its canonical line.
EVENTS_KEPT = 200

# Distinct statements that are counted to find duplicates.
STATEMENTS_KEPT = 1000


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


class TimedQuery(NamedTuple):
    """An SQL statement with what it counts as and how long it took."""

    series: Series
    seconds: float
    query: Query


def milliseconds(seconds: float) -> float:
    """Return milliseconds with three decimals."""
    return round(seconds * 1000, 3)


class Extendable(Protocol):
    """A list, as far as those who measure need one."""

    def extend(self, items: Any, /) -> None:
        """Take the items of one sample, or of one count."""

    def __len__(self) -> int:
        """Return how many items are held."""


class Inlet:
    """Stands where a unit's list would, and hands on what it is given: it holds nothing itself."""

    __slots__ = ("extend",)

    def __init__(self, extend: Callable[[Any], None]) -> None:
        self.extend = extend

    def __len__(self) -> int:
        return 0


class Work:
    """A unit of work. Ended at most once, by whichever thread gets there first."""

    kind = "process"

    # What few units change stands on the class: a request would take longer to set it all.
    name = ""
    scope: Any = None
    finished = False
    muted = False
    """Measured, but not to be reported."""
    _span_id = _trace_id = ""
    _next_span_ids: Iterator[int] | None = None
    sql_comments: Mapping[str, Any] = MappingProxyType({})
    """By alias, in the form of django_sql_comment."""
    last_comment = ""
    # The latest samples added by a unit that goes on: area, start and seconds.
    _added: list[tuple[str, float, float]] = []  # noqa: RUF012  replaced, never changed
    # For the canonical line.
    wall_started = cpu_started = 0.0
    cpu_seconds: float | None = None
    """What its thread has worked for it, known at its end."""
    thread = 0
    failed = False
    exception: dict[str, str] | None = None
    events_dropped = 0
    slowest_query: TimedQuery | None = None

    def __init__(self, inbound: Inbound | None = None, name: str = "") -> None:
        self.started = clock()
        self.pid = os.getpid()
        self.correlation_id: str
        self.inbound: Traceparent | None
        self.correlation_id, self.inbound = inbound or _NOBODYS
        if name:
            self.name = name
        self._held: list[Any] = []
        self._ready: list[Any] = []
        self.samples: Extendable = self._held
        """Series, start, end and detail of one sample behind those of the other."""
        # Not added up before they leave: to read a number and write it back is two steps, and what
        # another thread counts in between would be lost.
        self.counts: Extendable = self._ready
        """Series and increment by turns; the timings that are ready to be sent join them."""
        self.sql_prefixes: dict[str, str] = {}
        """By alias, what goes in front of each statement, where that stays the same."""
        self.seconds: dict[str, float] = {}
        """By area, what its calls took together as far as ``settle`` has added it up."""
        self.calls: dict[str, int] = {}
        """By area, the number of its calls; also of what is counted and not timed."""
        if _on_end is not None:
            self._note_beginning()

    def _note_beginning(self) -> None:
        self.wall_started = time.time()
        self.thread = _thread.get_ident()
        self.cpu_started = time.thread_time()
        self.events: list[Any] = []
        """The latest samples, as in ``samples``."""
        self.statements: dict[str, int] = {}
        """How often each ran, by its text."""

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
        self.counts.extend((series, increment))

    def time(self, series: Series, seconds: float) -> None:
        """Add a timing that is no call, such as the whole unit's."""
        self.value(series, seconds * 1000)

    def value(self, series: Series, number: float) -> None:
        """Add a reading in the unit that its metric has: milliseconds, if it is a time."""
        self._ready.extend((series, number))

    def tally(self, area: str, number: int = 1) -> None:
        """Add *number* to the calls of *area*, for what is counted and not timed."""
        self.calls[area] = self.calls.get(area, 0) + number

    def describe(self) -> dict[str, Any]:
        """Return what the canonical line says of this kind of unit alone."""
        return {"name": self.name}

    def comment_parts(self, parts: tuple[str, ...]) -> list[str]:
        """Return the texts for those *parts* of an SQL comment that this kind of unit knows."""
        return [self.correlation_id] if "id" in parts else []

    def comments_are_final(self, _parts: tuple[str, ...]) -> bool:
        """Tell whether a later statement's *parts* will say the same."""
        return True

    def settle(self, *, goes_on: bool = False) -> None:
        """Make the samples held ready to be sent, and add them to the totals.

        What an enclosing call took (a template, a new connection) holds what is inside of it, which
        is then not added once more; of a unit that *goes_on* its sample may come with the next.
        """
        if not self._held:
            return
        held = _taken(self._held)
        timers, started, ended = held[::SAMPLE_ITEMS], held[1::SAMPLE_ITEMS], held[2::SAMPLE_ITEMS]
        took = list(map(sub, ended, started))
        self._add_up(timers, started, took, goes_on=goes_on)
        if _on_end is not None:
            self._keep_events(held, took)
        by_turns: list[Any] = timers + timers
        by_turns[::2] = timers
        by_turns[1::2] = [1000 * lasted for lasted in took]
        self._ready += by_turns

    def _add_up(
        self, timers: list[Series], started: list[float], took: list[float], *, goes_on: bool
    ) -> None:
        seconds, calls = self.seconds, self.calls
        inside_since: dict[str, float] = {}
        added: list[tuple[str, float, float]] = []
        # Backwards: a sample stands behind those of the calls inside of it. One by one: to go by
        # runs of one metric pays for a loop's statements alone, and where queries and templates
        # take turns, or are few, it takes several times as long.
        for series, began, lasted in zip(
            reversed(timers), reversed(started), reversed(took), strict=True
        ):
            area = series.area
            if area is None:
                continue
            if series.is_call:
                calls[area] = calls.get(area, 0) + 1
            if area not in inside_since or began < inside_since[area]:
                seconds[area] = seconds.get(area, 0.0) + lasted
                if series.encloses:
                    inside_since[area] = began
                if goes_on:
                    added.append((area, began, lasted))
        for area, since in inside_since.items() if self._added else ():
            self._take_out(area, since)
        if goes_on:
            self._added = [*self._added, *reversed(added)][-SAMPLES_HELD:]

    def _take_out(self, area: str, since: float) -> None:
        """Take what is inside of a call that began at *since* out of what has been added before."""
        kept = []
        for added in self._added:
            if added[0] == area and added[1] >= since:
                self.seconds[area] -= added[2]
            else:
                kept.append(added)
        self._added = kept

    def _keep_events(self, held: list[Any], took: list[float]) -> None:
        statements = self.statements
        slowest, longest = None, -1.0
        for series, lasted, query in zip(
            held[::SAMPLE_ITEMS], took, held[3::SAMPLE_ITEMS], strict=True
        ):
            if type(query) is not Query:
                continue
            text = query[0]
            if text in statements:
                statements[text] += 1
            elif len(statements) < STATEMENTS_KEPT:
                statements[text] = 1
            if lasted > longest:
                slowest, longest = (series, lasted, query), lasted
        # Another thread may have kept one in between.
        if slowest and (self.slowest_query is None or longest > self.slowest_query.seconds):
            self.slowest_query = TimedQuery(*slowest)
        self.events += held
        surplus = len(self.events) - EVENTS_KEPT * SAMPLE_ITEMS
        if surplus > 0:
            self.events_dropped += surplus // SAMPLE_ITEMS
            del self.events[:surplus]

    def overflow(self) -> None:
        """Send what is held although the unit goes on, unless another thread is about it."""
        if not _overflowing.acquire(blocking=False):
            return
        try:
            self.settle(goes_on=True)
            self._send()
        finally:
            _overflowing.release()

    def finish(self) -> bool:
        """Mark the unit as ended; ``False`` if it was already, or if a fork has taken us along.

        What is measured from now on goes to the process's buffer.
        """
        if self.finished:
            return False
        self.finished = True
        if _on_end is not None and not self.muted and self.thread == _thread.get_ident():
            # Now: what follows is our own work.
            self.cpu_seconds = time.thread_time() - self.cpu_started
        self.samples, self.counts = _process.samples, _process.counts
        self.sql_prefixes = _process.sql_prefixes
        return self.pid == os.getpid()

    def send(self, ending_since: float) -> None:
        """Hand what is ready to the emitter, and note what the end of the unit took us.

        *ending_since* is when it began, in seconds of ``perf_counter``. The cost is known when the
        datagram has gone, so it is told by the next unit.
        """
        global _last_overhead_seconds
        if _last_overhead_seconds:
            self._ready += (emitter.OVERHEAD.series[()], _last_overhead_seconds * 1000)
        if ending_since >= _next_readings and _take_readings is not None:
            _readings_ride_along(self, ending_since)
        self._send()
        if _on_end is not None and not self.muted:
            _on_end(self, ending_since)
        _last_overhead_seconds = clock() - ending_since

    def _send(self) -> None:
        self.settle()
        ready = _taken(self._ready)
        if not self.muted:
            emitter.send(ready)


class Flowing(Work):
    """A unit that sends as it goes: what it has when that is a second old, or too much to hold."""

    def __init__(self, inbound: Inbound | None = None, name: str = "") -> None:
        super().__init__(inbound, name)
        self.flush_at = self.started + SECONDS_BUFFERED
        self.samples = Inlet(self.add_sample)
        self.counts = Inlet(self.add_count)

    def add_sample(self, sample: tuple[Series, float, float, Any]) -> None:
        """Add one sample."""
        self._held.extend(sample)
        self._flow(sample[2])

    def add_count(self, count: tuple[Series, int]) -> None:
        """Add one count."""
        self._ready.extend(count)
        self._flow(clock())

    def _flow(self, now: float) -> None:
        if now >= self.flush_at or len(self._held) + len(self._ready) >= ITEMS_HELD:
            self.overflow()
            self.flush_at = now + SECONDS_BUFFERED


class Command(Flowing):
    """A unit of work that may go on for hours: a management command, or a task."""

    kind = "command"

    def end(
        self, ended: float, timer: Series, failures: Series, error: BaseException | None
    ) -> None:
        """End at *ended*, and report it: timed as *timer*, and with *error* one of *failures*."""
        if not self.finish():
            return
        self.time(timer, ended - self.started)
        if error is not None:
            self.failed = True
            self.exception = {"class": type(error).__qualname__}
            place = frames.place_of(error.__traceback__)
            if place is not None:
                self.exception["place"] = place
            self._ready.extend((failures, 1))
        self.send(ended)


class ProcessBuffer(Flowing):
    """What is measured outside any unit of work, in any thread of this process."""

    def __init__(self) -> None:
        super().__init__()
        self.correlation_id = correlation.inherited_id() or correlation.NONE
        self.exit_registered = False
        self.lock = _thread.allocate_lock()

    def add_sample(self, sample: tuple[Series, float, float, Any]) -> None:
        """See ``Flowing.add_sample``. Its detail is for a unit's line, and this has none."""
        self._look_at_process()
        super().add_sample((*sample[:3], None))

    def add_count(self, count: tuple[Series, int]) -> None:
        """See ``Flowing.add_count``."""
        self._look_at_process()
        super().add_count(count)

    def _look_at_process(self) -> None:
        if self.pid != os.getpid():
            self.start_afresh()
        if not self.exit_registered:
            self.exit_registered = True
            # uWSGI's --skip-atexit leaves this out: the last second's events are lost then.
            ending.before_end(ending.COUNTS, self.flush)
            emitter.open_ahead()

    def overflow(self) -> None:
        """See ``Work.overflow``."""
        self.flush()

    def flush(self) -> None:
        """Send what is held, unless this is a fork's copy of it, or a flush is under way."""
        # Never waits: the garbage collector may run an event inside a flush of the same thread.
        if self.pid != os.getpid() or not self.lock.acquire(blocking=False):
            return
        try:
            self.flush_at = clock() + SECONDS_BUFFERED
            self._send()
        finally:
            self.lock.release()

    def _keep_events(self, held: list[Any], took: list[float]) -> None:
        """Keep none: there is no line to tell them."""

    def start_afresh(self) -> None:
        """Forget, in a forked child, what the parent will send itself."""
        self.pid = os.getpid()
        self._held.clear()
        self._ready.clear()
        self.flush_at = clock() + SECONDS_BUFFERED
        self.lock = _thread.allocate_lock()


def _taken(held: list[Any]) -> list[Any]:
    """Empty a list and return what it held."""
    # Two steps, each atomic: another thread may append in between.
    taken = held[:]
    del held[: len(taken)]
    return taken


_NOBODYS = correlation.Inbound(correlation.NONE)

SECONDS_BETWEEN_READINGS = 10.0

_last_overhead_seconds = 0.0
_forked_within: str | None = None
_next_readings = 0.0
_take_readings: Callable[[Work], None] | None = None
_on_end: Callable[[Work, float], None] | None = None

detail_wanted = False
"""Whether the detail of a sample is wanted. Not a function: every query asks."""

_process = ProcessBuffer()

current: ContextVar[Work] = ContextVar("introspect_work", default=_process)
"""The unit of work that this thread, greenlet or task is in; the process's buffer outside any. It
stays set after the unit has ended, so that an access log line still sees it, and is overwritten by
the next, never reset."""

_current = current.get

# Held while some unit sends as it goes, which is rare: two threads of one unit must not both send
# what it holds. Never waited for.
_overflowing = _thread.allocate_lock()


def _leave_parent() -> None:
    """See to it that a forked child sends what it measures itself, and nothing of its parent's."""
    global _last_overhead_seconds, _overflowing, _forked_within
    _overflowing = _thread.allocate_lock()
    _last_overhead_seconds = 0.0
    _process.start_afresh()
    unit = active()
    if unit is not None:
        _forked_within = unit.correlation_id
        unit.finish()  # it ends in the parent; here only its correlation ID lives on
        unit.scope = None
    ending.register_with_multiprocessing()


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
    return _current().correlation_id


def active() -> Work | None:
    """Return the current unit of work, unless it has ended, or there is none."""
    work = _current()
    return None if work.finished or work is _process else work


def forked_within() -> str | None:
    """Return the ID of the unit within which this process, or a parent of it, was forked."""
    return _forked_within


def leave() -> None:
    """Let what this thread, greenlet or task does from now on belong to no unit of work."""
    current.set(_process)


def record(series: Series, started: float, ended: float, detail: Any = None) -> None:
    """Add one timed call (seconds of ``perf_counter``) to the current unit.

    The unit's total of the metric's area grows by its duration, and its count by one if the area
    has the metric's name.
    """
    unit = _current()
    samples = unit.samples
    samples.extend((series, started, ended, detail))
    if len(samples) > ITEMS_HELD:
        unit.overflow()


def overflow() -> None:
    """Let the current unit, which holds more than ``ITEMS_HELD``, send as it goes."""
    _current().overflow()


def count_error() -> None:
    """Count an exception that the guard has swallowed, whatever unit it happened in."""
    _process.counts.extend((emitter.ERRORS.of(), 1))


def count(series: Series, increment: int = 1) -> None:
    """Add *increment* to a counter of the current unit."""
    unit = _current()
    counts = unit.counts
    counts.extend((series, increment))
    if len(counts) > 2 * SAMPLES_HELD:
        unit.overflow()
