"""Samples become lines, lines become datagrams, datagrams go to StatsD.

Nothing here starts a thread (but see ``transport`` on host names), waits, or raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from introspect.agent import guard
from introspect.agent.metrics import COUNTER, TIMER, Metric
from introspect.agent.transport import Transport, transport_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from introspect.agent.metrics import Series
    from introspect.agent.settings import Address

    SampleRow = tuple[Series, float, float, str | None, object]

# Fits one Ethernet frame behind IP and UDP headers; all StatsD servers tried read it whole.
DATAGRAM_BYTES = 1432

# So many values of one name are sent as they are; of more, an even selection with its rate.
SAMPLES_PER_NAME = 100

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


def send(samples: Sequence[SampleRow], counts: Sequence[tuple[Series, int]]) -> None:
    """Send timings (seconds) and counts, in one datagram if they fit."""
    transport = _transport
    if not transport.wanted:
        return
    lines = _count_lines(counts)
    drops = transport.drops
    if drops:
        lines.append(_drops_line(drops))
    if len(samples) <= SAMPLES_PER_NAME:
        # Milliseconds with three decimals, all in one go. A clock that steps back must not make a
        # negative timer, which Etsy's statsd refuses; perf_counter does not step back.
        lines += [sample[0].timing for sample in samples]
        text = "\n".join(lines) % tuple([sample[2] * 1000 for sample in samples])
    else:
        text = "\n".join(lines + _selected_lines(samples))
    handed_over = False
    for datagram in datagrams(text):
        handed_over = transport.send(datagram)
    if handed_over:
        transport.tell(drops)


def _count_lines(counts: Sequence[tuple[Series, int]]) -> list[str]:
    if len(counts) > 1:
        sums: dict[Series, int] = {}
        for series, increment in counts:
            sums[series] = sums.get(series, 0) + increment
        counts = list(sums.items())
    return [f"{series.head}{value}{series.type}{series.tail}" for series, value in counts]


def _selected_lines(samples: Sequence[SampleRow]) -> list[str]:
    by_series: dict[Series, list[float]] = {}
    for series, _started, seconds, _area, _detail in samples:
        by_series.setdefault(series, []).append(seconds)
    lines: list[str] = []
    for series, values in by_series.items():
        lines += _lines_of_one_name(series, values)
    return lines


def _lines_of_one_name(series: Series, values: list[float]) -> list[str]:
    if len(values) <= SAMPLES_PER_NAME:
        return [series.timing % (seconds * 1000) for seconds in values]
    step = -(-len(values) // SAMPLES_PER_NAME)
    kept = values[step // 2 :: step]
    # A plain decimal: Etsy's statsd reads @1e-3 as 1. Nine digits keep counts of millions exact.
    rate = f"{len(kept) / len(values):.9f}"
    return [f"{series.head}{seconds * 1000:.3f}|ms|@{rate}{series.tail}" for seconds in kept]


def datagrams(lines: str) -> list[bytes]:
    """Pack lines, newline between, into as few datagrams of ``DATAGRAM_BYTES`` as possible.

    Lines are never cut: a single longer one goes alone.
    """
    data = lines.encode("ascii")
    if len(data) <= DATAGRAM_BYTES:
        return [data] if data else []
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


def _drops_line(drops: int) -> str:
    guard.say(
        "statsd",
        f"StatsD at {_transport} cannot be reached, datagrams are lost ({_transport.trouble}); the "
        "application is not affected (INTROSPECT_STATSD names the address, `off` sends none)",
    )
    series = DROPPED.of()
    return f"{series.head}{drops}{series.type}{series.tail}"
