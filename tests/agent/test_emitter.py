"""From samples to datagrams: few, full, and complete."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.agent import emitter, guard
from introspect.agent.emitter import DATAGRAM_BYTES, SAMPLES_PER_NAME, datagrams
from introspect.agent.metrics import COUNTER, TIMER, Metric
from introspect.agent.settings import statsd_address
from tests.helpers.ports import LOOPBACK, free_port
from tests.helpers.statsd import StatsdListener

Declare = Callable[..., Metric]


@pytest.fixture
def sending(statsd: StatsdListener) -> StatsdListener:
    """The emitter sends to this listener."""
    emitter.configure(statsd_address(statsd.address))
    return statsd


def rows(metric: Metric, count: int) -> list[Any]:
    """Return `count` timings: of 1 ms, of 2 ms, and so on."""
    return [item for number in range(1, count + 1) for item in (metric.of(), float(number))]


class TestPacking:
    """Lines are packed into as few datagrams as possible, and never cut."""

    @given(st.lists(st.text("ab.:|", min_size=1, max_size=1600), max_size=60))
    def test_packing(self, lines: list[str]) -> None:
        """Every line arrives whole and in order, and a datagram is full before the next begins."""
        packed = datagrams("\n".join(lines).encode())

        assert b"\n".join(packed).decode().split("\n") == (lines or [""])
        assert all(len(one) <= DATAGRAM_BYTES or b"\n" not in one for one in packed)
        for one, following in itertools.pairwise(packed):
            assert len(one) + 1 + len(following.split(b"\n")[0]) > DATAGRAM_BYTES

    def test_exactly_full(self) -> None:
        """1432 bytes are one datagram, 1433 are two."""
        assert len(datagrams(b"x" * 715 + b"\n" + b"x" * 716)) == 1
        assert len(datagrams(b"x" * 716 + b"\n" + b"x" * 716)) == 2

    def test_nothing(self, sending: StatsdListener) -> None:
        """Nothing to say is no datagram."""
        emitter.send([])
        sending.settle(0.1)

        assert sending.datagrams == []


def lines_of(values: list[Any]) -> list[str]:
    """Return the lines that are sent of `values`."""
    rated = emitter._merge(values)
    return [
        *rated,
        *(series.line % value for series, value in zip(*[iter(values)] * 2, strict=True)),
    ]


class TestSamples:
    """What is sent of many values of one name."""

    def test_times_are_milliseconds(self, sending: StatsdListener, declare: Declare) -> None:
        """Milliseconds leave with three decimals."""
        emitter.send([declare("thing").of(), 12.3456])
        sending.wait_for_count("django.thing", 1)

        assert [line.raw for line in sending.lines] == ["django.thing:12.346|ms"]

    def test_counts(self, sending: StatsdListener, declare: Declare) -> None:
        """Counts leave as they are, and where there are many as sums."""
        thing, other = declare("thing", COUNTER).of(), declare("other", COUNTER).of()
        emitter.send([thing, 11, other, 2, thing, 1])
        sending.wait_for_count("django.thing", 12)
        emitter.send([thing, 1, other, 3] * 500)
        sending.wait_for_count("django.other", 1502)

        assert [line.raw for line in sending.lines[3:]] == [
            "django.thing:500|c",
            "django.other:1500|c",
        ]

    def test_one_datagram(self, sending: StatsdListener, declare: Declare) -> None:
        """What fits is one datagram."""
        emitter.send([*rows(declare("thing"), 40), declare("other", COUNTER).of(), 1])
        sending.wait_for_count("django.other", 1)

        assert len(sending.datagrams) == 1

    @pytest.mark.parametrize(
        "count", [1, 100, 101, 150, 199, 200, 201, 999, 1000, 1001, 12_345, 1_000_000]
    )
    def test_counts_are_rebuilt_exactly(self, declare: Declare, count: int) -> None:
        """However many values there were, those sent and their rate give that number again."""
        lines = lines_of([declare("thing").of(), 1.0] * count)
        rates = {float(line.partition("|@")[2] or 1) for line in lines}

        assert len(lines) <= SAMPLES_PER_NAME or count <= SAMPLES_PER_NAME
        assert len(rates) == 1
        assert round(len(lines) / rates.pop()) == count
        assert "e" not in "".join(lines).replace("django.thing", "")

    def test_selection_is_even(self, declare: Declare) -> None:
        """The values that are sent are spread over all there were."""
        lines = lines_of(rows(declare("thing"), 1000))
        kept = [float(line.partition(":")[2].partition("|")[0]) for line in lines]

        assert abs(sum(kept) / len(kept) - 500.5) < 5
        assert {int((value - 1) // 100) for value in kept} == set(range(10))

    def test_rare_names_keep_every_value(self, sending: StatsdListener, declare: Declare) -> None:
        """Beside a name with many values, one with few is sent as it is."""
        emitter.send([*rows(declare("many"), 900), *rows(declare("few"), 3)])
        sending.settle()

        assert sending.count("django.many") == 900
        assert sending.values("django.few") == [1, 2, 3]
        assert all(len(one) <= DATAGRAM_BYTES for one in sending.datagrams)


class TestLosses:
    """A dead StatsD is counted, and said once an hour."""

    def test_nobody_listens(self, declare: Declare, capsys: pytest.CaptureFixture[str]) -> None:
        """Fifty sends to a closed port are one line on standard error."""
        emitter.configure(statsd_address(f"udp://{LOOPBACK}:{free_port()}"))
        for _ in range(50):
            emitter.send(rows(declare_once(declare), 1))
        said = capsys.readouterr().err

        assert said.count("\n") == 1
        assert "StatsD at udp://" in said
        assert "the application is not affected" in said

    def test_an_hour_later(
        self,
        declare: Declare,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Another line comes when the hour is over."""
        emitter.configure(statsd_address("unix:///no/such/socket"))
        emitter.send(rows(declare_once(declare), 1))
        emitter.send(rows(declare_once(declare), 1))
        monkeypatch.setattr(guard, "SECONDS_BETWEEN_REPEATS", 0.0)
        emitter.send(rows(declare_once(declare), 1))

        assert capsys.readouterr().err.count("\n") == 2

    def test_drops_are_reported_when_it_is_back(self, declare: Declare) -> None:
        """A StatsD that was away learns how many datagrams it has missed, exactly."""
        metric = declare("thing")
        port = free_port()
        emitter.configure(statsd_address(f"udp://{LOOPBACK}:{port}"))
        for _ in range(30):
            emitter.send(rows(metric, 1))
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
            server.bind((LOOPBACK, port))
            server.settimeout(5)
            lines = []
            for _ in range(3):
                emitter.send(rows(metric, 1))
                lines += server.recv(2000).decode().splitlines()

        drops = [int(line.split(":")[1].split("|")[0]) for line in lines if "dropped" in line]
        assert sum(drops) == 30
        assert lines.count("django.thing:1.000|ms") == 3

    def test_drops_are_told_last(self, statsd: StatsdListener, declare: Declare) -> None:
        """Of several datagrams the last one tells of drops: if it is lost, they have not been told."""
        emitter.configure(statsd_address(statsd.address))
        emitter._transport.drops = 7
        emitter.send(rows(declare("thing"), 500))
        statsd.wait_for_count("django.introspect.dropped", 7)

        assert len(statsd.datagrams) > 1
        assert b"introspect.dropped:7|c" in statsd.datagrams[-1]

    def test_off(self, declare: Declare, capsys: pytest.CaptureFixture[str]) -> None:
        """Switched off, nothing is formatted, counted or said."""
        emitter.configure(statsd_address("off"))
        emitter.send(["no series"])

        assert capsys.readouterr().err == ""


def declare_once(declare: Declare) -> Metric:
    """Return the metric `thing`."""
    from introspect.agent import metrics

    return metrics._catalogue.get("thing") or declare("thing", TIMER)
