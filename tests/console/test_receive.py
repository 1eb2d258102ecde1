"""Sockets to file: the readers and the writer together."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from introspect.console import receive, say
from introspect.console.pipeline import WRITE_EVERY, Pipeline
from introspect.console.query import open_reader
from introspect.console.receive import BindError, bind_both, bind_udp
from introspect.console.say import Voice
from introspect.console.store import Store
from tests.console.rows import record, request
from tests.helpers.processes import wait_until


@dataclass
class Running:
    """A pipeline on free ports."""

    store: Store
    statsd: tuple[str, int]
    log: tuple[str, int]
    stop: Callable[[], None]

    def query(self, statement: str) -> list[tuple]:
        """Ask the file."""
        with contextlib.closing(open_reader(self.store.path)) as connection:
            return connection.execute(statement).fetchall()

    def wait(self, statement: str, expected: list[tuple], patience: float = 30) -> None:
        """Wait until the file answers as expected."""
        until = time.monotonic() + patience
        while (found := self.query(statement)) != expected:
            assert time.monotonic() < until, found
            time.sleep(0.05)

    def send(self, address: tuple[str, int], *packets: bytes) -> None:
        """Send datagrams."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for packet in packets:
                udp.sendto(packet, address)

    def connect(self) -> socket.socket:
        """Open a log connection."""
        return socket.create_connection(self.log)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """The console without its pages, on free ports."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(Store(tmp_path / "console.db")))
        statsd = stack.enter_context(bind_udp("127.0.0.1", 0, "--statsd-port"))
        udp, tcp = bind_both("127.0.0.1", 0, "--log-port")
        stack.enter_context(udp)
        stack.enter_context(tcp)
        pipeline = Pipeline(store, statsd, udp, tcp, Voice())
        pipeline.start()
        stack.callback(pipeline.stop)
        yield Running(store, statsd.getsockname(), udp.getsockname(), pipeline.stop)


def line(fields: dict[str, object]) -> bytes:
    """A line that was written just now."""
    fields.pop("timestamp", None)
    return json.dumps(fields).encode() + b"\n"


COUNTS = "SELECT (SELECT count(*) FROM work), (SELECT count(*) FROM logs)"


def test_everything_sent_is_in_the_file_within_a_second(running: Running) -> None:
    """StatsD by UDP and lines by UDP and TCP are in the file less than a second later."""
    with running.connect() as tcp:
        tcp.sendall(line(record()) + line(request()))
        running.send(running.log, line(record()) + line(request()), line(record()).rstrip())
        running.send(running.statsd, b"front.request:12|ms\nfront.request:13|ms")
        sent = time.monotonic()
        running.wait("SELECT count FROM points_10s", [(2.0,)])
        running.wait(COUNTS, [(2, 3)])

    assert time.monotonic() - sent < 5
    assert receive.HANDOVER + WRITE_EVERY < 1  # the rest is what the machine takes


def test_what_has_arrived_is_written_at_the_end(running: Running) -> None:
    """Stopping reads what the kernel still holds, and writes it."""
    with running.connect() as tcp:
        tcp.sendall(line(record()) * 1000)
    running.send(running.statsd, *[b"front.request:12|ms"] * 1000)
    running.stop()

    assert running.query(COUNTS) == [(0, 1000)]
    assert running.query("SELECT sum(count) FROM points_1m") == [(1000,)]


def test_line_may_come_in_pieces_and_without_its_end(running: Running) -> None:
    """A line is whole when its newline, or the connection's end, has come."""
    whole = line(record(message="é" * 2000))
    with running.connect() as tcp:
        for at in range(0, len(whole), 1001):
            tcp.sendall(whole[at : at + 1001])
            time.sleep(0.01)
        running.wait(COUNTS, [(0, 1)])
        tcp.sendall(line(record()).rstrip())
    running.wait(COUNTS, [(0, 2)])

    assert running.query("SELECT length(message) FROM logs ORDER BY 1 DESC") == [(2000,), (13,)]


def test_bad_lines_neither_break_nor_hold_up_a_connection(running: Running) -> None:
    """After rubbish, binary or an endless line the same connection is still read."""
    with running.connect() as tcp:
        tcp.sendall(b"rubbish\n\n\xff\xfe\0\n[]\n" + b"x" * 3_000_000 + b"\n" + line(record()))
        running.wait(COUNTS, [(0, 1)])

    assert running.query("SELECT reason, count FROM bad_lines ORDER BY reason") == [
        ("longer than 1 MB", 1),
        ("not JSON", 2),
        ("not a JSON object", 1),
    ]


def test_memory_of_an_endless_line_is_bounded(running: Running) -> None:
    """Of a line without an end only so much is kept as it takes to refuse it."""
    receiver = next(
        thread
        for thread in receive.threading.enumerate()
        if isinstance(thread, receive.LogReceiver)
    )
    with running.connect() as tcp:
        for _ in range(100):
            tcp.sendall(b"x" * 100_000)
        running.send(running.log, line(record()))
        running.wait(COUNTS, [(0, 1)])

        (kept,) = receiver._connections.values()
        assert len(kept) <= receive.LONGEST_LINE + 1


