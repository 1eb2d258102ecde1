"""Samples become lines, lines become datagrams, datagrams go to StatsD.

Nothing here starts a thread (but see ``transport`` on host names), waits, or raises.
"""

from __future__ import annotations

from itertools import chain, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from introspect.agent import guard
from introspect.agent.metrics import COUNTER, TIMER, Metric
from introspect.agent.transport import Transport, transport_for

if TYPE_CHECKING:
    from introspect.agent.metrics import Series
    from introspect.agent.settings import Address

# Fits one Ethernet frame behind IP and UDP headers; all StatsD servers tried read it whole.
DATAGRAM_BYTES = 1432

# So many values of one name are sent as they are; of more, an even selection with its rate.
SAMPLES_PER_NAME = 100

# Series and numbers of so few lines are not looked through for what might be added up.
ITEMS_SENT_AS_THEY_ARE = 2 * 40

DROPPED = Metric(
    "introspect.dropped", COUNTER, "", (), "datagrams that could not be handed to the network"
)
LOG_DROPPED = Metric(
    "introspect.log_dropped", COUNTER, "", (), "JSON lines that no output could take"
)
ERRORS = Metric("introspect.errors", COUNTER, "", (), "exceptions swallowed in the agent's code")
OVERHEAD = Metric(
    "introspect.overhead", TIMER, "ms", (), "what the end of the unit before this one took us"
)

_transport: Transport = transport_for(None)


def configure(address: Address | None) -> None:
    """Send to *address* from now on; opens nothing before the first send."""
    global _transport
    _transport.close()
    _transport = transport_for(address)


def open_ahead() -> None:
    """Begin to open the way to StatsD, for a process that may end with its first send."""
    _transport.open_ahead()


def send(values: list[Any]) -> None:
    """Send *values*, in one datagram if they fit.

    They are series and number by turns: milliseconds of a timer (or what unit its metric has), the
    increment of a counter.
    """
    transport = _transport
    if not transport.wanted:
        return
    drops = transport.drops
    if drops:
        values += (_drops_series(), drops)
    rated: list[str] = []
    if len(values) > ITEMS_SENT_AS_THEY_ARE and len(set(values[::2])) < len(values) // 2:
        rated = _merge(values)
    # All in one go. A clock that steps back must not make a negative timer, which Etsy's statsd
    # refuses; perf_counter does not step back.
    text = "\n".join(map(_line, values[::2])) % tuple(values[1::2])
    if rated:
        text = "\n".join([*rated, text] if text else rated)  # what is dropped is told last
    data = text.encode("ascii")
    if len(data) <= DATAGRAM_BYTES:  # as nearly always
        handed_over = transport.send(data) if data else False
    else:
        for datagram in datagrams(data):
            handed_over = transport.send(datagram)
    if handed_over and (drops or transport.told):
        transport.tell(drops)


_line = attrgetter("line")


def _merge(values: list[Any]) -> list[str]:
    """Add up each counter in *values*, and take out of it what timers have more than is sent.

    Returns the lines of the latter: an even selection of their values, with its rate.
    """
    counts: dict[Series, int] = {}
    by_timer: dict[Series, list[float]] = {}
    for series, value in zip(values[::2], values[1::2], strict=True):
        if series.is_counter:
            counts[series] = counts.get(series, 0) + value
        else:
            by_timer.setdefault(series, []).append(value)
    lines: list[str] = []
    values.clear()
    for timer, numbers in by_timer.items():
        if len(numbers) <= SAMPLES_PER_NAME:
            values += chain.from_iterable(zip(repeat(timer), numbers))
        else:
            lines += _selected_lines(timer, numbers)
    values += chain.from_iterable(counts.items())
    return lines


def _selected_lines(series: Series, values: list[float]) -> list[str]:
    step = -(-len(values) // SAMPLES_PER_NAME)
    kept = values[step // 2 :: step]
    # A plain decimal: Etsy's statsd reads @1e-3 as 1. Nine digits keep counts of millions exact.
    rate = f"{len(kept) / len(values):.9f}"
    return [f"{series.head}{value:.3f}|ms|@{rate}{series.tail}" for value in kept]


def datagrams(data: bytes) -> list[bytes]:
    """Pack lines, newline between, into as few datagrams of ``DATAGRAM_BYTES`` as possible.

    Lines are never cut: a single longer one goes alone.
    """
    packed: list[bytes] = []
    start = 0
    while len(data) - start > DATAGRAM_BYTES:
        end = data.rfind(b"\n", start, start + DATAGRAM_BYTES + 1)
        if end < 0:
            end = data.find(b"\n", start)
        if end < 0:
            break
        packed.append(data[start:end])
        start = end + 1
    packed.append(data[start:])
    return packed


def _drops_series() -> Series:
    guard.say(
        "statsd",
        f"StatsD at {_transport} cannot be reached, datagrams are lost ({_transport.trouble}); the "
        "application is not affected (INTROSPECT_STATSD names the address, `off` sends none)",
    )
    return DROPPED.of()
