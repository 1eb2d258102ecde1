"""How much the console takes in: StatsD lines, then log lines, at a fixed rate, none lost.

Run ``python tests/benchmarks/console_ingest.py [--seconds 60]``.  The console runs as its users run
it, in processes of its own; the sender is this process, at 50,000 StatsD lines a second in packets
of 20 and, apart, 3,000 log lines a second (every third a canonical line with ten events).
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import psutil

STATSD_PACKETS_PER_SECOND = 2_500
LINES_PER_PACKET = 20
LOG_LINES_PER_SECOND = 3_000
VIEWS = 50


CONSOLE = [sys.executable, "-m", "introspect.bootstrap.cli", "console"]
CONSOLE += ["--port", "0", "--statsd-port", "0", "--log-port", "0"]


def main() -> None:
    """Run the three loads and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    seconds = parser.parse_args().seconds
    print(
        f"{'':<22}{'sent':>12}{'stored':>12}{'kernel drops':>14}{'lost':>8}{'CPU':>7}{'memory':>9}"
    )
    for name, run in (
        ("StatsD, UDP", statsd_run),
        ("log lines, TCP", tcp_run),
        ("log lines, UDP", udp_run),
    ):
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name:<22}{run(Path(folder) / 'console.db', seconds)}", flush=True)


class Console:
    """The console as a subprocess, and what it cost."""

    def __init__(self, db: Path) -> None:
        self.db = db
        self.process = subprocess.Popen(
            [*CONSOLE, "--db", str(db)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.process.stdout.readline()
        ports = re.findall(r":(\d+)", self.process.stdout.readline())
        self.statsd_port, self.log_port = int(ports[0]), int(ports[1])
        self._family = [psutil.Process(self.process.pid)]
        self._family += self._family[0].children(recursive=True)
        self._cpu = self._cpu_seconds()
        self._began = time.monotonic()
        self.memory = 0

    def look(self) -> None:
        """Take a reading of memory."""
        self.memory = max(self.memory, sum(one.memory_info().rss for one in self._family))

    def stop(self) -> tuple[float, int]:
        """End it; return CPU as a share of one core, and the largest memory seen in bytes."""
        self.look()
        cpu = (self._cpu_seconds() - self._cpu) / (time.monotonic() - self._began)
        time.sleep(1.0)
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0
        self.process.stdout.close()
        return cpu, self.memory

    def _cpu_seconds(self) -> float:
        return sum(sum(one.cpu_times()[:2]) for one in self._family)


def pace(console: Console, per_second: int, seconds: int, send: Callable[[int], object]) -> int:
    """Call ``send(i)`` at an even rate; return how often it was called."""
    began = time.perf_counter()
    sent = 0
    while sent < per_second * seconds:
        due = min(per_second * seconds, int((time.perf_counter() - began) * per_second))
        while sent < due:
            send(sent)
            sent += 1
        if sent % per_second < per_second // 100:
            console.look()
        time.sleep(0.002)
    return sent


def report(console: Console, sent: int, count_stored: str, drops: str) -> str:
    """End the console; say what arrived, what did not, and what it cost."""
    cpu, memory = console.stop()
    with sqlite3.connect(console.db) as file:
        (stored,) = file.execute(count_stored).fetchone()
        (dropped,) = file.execute(
            "SELECT coalesce(sum(value), 0) FROM receiver_stats WHERE name = ?", (drops,)
        ).fetchone()
    file.close()
    dropped *= LINES_PER_PACKET if drops.startswith("statsd") else 1
    lost = sent - stored - dropped
    return (
        f"{sent:>12,}{int(stored):>12,}{int(dropped):>14,}{int(lost):>8,}"
        f"{cpu:>7.0%}{memory / 2**20:>6.0f} MB"
    )


def statsd_run(db: Path, seconds: int) -> str:
    """StatsD timers of fifty views, twenty to a packet."""
    console = Console(db)
    packets = [
        b"\n".join(
            b"front.view.site_views_v%d.GET:%d.%03d|ms" % (line % VIEWS, at * line % 900, line)
            for line in range(at, at + LINES_PER_PACKET)
        )
        for at in range(997)
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect(("127.0.0.1", console.statsd_port))
        sent = pace(
            console,
            STATSD_PACKETS_PER_SECOND,
            seconds,
            lambda number: udp.send(packets[number % len(packets)]),
        )
    stored = "SELECT coalesce(sum(count), 0) FROM points_1m"
    return report(console, sent * LINES_PER_PACKET, stored, "statsd.kernel_drops")


def log_line(number: int) -> bytes:
    """One line: two of three are log records, the third a canonical line."""
    now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
    line = {
        "timestamp": now,
        "level": "INFO",
        "service": "front",
        "env": "prod",
        "version": "1.4.2",
        "host": "web1",
        "pid": 100 + number % 8,
        "correlation_id": f"{number:08x}-6dd9-4d1c-8828-11be81ac0561",
    }
    if number % 3:
        line.update(
            logger=f"shop.part{number % 7}",
            message=f"added item {number} to the basket of customer {number % 1000}",
            thread="MainThread",
            file="shop/basket.py:42",
            function="add",
            extra={"items": number % 9},
        )
    else:
        line.update(
            logger="introspect.request",
            message=f"GET /shop/{number}/ 200",
            kind="request",
            method="GET",
            path=f"/shop/{number}/",
            route="shop/<int:pk>/",
            view=f"shop.views.v{number % VIEWS}",
            status=200,
            duration_ms=12.5 + number % 300,
            db_ms=4.0,
            db_queries=10,
            events=[
                {
                    "offset_ms": event * 1.1,
                    "kind": "db",
                    "name": "default.select",
                    "ms": 0.4,
                    "statement": f"SELECT a, b FROM shop_t{(event + number) % 40} WHERE id = %s",
                }
                for event in range(10)
            ],
        )
    return json.dumps(line).encode() + b"\n"


LINES_STORED = "SELECT (SELECT count(*) FROM work) + (SELECT count(*) FROM logs)"


def tcp_run(db: Path, seconds: int) -> str:
    """Log lines over one connection."""
    console = Console(db)
    with socket.create_connection(("127.0.0.1", console.log_port)) as tcp:
        sent = pace(
            console, LOG_LINES_PER_SECOND, seconds, lambda number: tcp.sendall(log_line(number))
        )
    return report(console, sent, LINES_STORED, "log.kernel_drops")


def udp_run(db: Path, seconds: int) -> str:
    """Log lines, one datagram each."""
    console = Console(db)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect(("127.0.0.1", console.log_port))
        sent = pace(
            console, LOG_LINES_PER_SECOND, seconds, lambda number: udp.send(log_line(number))
        )
    return report(console, sent, LINES_STORED, "log.kernel_drops")


if __name__ == "__main__":
    main()