def test_connections_are_bounded(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """More connections than allowed are closed, the ones before them still read."""
    monkeypatch.setattr(receive, "MAX_CONNECTIONS", 3)
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(running.connect()) for _ in range(3)]
        surplus = stack.enter_context(running.connect())
        surplus.settimeout(5)
        assert surplus.recv(1) == b""
        for connection in first:
            connection.sendall(line(record()))
        running.wait(COUNTS, [(0, 3)])


def test_what_the_kernel_drops_is_counted(tmp_path: Path) -> None:
    """Datagrams that no longer fit into the socket's buffer show up as the kernel's drops."""
    with bind_udp("127.0.0.1", 0, "--statsd-port") as udp:
        drops = receive.Drops(udp)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(200):
                sender.sendto(b"x" * 1000, udp.getsockname())
        udp.setblocking(False)
        received = 0
        with contextlib.suppress(BlockingIOError):
            while udp.recv(2000):
                received += 1

        assert 0 < received < 200
        assert drops.new() == 200 - received
        assert drops.new() == 0


def test_locked_file_delays_but_loses_nothing(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """While another program holds the file, what comes in waits; one line says so."""
    with contextlib.closing(sqlite3.connect(running.store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(5):
            running.send(running.statsd, b"front.request:12|ms")
            running.send(running.log, line(record()))
            time.sleep(0.5)
        said = wait_until(lambda: capsys.readouterr().err).splitlines()
        other.execute("ROLLBACK")
    running.wait(COUNTS, [(0, 5)])
    running.wait("SELECT sum(count) FROM points_1m", [(5.0,)])

    said += capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "cannot be written now (database is locked); another program holds it" in said[0]


def test_full_disk_is_said_and_survived(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the file cannot grow one line says so; with room again everything is written."""
    running.store._connection.execute("PRAGMA max_page_count = 1")  # as few as there are now
    with running.connect() as tcp:
        tcp.sendall(line(record(message="filler " * 2000)) * 100)
        said = wait_until(lambda: capsys.readouterr().err).splitlines()
        assert running.query(COUNTS) == [(0, 0)]
        running.store._connection.execute("PRAGMA max_page_count = 1000000")
        running.wait(COUNTS, [(0, 100)])

    said += capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "database or disk is full" in said[0]
    assert "--max-size" in said[0]


def test_voice_repeats_itself_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same trouble is said once a minute, with how often it happened meanwhile."""
    now = [0.0]
    monkeypatch.setattr(say.time, "monotonic", lambda: now[0])
    voice = Voice()
    for second in range(62):
        now[0] = float(second)
        voice.say("store", "it is full")
    voice.say("other", "it is late")

    assert capsys.readouterr().err.splitlines() == [
        "introspect console: it is full",
        "introspect console: it is full (59 times more since this was last said)",
        "introspect console: it is late",
    ]


@pytest.mark.parametrize("bind", [bind_udp, bind_both])
def test_port_in_use_names_the_option(bind: Callable) -> None:
    """A port that is taken is said with the option that chooses another."""
    with contextlib.ExitStack() as stack:
        udp, tcp = bind_both("127.0.0.1", 0, "--log-port")
        stack.enter_context(udp)
        stack.enter_context(tcp)
        port = udp.getsockname()[1]
        with pytest.raises(BindError, match=f"port {port} .*Choose another port with --log-port"):
            bind("127.0.0.1", port, "--log-port")


def test_foreign_address_is_said() -> None:
    """An address that is not this machine's is named."""
    with pytest.raises(BindError, match=r"203\.0\.113\.1"):
        bind_udp("203.0.113.1", 0, "--statsd-port")


def test_lines_without_a_time_keep_their_order(running: Running) -> None:
    """Lines that do not say when they were written stand in the order they came."""
    with running.connect() as tcp:
        for at in range(0, 2000, 500):
            tcp.sendall(b"".join(line(record(message=f"{n}")) for n in range(at, at + 500)))
            time.sleep(0.3)
    running.wait(COUNTS, [(0, 2000)])

    found = running.query("SELECT message FROM logs ORDER BY id")
    assert found == [(f"{number}",) for number in range(2000)]


def test_flood_waits_with_the_sender_while_the_file_is_locked(
    running: Running,
) -> None:
    """When many lines wait for the file a fast sender is held back, and nothing is given up."""
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(
            contextlib.closing(sqlite3.connect(running.store.path, isolation_level=None))
        )
        other.execute("BEGIN IMMEDIATE")
        tcp = stack.enter_context(running.connect())
        tcp.settimeout(2)
        sent = b""
        whole = line(record(message="x" * 10_000))
        count = 0
        with contextlib.suppress(TimeoutError):
            while count < 20_000:
                sent = whole
                while sent:
                    sent = sent[tcp.send(sent) :]
                count += 1
        assert count < 20_000
        other.execute("ROLLBACK")
        tcp.settimeout(30)
        tcp.sendall(sent)
        running.wait(COUNTS, [(0, count + bool(sent))], patience=30)

    lost = running.query("SELECT count(*) FROM receiver_stats WHERE name = 'store.lost'")
    assert lost == [(0,)]
