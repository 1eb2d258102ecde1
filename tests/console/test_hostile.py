"""What hostile packets and lines do to the console: nothing, but to be counted."""

from __future__ import annotations

import contextlib
import math
import random
import socket
import sqlite3
from pathlib import Path

import pytest

from introspect.console.batch import Batch
from introspect.console.pipeline import Pipeline
from introspect.console.receive import bind_both, bind_udp
from introspect.console.say import Voice
from introspect.console.sketch import unpack
from introspect.console.statsd import Aggregate
from introspect.console.store import Store
from tests.console.hostile import Lines, Packets
from tests.console.rows import NOON

SEEDS = [2014, 2026]


def check_numbers(file: sqlite3.Connection) -> None:
    """No stored number is absurd, no stored name unprintable, and the file is whole."""
    for metric, tags in file.execute("SELECT metric, tags FROM series"):
        assert metric.isprintable()
        assert tags.isprintable()
    for count, total, low, high, kind, blob in file.execute(
        "SELECT count, sum, min, max, kind, sketch FROM points_10m"
        " JOIN series ON series.id = series_id"
    ):
        assert count > 0
        assert math.isfinite(total)
        assert low is None or -1e15 <= low <= high <= 1e15
        if kind == "timer":
            assert sum(unpack(blob).values()) == pytest.approx(count)
    for table in ("work_fts", "logs_fts"):
        file.execute(f"INSERT INTO {table} ({table}) VALUES ('integrity-check')")
    assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("seed", SEEDS)
def test_hostile_packets_change_nothing(store: Store, seed: int) -> None:
    """Among any rubbish each good counter has exactly its sum, and every line is accounted for."""
    packets = Packets(random.Random(seed))
    aggregate = Aggregate()
    for round_ in range(10):
        for _ in range(500):
            aggregate.feed(packets.next(), NOON + round_)
        batch = Batch()
        batch.add_taken(aggregate.take(NOON + round_))
        store.write(batch, NOON + round_)
    file = store._connection

    sums = dict(
        file.execute(
            "SELECT metric, sum(sum) FROM points_1m JOIN series ON series.id = series_id"
            " WHERE metric LIKE 'good%' AND tags = '{}' GROUP BY metric"
        )
    )
    assert sums == packets.expected
    check_numbers(file)
    (bad,) = file.execute("SELECT sum(count) FROM bad_lines").fetchone()
    assert bad > 1000


@pytest.mark.parametrize("seed", SEEDS)
def test_hostile_lines_change_nothing(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Among any rubbish each good line is stored as it was sent; every other is kept or counted."""
    lines = Lines(random.Random(seed))
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(Store(tmp_path / "console.db")))
        statsd = stack.enter_context(bind_udp("127.0.0.1", 0, "--statsd-port"))
        udp, tcp = bind_both("127.0.0.1", 0, "--log-port")
        stack.enter_context(udp)
        stack.enter_context(tcp)
        pipeline = Pipeline(store, statsd, udp, tcp, Voice())
        pipeline.start()
        with socket.create_connection(tcp.getsockname()) as connection:
            for _ in range(3000):
                connection.sendall(lines.next())
        pipeline.stop()
        file = store._connection

        stored = {
            text for (text,) in file.execute("SELECT message FROM logs WHERE message LIKE 'good %'")
        }
        assert stored == lines.messages
        paths = {
            path for (path,) in file.execute("SELECT path FROM work WHERE path LIKE '/good/%'")
        }
        assert paths == lines.paths
        counts = "SELECT (SELECT count(*) FROM logs) + (SELECT count(*) FROM work) + sum(count) FROM bad_lines"
        assert file.execute(counts).fetchone() == (lines.sent,)
        check_numbers(file)
        assert capsys.readouterr().err == ""
