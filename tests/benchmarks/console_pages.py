"""How fast the console's pages answer over a day of a site with 50 requests a second.

Run ``python tests/benchmarks/console_pages.py [--db FILE] [--hours 24]``.  A file that does not exist
is first filled with 4.3 million requests, each with its inner events, one log line, and all metrics:
an hour of them through the console's own store, then that hour again and again with other IDs and
durations.  That takes some minutes and five gigabytes, so keep the file to run again within the hour
(the day ends when it was made).  Then each address is asked for over HTTP, as
a browser does, five times after one that warms up: the median, the slowest, and the server's CPU per
answer, which is what counts on a machine that is busy with other things.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import psutil

from introspect.console import sketch
from introspect.console.batch import Batch
from introspect.console.lines import Event, Log, Work
from introspect.console.schema import WORK_NUMBERS
from introspect.console.statsd import Point, Series
from introspect.console.store import Store

PER_SECOND = 50
VIEWS = [f"shop.views.view_{number:02}" for number in range(60)]
TEMPLATES = [f"shop/page_{number:02}.html" for number in range(60)]
STATEMENTS = [
    f'SELECT "shop_t{number}"."id", "shop_t{number}"."name" FROM "shop_t{number}" WHERE "id" = %s'
    for number in range(120)
]
HOSTS = ["127_0_0_1", "billing", "search", "mail", "maps"]
WORDS = [
    "order",
    "basket",
    "customer",
    "payment",
    "stock",
    "email",
    "invoice",
    "refund",
    "parcel",
    "address",
    "coupon",
    "session",
]
RARE = "zanzibar"
ALIKE = dict.fromkeys(
    ("parent_id", "span_id", "name", "exception_message", "slowest_query", "extra", "user_id")
)


def main() -> None:
    """Fill the file if there is none, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", type=Path, default=Path("console-day.db"))
    parser.add_argument("--hours", type=float, default=24)
    options = parser.parse_args()
    if not options.db.exists():
        began = time.perf_counter()
        fill(options.db, options.hours)
        print(f"filled in {time.perf_counter() - began:,.0f} s")
    measure(options.db)


def fill(db: Path, hours: float) -> None:
    """Write the day's first hour as the console would have, and repeat it."""
    random.seed(14)
    store = Store(db, retention=30 * 86400, max_bytes=1 << 40)
    # Nobody minds if the power fails while a benchmark's data are made.
    store._connection.execute("PRAGMA synchronous = OFF")
    store._connection.execute("PRAGMA cache_size = -400000")
    end = int(time.time()) // 600 * 600
    first = end - int(hours * 3600)
    shares = [1 / (rank + 2) for rank in range(len(VIEWS))]
    for minute in range(first, min(end, first + 3600), 60):
        batch = Batch()
        for start in range(minute, minute + 60, 10):
            batch.add(ten_seconds(start, shares))
        store.write(batch, minute + 60)
    for hour in range(1, int(hours)):
        repeat(store._connection, first, hour)
        print(f"{hour + 1} hours", flush=True)
    store.close()


def repeat(file: sqlite3.Connection, first: int, hour: int) -> None:
    """Write the first hour's rows once more, so many hours later."""
    shift = hour * 3600
    ids = (first * 1_000_000, (first + 3600) * 1_000_000 - 1)
    later = tuple(identity + shift * 1_000_000 for identity in ids)
    jitter = "1 + abs(random() % 1000) / 5000.0"
    correlation = f"printf('%08x', {hour}) || substr(correlation_id, 9)"
    changes = {
        "work": {"correlation_id": correlation, "duration_ms": f"duration_ms * ({jitter})"},
        "work_events": {},
        "logs": {"correlation_id": correlation},
        "points_10s": {},
        "points_1m": {},
        "points_10m": {},
        "operations_1m": {},
        "operations_10m": {},
        "log_counts": {},
    }
    file.execute("BEGIN")
    for table, changed in changes.items():
        columns = [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
        key = columns[0]
        unit = 1 if key == "start" else 1_000_000
        values = [changed.get(column, column) for column in columns[1:]]
        file.execute(
            # The hour's last lines were counted in the minute after it, which then is there already.
            f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) SELECT {key} + {shift * unit},"
            f" {', '.join(values)} FROM {table} WHERE {key} BETWEEN ? AND ?",
            (first, first + 3599) if unit == 1 else ids,
        )
    largest = ", ".join(f"max({name})" for name in WORK_NUMBERS)
    file.execute(
        f"INSERT INTO work_zones SELECT id / 10000000 * 10, count(*), {largest} FROM work"
        " WHERE id BETWEEN ? AND ? GROUP BY 1",
        later,
    )
    for table in ("work", "logs"):
        columns = [row[1] for row in file.execute(f"PRAGMA table_info({table}_fts)")]
        file.execute(
            f"INSERT INTO {table}_fts (rowid, {', '.join(columns)})"
            f" SELECT id, {', '.join(columns)} FROM {table} WHERE id BETWEEN ? AND ?",
            later,
        )
    file.execute("COMMIT")


