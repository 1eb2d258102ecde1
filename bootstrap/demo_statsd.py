"""The demonstration's StatsD server: it keeps what arrives, and takes names apart again."""

from __future__ import annotations

import math
import re
import socket
import threading
from typing import NamedTuple

from introspect import instrumentations
from introspect.agent import metrics

_LINE = re.compile(r"([^:|@#\s]+):(-?[0-9.]+)\|(c|g|ms)(?:\|@([0-9.]+))?")


class Measurement(NamedTuple):
    """One line as it arrived: milliseconds for timers, an increment for counters."""

    service: str
    metric: str
    tags: tuple[str, ...]
    value: float
    rate: float

    @property
    def weight(self) -> float:
        """How many measurements this one stands for."""
        return 1 / self.rate


class Series:
    """All measurements of one metric with the same tags."""

    def __init__(self, service: str, tags: tuple[str, ...]) -> None:
        self.service = service
        self.tags = tags
        self.values: list[tuple[float, float]] = []  # with their weights

    @property
    def count(self) -> float:
        """How many timings."""
        return math.fsum(weight for _, weight in self.values)

    @property
    def total(self) -> float:
        """The sum of all values."""
        return math.fsum(value * weight for value, weight in self.values)

    @property
    def mean(self) -> float:
        """The sum of all values by their number."""
        return self.total / self.count

    def quantile(self, share: float) -> float:
        """Return the smallest value that at least *share* of all values do not exceed."""
        wanted = share * self.count
        seen = 0.0
        for value, weight in sorted(self.values):
            seen += weight
            if seen >= wanted - 1e-9:
                return value
        return math.nan


class Listener:
    """Receives on a free UDP port of the loopback address, in a thread, until it is closed.

    What arrives is handed on to *forward* (host and port), if that is given.
    """

    def __init__(self, services: tuple[str, ...], forward: tuple[str, int] | None = None) -> None:
        self._names = _known_names()
        self._services = services
        self._forward = forward
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self.address = "udp://{}:{}".format(*self._socket.getsockname())
        self.datagrams = 0
        self._measurements: list[Measurement] = []
        self._keeping = True
        self._open = True
        self._thread = threading.Thread(target=self._receive, name="demo-statsd", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop receiving."""
        self._open = False
        # An empty datagram wakes the thread up, and is none of StatsD's.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def forget(self) -> None:
        """Keep nothing from now on: the table has been printed, and hours may follow."""
        self._keeping = False
        self._measurements.clear()

    def measurements(self) -> list[Measurement]:
        """Return what has arrived so far."""
        return self._measurements[:]

    def series(self, metric: str) -> list[Series]:
        """Return the series of one metric, those with the greatest totals first."""
        found: dict[tuple[str, tuple[str, ...]], Series] = {}
        for one in self.measurements():
            if one.metric == metric:
                key = (one.service, one.tags)
                series = found.get(key) or found.setdefault(key, Series(*key))
                series.values.append((one.value, one.weight))
        return sorted(found.values(), key=lambda series: -series.total)

    def _receive(self) -> None:
        while True:
            datagram = self._socket.recv(65535)
            if not self._open:
                return
            if self._forward is not None:
                self._socket.sendto(datagram, self._forward)
            if not self._keeping:
                continue
            self.datagrams += 1
            for line in datagram.decode("ascii", "replace").split("\n"):
                measurement = self._parse(line)
                if measurement is not None:
                    self._measurements.append(measurement)

    def _parse(self, line: str) -> Measurement | None:
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        name, value, _kind, rate = match.groups()
        service, _, rest = name.partition(".")
        if service not in self._services:
            return None
        metric, tags = self._take_apart(rest)
        return Measurement(service, metric, tags, float(value), float(rate or 1))

    def _take_apart(self, name: str) -> tuple[str, tuple[str, ...]]:
        """Return the metric that *name* is of, and its tag values.

        A metric has a fixed number of tags, each of them one dotted part.
        """
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            metric = ".".join(parts[:end])
            if self._names.get(metric) == len(parts) - end:
                return metric, tuple(parts[end:])
        return name, ()


def _known_names() -> dict[str, int]:
    """Every metric there is, and how many tags it has."""
    for name in instrumentations.names():
        instrumentations.load(name)
    return {metric.name: len(metric.tags) for metric in metrics.catalogue()}
