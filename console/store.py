"""The one writer of the console's file: opens it, writes batches, forgets what is too old or big.

Each batch is one transaction, so whoever reads sees all of a second or nothing of it, and a console
that is killed loses what it had not yet written.  Whatever SQLite complains about (a lock, a full
disk) is raised to the caller, who keeps the batch and tries again; nothing is half written.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from introspect.console import names, sketch
from introspect.console.lines import LOG_COLUMNS, WORK_COLUMNS, Log, Work
from introspect.console.query import KEEP, MICROSECONDS
from introspect.console.schema import (
    OPERATION_RESOLUTIONS,
    RESOLUTIONS,
    SCHEMA,
    VERSION,
    WORK_NUMBERS,
)
from introspect.console.statsd import Point, Series

if TYPE_CHECKING:
    from collections.abc import Iterable

    from introspect.console.batch import Batch

LOCK_PATIENCE: Final = 0.5
"""Seconds that one write waits for another program's lock before it is put off."""

MAX_SERIES: Final = 20_000
MAX_OPERATIONS: Final = 50_000
MAX_LOGGERS: Final = 2_000
MAX_PROCESSES: Final = 10_000
"""Names in the file and in our memory: a caller who invents them without end is bounded."""

SLICE: Final = 5_000
"""Rows forgotten per table and batch: more than can come in a second, and yet a short wait."""

SAME_DEPLOYMENT: Final = 3600
"""Seconds in which a version seen before is no change: two versions overlap in each roll-out."""

OPERATIONS_KEPT: Final = 2 * 86400
"""Seconds that one-minute totals of operations are kept; ten-minute ones as long as the rest."""

LINES_ALWAYS_KEPT: Final = 60
"""Seconds of lines that are left when the file is too big for other reasons."""

MERGED_PAGES: Final = 64
"""Pages of a text index rewritten per batch while the file is too big."""

MAX_FOLLOWING: Final = 10_000
"""Moments that several lines claimed, of which the next free ``id`` is remembered."""

NAMES_PRUNED_EVERY: Final = 3600
"""Seconds."""

Identified = dict[str, Any]
Process = tuple[str, str, str, int]


class StoreError(Exception):
    """The file cannot be used; the text says which one, why, and what would help."""