def ten_seconds(start: int, shares: list[float]) -> Batch:
    """Five hundred requests and what StatsD says about them."""
    batch = Batch()
    for number in range(10 * PER_SECOND):
        moment = start * 1_000_000 + number * 10_000_000 // (10 * PER_SECOND)
        request(batch, moment, random.choices(range(len(VIEWS)), shares)[0])
    metrics(batch, start)
    return batch


def request(batch: Batch, moment: int, view: int) -> None:
    """One request with its events and one log line."""
    duration = random.lognormvariate(3 + view / 30, 0.7)
    is_failed = random.random() < 0.004
    correlation = f"{random.getrandbits(128):032x}"
    correlation = "-".join(
        correlation[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
    )
    common = {
        "service": "front" if view % 4 else "billing",
        "env": "prod",
        "version": "1.4.2",
        "host": f"web{moment // 20000 % 4}",
        "pid": 1000 + moment // 20000 % 16,
        "correlation_id": correlation,
    }
    values = {
        **ALIKE,
        **common,
        **dict.fromkeys(WORK_NUMBERS),
        "id": moment,
        "kind": "request",
        "method": "POST" if view % 5 == 0 else "GET",
        "path": f"/shop/{view}/{moment % 100_000}/",
        "route": f"shop/{view}/<int:pk>/",
        "view": VIEWS[view],
        "status": 500 if is_failed else 200 if random.random() < 0.95 else 404,
        "duration_ms": duration,
        "queue_ms": random.random() * 3,
        "cpu_ms": duration * 0.3,
        "db_ms": duration * 0.4,
        "db_queries": 5 + view % 7,
        "template_ms": duration * 0.2,
        "response_bytes": random.randrange(500, 90_000),
        "user_id": str(moment % 5000) if moment % 3 == 0 else None,
        "exception_class": "ValueError" if is_failed else None,
        "exception_place": "shop/views.py:42" if is_failed else None,
    }
    events = [
        Event(
            number * duration / 8,
            "db",
            "default.select",
            duration * 0.05,
            STATEMENTS[statement],
            {},
        )
        for number in range(6)
        for statement in [(view * 3 + number) % len(STATEMENTS)]
    ]
    events.append(Event(duration * 0.8, "template", TEMPLATES[view], duration * 0.2, "", {}))
    batch.works.append(Work(values, events, 0))
    word = random.choice(WORDS)
    rare = f" {RARE}" if random.random() < 0.00001 else ""
    batch.logs.append(
        Log(
            {
                **common,
                "id": moment + int(duration * 500),
                "level": "ERROR" if is_failed else random.choices(("INFO", "WARNING"), (20, 1))[0],
                "logger": f"shop.{word}",
                "message": f"{word} {moment % 10_000} changed for customer {moment % 5000}{rare}",
                "thread": "MainThread",
                "file": "shop/views.py:42",
                "function": "change",
                "exception_class": "ValueError" if is_failed else None,
                "exception_message": "no such coupon" if is_failed else None,
                "stack": "Traceback (most recent call last): …" if is_failed else None,
                "extra": None,
            }
        )
    )


def metrics(batch: Batch, start: int) -> None:
    """What StatsD would have said about the same ten seconds."""
    times: dict[Series, list[float]] = {}

    def timer(metric: str, service: str, value: float, **tags: str) -> None:
        series = Series(metric, "timer", service, "", tuple(sorted(tags.items())))
        times.setdefault(series, []).append(value)

    statuses: dict[Series, int] = {}
    for work in batch.works:
        row = work.values
        service, duration = row["service"], row["duration_ms"]
        timer("request", service, duration)
        timer("view", service, duration, view=row["view"].replace(".", "_"), method=row["method"])
        timer("request.db", service, row["db_ms"])
        timer("request.template", service, row["template_ms"])
        timer("request.queue", service, row["queue_ms"])
        for event in work.events or ():
            if event.kind == "db":
                timer("db", service, event.ms, alias="default", verb="select")
            else:
                timer("template", service, event.ms, template=event.name.replace(".", "_"))
        if duration > 60:
            timer("http", service, duration / 3, host=HOSTS[int(duration) % len(HOSTS)])
            timer("request.http", service, duration / 3)
        tags = (("status", str(row["status"])),)
        series = Series("response", "counter", service, "", tags)
        statuses[series] = statuses.get(series, 0) + 1
        if row["exception_class"]:
            tags = (("class", "ValueError"), ("view", row["view"].replace(".", "_")))
            series = Series("exception", "counter", service, "", tags)
            statuses[series] = statuses.get(series, 0) + 1
    for metric, value in (("rss", 9e7), ("cpu", 20.0), ("threads", 4.0), ("fds", 30.0)):
        for service in ("front", "billing"):
            timer(f"process.{metric}", service, value)
    for series, values in times.items():
        point = Point(len(values), sum(values), min(values), max(values), sketch={})
        sketch.add(point.sketch, values)
        batch.points[start, series] = point
    for series, count in statuses.items():
        batch.points[start, series] = Point(count, count, 1, 1)


def measure(db: Path) -> None:
    """Ask for each address, and print the times."""
    file = sqlite3.connect(db)
    (requests, last) = file.execute("SELECT count(*), max(id) FROM work").fetchone()
    (logs,) = file.execute("SELECT count(*) FROM logs").fetchone()
    (middle,) = file.execute(
        "SELECT correlation_id FROM work WHERE id > ? AND status = 500 LIMIT 1",
        (last - 43_200_000_000,),
    ).fetchone()
    (last_line,) = file.execute("SELECT max(id) FROM logs").fetchone()
    file.close()
    size = db.stat().st_size / 2**30
    print(
        f"{requests:,} requests, {logs:,} log lines, {size:.1f} GB, day ended {time.time() - last / 1e6:,.0f} s ago"
    )
    day = {"from": str(last // 1_000_000 - 86400), "to": str(last // 1_000_000)}
    addresses = [
        ("overview, day", "overview", day),
        ("overview, day, one service", "overview", {**day, "service": "front"}),
        ("overview, 7 days", "overview", {"range": "7d"}),
        ("overview, 6 hours", "overview", {"range": "6h"}),
        ("overview, 15 minutes", "overview", {"range": "15m"}),
        ("metric, day", "metric", {**day, "metric": "request"}),
        ("metric by view, day", "metric", {**day, "metric": "view", "by": "view"}),
        ("requests, newest", "requests", day),
        ("requests, slowest of the day", "requests", {**day, "sort": "duration_ms"}),
        ("requests, most SQL of the day", "requests", {**day, "sort": "db_ms"}),
        (
            "requests, slowest of one view",
            "requests",
            {**day, "sort": "duration_ms", "view": VIEWS[30]},
        ),
        (
            "requests, slowest of the busiest view",
            "requests",
            {**day, "sort": "duration_ms", "view": VIEWS[0]},
        ),
        ("requests, 5xx", "requests", {**day, "status": "5xx"}),
        ("requests, over 2 s", "requests", {**day, "min_ms": "2000"}),
        ("requests, one user", "requests", {**day, "user": "4242"}),
        ("requests, text", "requests", {**day, "q": "view_30 500"}),
        ("requests, POST of web3, busiest", "requests", {**day, "method": "POST", "host": "web3"}),
        ("logs, newest", "logs", day),
        ("logs, a rare word", "logs", {**day, "q": RARE}),
        ("logs, a common word", "logs", {**day, "q": "basket"}),
        ("logs, a phrase", "logs", {**day, "q": '"refund 4242 changed"'}),
        ("logs, errors", "logs", {**day, "level": "ERROR"}),
        ("logs, a word among errors", "logs", {**day, "level": "ERROR", "q": "coupon"}),
        ("logs, tail", "tail", {"after": str(last_line - 2_000_000)}),
        ("story", "story", {"id": middle}),
        ("view, day", "view", {**day, "view": VIEWS[3]}),
        ("views, day", "views", day),
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "introspect.console.serve", str(db), "127.0.0.1", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        base = server.stdout.readline().strip()
        process = psutil.Process(server.pid)
        print(f"{'':<40}{'median':>10}{'slowest':>10}{'CPU':>10}")
        for title, name, parameters in addresses:
            address = f"{base}-/data/{name}?{urllib.parse.urlencode(parameters)}"
            ask(address)
            before = sum(process.cpu_times()[:2])
            times = [ask(address) for _ in range(5)]
            cpu = (sum(process.cpu_times()[:2]) - before) / len(times) * 1000
            print(
                f"{title:<40}{statistics.median(times):>7.0f} ms{max(times):>7.0f} ms{cpu:>7.0f} ms",
                flush=True,
            )
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()


def ask(address: str) -> float:
    """Fetch an address; return how long that took in ms."""
    began = time.perf_counter()
    with urllib.request.urlopen(address) as answer:
        json.load(answer)
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
