"""The receiver that judges all others' lines is strict itself."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from tests.helpers.services import EtsyStatsd
from tests.helpers.statsd import Line, MalformedLineError, StatsdListener, parse_line

WELL_FORMED = {
    "shop.request:12.345|ms": Line("shop.request", 12.345, "ms"),
    "shop.response.200:1|c": Line("shop.response.200", 1, "c"),
    "shop.hits:3|c|@0.25": Line("shop.hits", 3, "c", 0.25),
    "shop.free:-2|g": Line("shop.free", -2, "g"),
    "shop.view:1|ms|@0.5|#view:books.views.index,env:prod": Line(
        "shop.view", 1, "ms", 0.5, {"view": "books.views.index", "env": "prod"}
    ),
}

# Each is refused, misread or dropped by some StatsD server in use.
MALFORMED = [
    "",
    "shop.request",
    "shop.request:1",
    ":1|c",
    "constructor:1|ms",
    "shop..request:1|c",
    "shop.request.:1|c",
    ".shop.request:1|c",
    "shop.a b:1|c",
    "shop.a/b:1|c",
    "shop.caf\u00e9:1|c",
    "shop.a:b:1|c",
    "shop.a:1|c\r",
    "shop.a:1|h",
    "shop.a:1|s",
    "shop.a:-5|ms",
    "shop.a:nan|ms",
    "shop.a:4e-05|ms",
    "shop.a:+3|g",
    "shop.a: 5|ms",
    "shop.a:1|c|@0",
    "shop.a:1|c|@2",
    "shop.a:1|c|@1e-3",
    "shop.a:1|c|#flag",
    "shop.a:1|c|#view:",
    "shop.a:1|c|#env:a,env:b",
    "shop.a:1|c|#env:a|@0.5",
    "shop.a:1|c:2|c",
    f"shop.{'n' * 81}:1|c",
    f"{'.'.join(['part'] * 50)}:1|c",
]


@pytest.mark.parametrize("raw", WELL_FORMED)
def test_well_formed_lines_are_read(raw: str) -> None:
    """A line that every server reads alike is read: name, value, kind, rate and tags."""
    expected = WELL_FORMED[raw]

    line = parse_line(raw)

    assert (line.name, line.value, line.kind) == (expected.name, expected.value, expected.kind)
    assert (line.rate, line.tags, line.raw) == (expected.rate, expected.tags, raw)


@pytest.mark.parametrize("raw", MALFORMED)
def test_malformed_lines_are_refused(raw: str) -> None:
    """A line that some server would not take as it is meant is refused."""
    with pytest.raises(MalformedLineError):
        parse_line(raw)


def test_counts_honour_sample_rates(statsd: StatsdListener) -> None:
    """A counter counts its values and a timer its samples, both divided by their rates."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"a.hits:3|c|@0.5\na.hits:1|c\na.time:7|ms|@0.25", (statsd.host, statsd.port))
    statsd.wait_for(lambda listener: len(listener.lines) == 3)

    assert statsd.count("a.hits") == 7
    assert statsd.count("a.time") == 4
    assert statsd.values("a.hits") == [3, 1]


def test_malformed_datagram_fails_the_test_that_received_it() -> None:
    """Closing a listener that received a malformed line is an error that quotes the line."""
    listener = StatsdListener()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"a.good:1|c\nundotted:1|c", (listener.host, listener.port))
    listener.wait_for(lambda received: received.malformed)

    with pytest.raises(AssertionError, match="undotted"):
        listener.close()


def test_lines_of_connections_are_read_however_they_are_cut(tmp_path: Path) -> None:
    """Of what comes by connections, each line counts once it is whole, and one that stays cut off fails the test."""
    listener = StatsdListener("unix-stream", tmp_path / "statsd.sock")
    with contextlib.ExitStack() as stack:
        one, other = (
            stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) for _ in range(2)
        )
        for connection in (one, other):
            connection.connect(str(tmp_path / "statsd.sock"))
        for connection, piece in (
            (one, b"a.hits:1|c\na.h"),
            (other, b"b.hits:2|c\nb."),
            (one, b"its:4|c\n"),
        ):
            connection.sendall(piece)
            listener.catch_up()
        assert [line.raw for line in listener.lines] == ["a.hits:1|c", "b.hits:2|c", "a.hits:4|c"]

    with pytest.raises(AssertionError, match=r"cut off .* b'b\.'"):
        listener.close()


def test_etsy_statsd_tells_what_it_received(etsy_statsd: EtsyStatsd) -> None:
    """What Etsy's statsd refused, counted and timed can be asked for."""
    refused = etsy_statsd.bad_lines()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(
            b"told.hits:3|c\ntold.time:2.5|ms\nrubbish", (etsy_statsd.host, etsy_statsd.port)
        )
    etsy_statsd.catch_up()

    assert etsy_statsd.bad_lines() == refused + 1
    assert etsy_statsd.counters()["told.hits"] == etsy_statsd.count("told.") == 3
    assert "told.time" in etsy_statsd.timers()