def default_path() -> Path:
    """Where the console keeps its file unless told: the user's state folder."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "introspect" / "console.db"


class Store:
    """The open file.  One thread uses it."""

    def __init__(
        self, path: str | Path, retention: float = 7 * 86400, max_bytes: int = 4 << 30
    ) -> None:
        """Open or make the file; keep ``retention`` seconds and at most about ``max_bytes``."""
        self.path = Path(path)
        self.retention = retention
        self.max_bytes = max_bytes
        self._connection = _open(self.path)
        self._names_pruned = time.time()
        # By table: a moment that several lines claimed → the id for the next of them.
        self._following: dict[str, dict[int, int]] = defaultdict(dict)
        self._forget_names()

    def close(self) -> None:
        """Close the file; the write-ahead log goes with the last one who closes."""
        self._connection.close()

    def gauges(self) -> dict[Series, float]:
        """Return each gauge's newest value: the base of the next delta."""
        rows = self._connection.execute(
            "SELECT metric, kind, service, env, tags, last FROM series JOIN ("
            "  SELECT series_id, last, max(start) FROM points_10m"
            "  WHERE last IS NOT NULL GROUP BY series_id) ON series_id = id"
        )
        return {
            Series(metric, kind, service, env, tuple(json.loads(tags).items())): last
            for metric, kind, service, env, tags, last in rows
        }

    def write(self, batch: Batch, now: float) -> None:
        """Write ``batch`` and forget a slice of what is too old, in one transaction."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._write_works(batch.works)
            self._write_logs(batch.logs)
            self._write_processes(batch.works, batch.logs)
            self._write_points(batch)
            self._write_events(batch.events)
            self._write_bad(batch, now)
            self._forget_old(now)
            self._write_counts(batch, now)
            connection.execute("COMMIT")
        except BaseException:
            self._forget_names()  # some of them were given in the transaction that is now undone
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._give_back()

    # -- points -------------------------------------------------------------------------------

    def _write_points(self, batch: Batch) -> None:
        rows: dict[int, dict[tuple[int, int], Point]] = {step: {} for step in RESOLUTIONS}
        for (start, series), point in list(batch.points.items()):
            series_id = self._series_id(series)
            if series_id is None:
                del batch.points[start, series]
                batch.refuse("statsd", f"more than {MAX_SERIES} series", series.metric.encode())
                continue
            for step, points in rows.items():
                points.setdefault((start // step * step, series_id), Point()).add(point)
        for step, table in RESOLUTIONS.items():
            self._connection.executemany(
                f"INSERT INTO {table} (start, series_id, count, sum, min, max, last, sketch)"  # noqa: S608
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (start, series_id) DO UPDATE SET"
                " count = count + excluded.count, sum = sum + excluded.sum,"
                " min = min(min, excluded.min), max = max(max, excluded.max),"
                " last = coalesce(excluded.last, last),"
                " sketch = merge_sketches(sketch, excluded.sketch)",
                [
                    (*key, point.count, point.sum, point.min, point.max, point.last, point.packed())
                    for key, point in sorted(rows[step].items())
                ],
            )

    def _series_id(self, series: Series) -> int | None:
        known = self._series.get(series)
        if known is not None:
            return known
        tags = json.dumps(dict(series.tags), ensure_ascii=False, separators=(",", ":"))
        identity = (series.metric, series.kind, series.service, series.env, tags)
        execute = self._connection.execute
        found = execute(
            "SELECT id FROM series WHERE (metric, kind, service, env, tags) = (?, ?, ?, ?, ?)",
            identity,
        ).fetchone()
        if found is None:
            if self._is_full("series", MAX_SERIES):
                return None
            label = " ".join(value for _, value in series.tags if value)
            known_metric = names.CATALOGUE.get(series.metric)
            unit = known_metric.unit if known_metric else "ms" if series.kind == "timer" else ""
            inserted = execute(
                "INSERT INTO series (metric, kind, service, env, tags, label, unit)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*identity, label, unit),
            )
            found = (inserted.lastrowid,)
            self._rows["series"] += 1
        self._series[series] = series_id = int(found[0])
        return series_id

    def _is_full(self, table: str, most: int) -> bool:
        """Whether a table of names has no room; its rows are counted once, then as they come."""
        if table not in self._rows:
            (self._rows[table],) = self._connection.execute(
                f"SELECT count(*) FROM {table}"  # noqa: S608
            ).fetchone()
        return self._rows[table] >= most

    # -- lines --------------------------------------------------------------------------------

    def _write_works(self, works: list[Work]) -> None:
        if not works:
            return
        self._insert("work", WORK_COLUMNS, [work.values for work in works])
        self._connection.executemany(
            "INSERT INTO work_fts (rowid, path, view, name, user_id, exception_class,"
            " exception_message) VALUES (:id, :path, :view, :name, :user_id, :exception_class,"
            " :exception_message)",
            [work.values for work in works],
        )
        self._write_zones(works)
        self._write_operations(works)

    def _write_zones(self, works: list[Work]) -> None:
        zones: dict[int, list[Any]] = {}
        for work in works:
            start = work.values["id"] // (10 * MICROSECONDS) * 10
            zone = zones.setdefault(start, [start, 0, *[None] * len(WORK_NUMBERS)])
            zone[1] += 1
            for position, column in enumerate(WORK_NUMBERS, 2):
                value = work.values[column]
                if value is not None and (zone[position] is None or value > zone[position]):
                    zone[position] = value
        larger = ", ".join(
            f"{column} = coalesce(max({column}, excluded.{column}), {column}, excluded.{column})"
            for column in WORK_NUMBERS
        )
        self._connection.executemany(
            f"INSERT INTO work_zones (start, works, {', '.join(WORK_NUMBERS)})"  # noqa: S608
            f" VALUES (?, ?{', ?' * len(WORK_NUMBERS)}) ON CONFLICT (start) DO UPDATE SET"
            f" works = works + excluded.works, {larger}",
            zones.values(),
        )

    def _write_operations(self, works: list[Work]) -> None:
        # (operation, origin) → works, count, ms, longest, errors; by start of the minute.
        totals: dict[tuple[int, int, str], list[Any]] = defaultdict(lambda: [0, 0, 0.0, 0.0, 0])
        kept = []
        for work in works:
            if work.events is None:
                continue
            minute = work.values["id"] // (60 * MICROSECONDS) * 60
            origin = work.origin
            seen = set()
            packed = []
            itself = totals[
                minute, self._operation_id(work, "work", work.values["kind"], ""), origin
            ]
            itself[0] += 1
            itself[1] += 1
            itself[2] += work.values["duration_ms"]
            itself[3] = max(itself[3], work.values["duration_ms"])
            for event in work.events:
                operation = self._operation_id(work, event.kind, event.name, event.statement)
                entry = (event.offset_ms, event.ms, operation)
                packed.append((*entry, event.more) if event.more else entry)
                total = totals[minute, operation, origin]
                if operation not in seen:
                    seen.add(operation)
                    total[0] += 1
                total[1] += 1
                total[2] += event.ms
                total[3] = max(total[3], event.ms)
                total[4] += "error" in event.more
            if packed or work.events_dropped:
                text = json.dumps(packed, ensure_ascii=False, separators=(",", ":"))
                kept.append((work.values["id"], work.events_dropped, text))
        self._connection.executemany(
            "INSERT INTO work_events (work_id, dropped, events) VALUES (?, ?, ?)", kept
        )
        for step, table in OPERATION_RESOLUTIONS.items():
            self._connection.executemany(
                f"INSERT INTO {table} (start, operation_id, origin, works, count, ms, max_ms,"  # noqa: S608
                " errors) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (start, operation_id, origin) DO UPDATE SET"
                " works = works + excluded.works, count = count + excluded.count,"
                " ms = ms + excluded.ms, max_ms = max(max_ms, excluded.max_ms),"
                " errors = errors + excluded.errors",
                [
                    (minute // step * step, operation, origin, *total)
                    for (minute, operation, origin), total in sorted(totals.items())
                ],
            )

    def _operation_id(self, work: Work, kind: str, name: str, statement: str) -> int:
        identity = (work.values["service"], work.values["env"], kind, name, statement)
        known = self._operations.get(identity)
        if known is not None:
            return known
        execute = self._connection.execute
        found = execute(
            "SELECT id FROM operations"
            " WHERE (service, env, kind, name, statement) = (?, ?, ?, ?, ?)",
            identity,
        ).fetchone()
        if found is None:
            if self._is_full("operations", MAX_OPERATIONS) and name != "_other":
                return self._operation_id(work, kind, "_other", "")
            inserted = execute(
                "INSERT INTO operations (service, env, kind, name, statement)"
                " VALUES (?, ?, ?, ?, ?)",
                identity,
            )
            found = (inserted.lastrowid,)
            self._rows["operations"] += 1
        self._operations[identity] = operation = int(found[0])
        return operation

    def _write_logs(self, logs: list[Log]) -> None:
        if not logs:
            return
        rows = [log.values for log in logs]
        self._insert("logs", LOG_COLUMNS, rows)
        self._connection.executemany(
            "INSERT INTO logs_fts (rowid, message, logger, exception_class, exception_message,"
            " stack, extra) VALUES (:id, :message, :logger, :exception_class, :exception_message,"
            " :stack, :extra)",
            rows,
        )
        counts: dict[tuple[int, str, str, str, str], int] = defaultdict(int)
        for row in rows:
            minute = row["id"] // (60 * MICROSECONDS) * 60
            logger = self._bounded_logger(row["logger"])
            counts[minute, row["service"], row["env"], row["level"], logger] += 1
        self._connection.executemany(
            "INSERT INTO log_counts (start, service, env, level, logger, count)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (start, service, env, level, logger)"
            " DO UPDATE SET count = count + excluded.count",
            [(*key, count) for key, count in sorted(counts.items())],
        )

    def _bounded_logger(self, logger: str) -> str:
        if logger in self._loggers:
            return logger
        if len(self._loggers) >= MAX_LOGGERS:
            return "_other"
        self._loggers.add(logger)
        return logger

    def _insert(self, table: str, columns: tuple[str, ...], rows: Iterable[Identified]) -> None:
        """Insert rows by their ``id``, which is moved on where it is taken.

        Lines of one microsecond get neighbouring ids in the order they came, however many batches
        they come in.
        """
        statement = (
            f"INSERT INTO {table} ({', '.join(columns)})"  # noqa: S608
            f" VALUES ({', '.join(f':{column}' for column in columns)})"
            " ON CONFLICT (id) DO NOTHING"
        )
        cursor = self._connection.cursor()
        following = self._following[table]
        if len(following) > MAX_FOLLOWING:
            following.clear()
        for row in rows:
            claimed = row["id"]
            row["id"] = following.get(claimed, claimed)
            if not cursor.execute(statement, row).rowcount:
                row["id"] = self._next_free(table, row["id"])
                cursor.execute(statement, row)
                following[claimed] = row["id"] + 1
            elif row["id"] != claimed:
                following[claimed] = row["id"] + 1

    def _next_free(self, table: str, taken: int) -> int:
        """Return the first ``id`` behind one that is taken, and behind its neighbours."""
        (free,) = self._connection.execute(
            f"SELECT id + 1 FROM {table} AS taken WHERE id >= ? AND NOT EXISTS"  # noqa: S608
            f" (SELECT 1 FROM {table} WHERE id = taken.id + 1) ORDER BY id LIMIT 1",
            (taken,),
        ).fetchone()
        return int(free)

    # -- processes and events -----------------------------------------------------------------

    def _write_processes(self, works: list[Work], logs: list[Log]) -> None:
        heard: dict[Process, tuple[str, int]] = {}
        started: dict[Process, int] = {}
        for row in [line.values for line in logs] + [line.values for line in works]:
            if not row["service"] or row["pid"] is None:
                continue
            process = (row["service"], row["env"], row["host"], row["pid"])
            heard[process] = (row["version"], row["id"] // MICROSECONDS)
            # A command is a process of its own each time: it says nothing about the server.
            if row.get("kind") in ("request", "task"):
                started.setdefault(process, row["id"])
        for process, (version, moment) in heard.items():
            self._note_version(process, version, moment)
        for process, identity in started.items():
            if process not in self._servers:
                self._note_start(process, heard[process][0], identity)
        rows = [(*process, version, moment) for process, (version, moment) in heard.items()]
        self._connection.executemany(
            "INSERT INTO processes (service, env, host, pid, version, first_seen, last_seen)"
            " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) ON CONFLICT (service, env, host, pid)"
            " DO UPDATE SET version = excluded.version,"
            " last_seen = max(last_seen, excluded.last_seen)",
            rows,
        )

    def _note_start(self, process: Process, version: str, identity: int) -> None:
        if len(self._servers) >= MAX_PROCESSES:
            self._servers.clear()
        self._servers.add(process)
        service, env, host, pid = process
        known = self._connection.execute(
            "SELECT last_seen FROM processes WHERE (service, env, host, pid) = (?, ?, ?, ?)",
            process,
        ).fetchone()
        if known is not None and identity // MICROSECONDS - known[0] < SAME_DEPLOYMENT:
            return
        title = f"{service} {version} started".replace("  ", " ")
        detail = {"host": host, "pid": pid, "version": version}
        self._event(identity, "start", service, env, title, detail)

    def _note_version(self, process: Process, version: str, moment: int) -> None:
        if not version:
            return
        service, env, _, _ = process
        versions = self._versions.get((service, env))
        if versions is None:
            if len(self._versions) >= MAX_PROCESSES:
                self._versions.clear()
            versions = self._versions[service, env] = dict(
                self._connection.execute(
                    "SELECT version, max(last_seen) FROM processes"
                    " WHERE (service, env) = (?, ?) AND version <> '' GROUP BY version",
                    (service, env),
                )
            )
        seen = versions.get(version)
        if versions and (seen is None or moment - seen > SAME_DEPLOYMENT):
            before = max(versions, key=lambda known: versions[known])
            if before != version:
                title = f"{service} {version}"
                self._event(
                    moment * MICROSECONDS, "version", service, env, title, {"before": before}
                )
        versions[version] = max(moment, seen or 0)
        if len(versions) > MAX_LOGGERS:
            versions.clear()

    def _write_events(self, events: list[tuple[int, str, str]]) -> None:
        for moment, title, text in events:
            self._event(moment * MICROSECONDS, "event", "", "", title, {"text": text})

    def _event(
        self, identity: int, kind: str, service: str, env: str, title: str, detail: dict[str, Any]
    ) -> None:
        row = {
            "id": identity,
            "kind": kind,
            "service": service,
            "env": env,
            "title": title,
            "detail": json.dumps(detail),
        }
        self._insert("events", tuple(row), [row])

    # -- about ourselves ----------------------------------------------------------------------

    def _write_bad(self, batch: Batch, now: float) -> None:
        self._connection.executemany(
            "INSERT INTO bad_lines (source, reason, count, first_seen, last_seen, example)"
            " VALUES (?1, ?2, ?3, ?4, ?4, ?5) ON CONFLICT (source, reason) DO UPDATE SET"
            " count = count + excluded.count, last_seen = excluded.last_seen,"
            " example = excluded.example",
            [
                (source, reason, bad.count, int(now), _printable(bad.example))
                for (source, reason), bad in batch.bad.items()
            ],
        )

    def _write_counts(self, batch: Batch, now: float) -> None:
        minute = int(now) // 60 * 60
        self._connection.executemany(
            "INSERT INTO receiver_stats (start, name, value) VALUES (?, ?, ?)"
            " ON CONFLICT (start, name) DO UPDATE SET value = value + excluded.value",
            [(minute, name, value) for name, value in batch.counts.items()],
        )

    # -- forgetting ---------------------------------------------------------------------------

    def _forget_names(self) -> None:
        """Empty what we remember of the file's names; it is looked up again when needed."""
        self._series: dict[Series, int] = {}
        self._operations: dict[tuple[str, str, str, str, str], int] = {}
        self._rows: dict[str, int] = {}
        self._loggers: set[str] = set()
        self._servers: set[Process] = set()
        self._versions: dict[tuple[str, str], dict[str, int]] = {}

    def _forget_old(self, now: float) -> None:
        oldest_line = oldest_bucket = now - self.retention
        if self._used_bytes() > self.max_bytes:
            oldest_line, oldest_bucket = self._cutoffs_for_size(now, oldest_line, oldest_bucket)
            self._merge_indexes()
        self._forget_lines(int(oldest_line * MICROSECONDS))
        for step, table in RESOLUTIONS.items():
            self._forget_buckets(table, max(oldest_bucket, now - (KEEP[step] or self.retention)))
        for step, table in OPERATION_RESOLUTIONS.items():
            keep = OPERATIONS_KEPT if step == min(OPERATION_RESOLUTIONS) else self.retention
            self._forget_buckets(table, max(oldest_bucket, now - keep))
        for table in ("log_counts", "work_zones"):
            self._forget_buckets(table, oldest_line - 60)
        self._forget_buckets("receiver_stats", oldest_bucket)
        execute = self._connection.execute
        execute("DELETE FROM events WHERE id < ?", (int(oldest_bucket * MICROSECONDS),))
        execute("DELETE FROM processes WHERE last_seen < ?", (int(oldest_bucket),))
        if now - self._names_pruned > NAMES_PRUNED_EVERY:
            self._names_pruned = now
            self._prune_names()

    def _prune_names(self) -> None:
        """Drop series and operations of which nothing is left, so that new ones find room."""
        execute = self._connection.execute
        execute("DELETE FROM series WHERE id NOT IN (SELECT series_id FROM points_10m)")
        execute("DELETE FROM operations WHERE id NOT IN (SELECT operation_id FROM operations_10m)")
        self._forget_names()

    def _used_bytes(self) -> int:
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        (size,) = self._connection.execute("PRAGMA page_size").fetchone()
        return int((pages - free) * size)

    def _cutoffs_for_size(self, now: float, line: float, bucket: float) -> tuple[float, float]:
        """Say before when lines and buckets go (epoch seconds) because the file is too big.

        The oldest hundredth of the lines goes, batch after batch until the rest fits; buckets,
        which are small and remember the longest, only where there are hardly any lines.
        """
        (oldest,) = self._connection.execute(
            "SELECT min(oldest) FROM (SELECT min(id) / 1000000 AS oldest FROM work"
            " UNION ALL SELECT min(id) / 1000000 FROM logs)"
        ).fetchone()
        if oldest is not None and now - oldest > LINES_ALWAYS_KEPT:
            return oldest + max(1.0, (now - oldest) / 100), bucket
        (oldest,) = self._connection.execute("SELECT min(start) FROM points_10m").fetchone()
        return line, (oldest or 0) + max(601.0, (now - (oldest or now)) / 100)

    def _forget_lines(self, before: int) -> None:
        for table, columns in (
            ("work", "path, view, name, user_id, exception_class, exception_message"),
            ("logs", "message, logger, exception_class, exception_message, stack, extra"),
        ):
            (last,) = self._connection.execute(
                f"SELECT max(id) FROM (SELECT id FROM {table} WHERE id < ? ORDER BY id LIMIT ?)",  # noqa: S608
                (before, SLICE),
            ).fetchone()
            if last is None:
                continue
            self._connection.execute(
                f"INSERT INTO {table}_fts ({table}_fts, rowid, {columns})"  # noqa: S608
                f" SELECT 'delete', id, {columns} FROM {table} WHERE id <= ?",
                (last,),
            )
            self._connection.execute(f"DELETE FROM {table} WHERE id <= ?", (last,))  # noqa: S608
            if table == "work":
                self._connection.execute("DELETE FROM work_events WHERE work_id <= ?", (last,))

    def _merge_indexes(self) -> None:
        """Let the text indexes get rid of some of what was deleted from them.

        FTS5 only notes a deletion; the room comes back when segments are merged, which it does by
        itself while lines come in.  https://sqlite.org/fts5.html#the_merge_command
        """
        for table in ("work_fts", "logs_fts"):
            self._connection.execute(
                f"INSERT INTO {table} ({table}, rank) VALUES ('merge', ?)",  # noqa: S608
                (MERGED_PAGES,),
            )

    def _forget_buckets(self, table: str, before: float) -> None:
        (last,) = self._connection.execute(
            f"SELECT max(start) FROM (SELECT start FROM {table} WHERE start < ?"  # noqa: S608
            " ORDER BY start LIMIT ?)",
            (int(before), SLICE),
        ).fetchone()
        if last is not None:
            self._connection.execute(f"DELETE FROM {table} WHERE start <= ?", (last,))  # noqa: S608

    def _give_back(self) -> None:
        """Return free pages to the file system if the file as such is larger than allowed."""
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        (size,) = self._connection.execute("PRAGMA page_size").fetchone()
        if pages * size > self.max_bytes * 1.1:
            # Somebody may hold a lock at this moment: the next batch tries again.
            with contextlib.suppress(sqlite3.OperationalError):
                # Each page is one step of the statement, of which execute() takes only the first.
                self._connection.executescript(f"PRAGMA incremental_vacuum({SLICE})")


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Log lines are nobody else's business, and SQLite gives its companions the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(
            path, timeout=LOCK_PATIENCE, isolation_level=None, check_same_thread=False
        )
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"{path} cannot be opened ({error}): choose another file with --db"
        ) from error
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise StoreError(
            f"{path} cannot be used ({error}): choose another file with --db, or remove this one"
        ) from error
    except StoreError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.create_function("merge_sketches", 2, sketch.merge_packed, deterministic=True)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA cache_size = -32000")
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version or tables:
        raise StoreError(
            f"{path} is not a file of this console (its version is {version}, ours {VERSION}):"
            " choose another file with --db, or remove this one"
        )
    connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")


def _printable(example: bytes) -> str:
    text = example.decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
