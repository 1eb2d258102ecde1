"""A million hostile packets and log lines against a running console.

Run ``python -m tests.benchmarks.console_fuzz [--packets 500000] [--lines 500000] [--seed N]``.  Good
lines are among them; at the end each must be stored exactly, and all others kept or counted as bad.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.console.hostile import Lines, Packets

PACKETS_PER_SECOND = 8_000


CONSOLE = [sys.executable, "-m", "introspect.bootstrap.cli", "console"]
CONSOLE += ["--port", "0", "--statsd-port", "0", "--log-port", "0"]


def main() -> None:
    """Attack a console with as much as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packets", type=int, default=500_000)
    parser.add_argument("--lines", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        attack(
            Path(folder) / "console.db", Packets(rng), Lines(rng), options.packets, options.lines
        )


def attack(db: Path, packets: Packets, lines: Lines, packet_count: int, line_count: int) -> None:
    """Send everything, then end the console and look at what it kept."""
    began = time.monotonic()
    console = subprocess.Popen(
        [*CONSOLE, "--db", str(db), "--max-size", "100GB"],
        stdout=subprocess.PIPE,
        text=True,
    )
    console.stdout.readline()
    statsd, log = re.findall(r":(\d+)", console.stdout.readline())[:2]
    process = psutil.Process(console.pid)
    memory = 0
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.create_connection(("127.0.0.1", int(log))) as tcp,
    ):
        udp.connect(("127.0.0.1", int(statsd)))
        start = time.perf_counter()
        for number in range(max(packet_count, line_count)):
            if number < packet_count:
                udp.send(packets.next()[:60_000])
            if number < line_count:
                tcp.sendall(lines.next())
            if number % 1000 == 0:
                memory = max(memory, process.memory_info().rss)
                ahead = number / PACKETS_PER_SECOND - (time.perf_counter() - start)
                time.sleep(max(0.0, ahead))
    time.sleep(2)
    console.send_signal(signal.SIGTERM)
    status = console.wait(60)
    console.stdout.close()
    report(db, packets, lines, status, memory, time.monotonic() - began)


def report(
    db: Path, packets: Packets, lines: Lines, status: int, memory: int, seconds: float
) -> None:
    """Compare what is in the file with what was sent."""
    file = sqlite3.connect(db)
    stats = dict(file.execute("SELECT name, sum(value) FROM receiver_stats GROUP BY name"))
    sums = dict(
        file.execute(
            "SELECT metric, sum(sum) FROM points_10m JOIN series ON series.id = series_id"
            " WHERE metric LIKE 'good%' AND tags = '{}' GROUP BY metric"
        )
    )
    stored = {
        text for (text,) in file.execute("SELECT message FROM logs WHERE message LIKE 'good %'")
    }
    paths = {path for (path,) in file.execute("SELECT path FROM work WHERE path LIKE '/good/%'")}
    (kept,) = file.execute(
        "SELECT (SELECT count(*) FROM logs) + (SELECT count(*) FROM work)"
    ).fetchone()
    (bad,) = file.execute("SELECT sum(count) FROM bad_lines WHERE source = 'log'").fetchone()
    print(f"status {status} after {seconds:,.0f} s; receiver at most {memory / 2**20:.0f} MB")
    print(
        f"StatsD packets received {stats['statsd.packets']:,.0f}, lines {stats['statsd.lines']:,.0f}"
    )
    print(
        f"  bad {stats['statsd.bad']:,.0f}, dropped by the kernel {stats.get('statsd.kernel_drops', 0):,.0f}"
    )
    print(f"  good counters exact: {sums == packets.expected}")
    print(
        f"log lines sent {lines.sent:,}, kept {kept:,}, bad {bad:,}, unaccounted {lines.sent - kept - bad:,}"
    )
    print(f"  good records exact: {stored == lines.messages} ({len(stored):,})")
    print(f"  good requests exact: {paths == lines.paths} ({len(paths):,})")
    print(
        f"  receiver's errors: {stats.get('receiver.errors', 0):.0f}, given up: {stats.get('store.given_up', 0):.0f}, lost: {stats.get('store.lost', 0):.0f}"
    )
    print(f"  file whole: {file.execute('PRAGMA integrity_check').fetchone()[0]}")
    for source, reason, count in file.execute(
        "SELECT source, reason, count FROM bad_lines ORDER BY count DESC LIMIT 25"
    ):
        print(f"  {count:>10,}  {source}: {reason}")
    file.close()


if __name__ == "__main__":
    main()
