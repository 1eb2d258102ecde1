"""The one writer of the console's file."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from introspect.console import sketch
from introspect.console import store as store_module
from introspect.console.schema import VERSION
from introspect.console.store import Store, StoreError
from tests.console.rows import NOON, batch, record, request

STATEMENT = "SELECT id FROM shop_basket WHERE user_id = %s"


def test_each_batch_is_in_all_three_resolutions(store: Store, reader: sqlite3.Connection) -> None:
    """Points of the same bucket are added up, whichever batch brought them."""
    store.write(batch(statsd=b"T:10|ms\nT:20|ms", now=NOON), NOON)
    store.write(batch(statsd=b"T:30|ms", now=NOON + 9), NOON + 9)
    store.write(batch(statsd=b"T:40|ms", now=NOON + 50), NOON + 50)

    def rows(table: str) -> list[tuple]:
        return reader.execute(
            f"SELECT start - {NOON}, count, sum, min, max FROM {table} ORDER BY start"
        ).fetchall()

    assert rows("points_10s") == [(0, 3, 60, 10, 30), (50, 1, 40, 40, 40)]
    assert rows("points_1m") == rows("points_10m") == [(0, 4, 100, 10, 40)]
    (blob,) = reader.execute("SELECT sketch FROM points_1m").fetchone()
    assert sketch.quantile(sketch.unpack(blob), 0.5) == pytest.approx(20, rel=0.01)


def test_points_outlive_a_restart(store: Store, reader: sqlite3.Connection) -> None:
    """A console that is started again goes on where the file ends, in the middle of a bucket."""
    store.write(batch(statsd=b"T:1|c\nG:40|g"), NOON)
    with contextlib.closing(Store(store.path)) as again:
        assert [(series.metric, level) for series, level in again.gauges().items()] == [("G", 40)]
        again.write(batch(statsd=b"T:2|c"), NOON)

    assert reader.execute("SELECT count(*) FROM series").fetchone() == (2,)
    counter = "SELECT sum FROM points_10s JOIN series ON series.id = series_id WHERE metric = 'T'"
    assert reader.execute(counter).fetchall() == [(3,)]


def test_lines_of_one_microsecond_are_all_kept(store: Store, reader: sqlite3.Connection) -> None:
    """Equal times do not overwrite each other, in one batch or in many, and stay where they are."""
    for _ in range(100):
        store.write(batch(*[record(), request()] * 4), NOON)

    for table in ("logs", "work"):
        (count, spread) = reader.execute(
            f"SELECT count(*), max(id) - min(id) FROM {table}"
        ).fetchone()
        assert count == 400
        assert spread == 399
    assert reader.execute("SELECT sum(works) FROM work_zones").fetchone() == (400,)


def test_lines_of_one_microsecond_after_a_restart(tmp_path: Path) -> None:
    """Where nothing is remembered of them, the next free place is found in the file."""
    path = tmp_path / "console.db"
    for _ in range(3):
        with contextlib.closing(Store(path)) as store:
            store.write(batch(*[record()] * 5), NOON)

    with contextlib.closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT count(*), max(id) - min(id) FROM logs").fetchone() == (15, 14)


def test_events_are_stored_by_operation(store: Store, reader: sqlite3.Connection) -> None:
    """Inner events name their operation, and are added up by the view they were done for."""
    event = {
        "offset_ms": 1,
        "kind": "db",
        "name": "default.select",
        "ms": 2,
        "statement": STATEMENT,
    }
    call = {
        "offset_ms": 5,
        "kind": "http",
        "name": "billing",
        "ms": 3,
        "span_id": "ab",
        "error": "E",
    }
    store.write(batch(request(events=[event, event, call]), request(1, events=[event])), NOON)

    operations = {
        row[0]: row[1:]
        for row in reader.execute("SELECT id, service, env, kind, name, statement FROM operations")
    }
    (text,) = reader.execute("SELECT events FROM work_events ORDER BY work_id").fetchone()
    first, _, third = json.loads(text)
    assert operations[first[2]] == ("front", "prod", "db", "default.select", STATEMENT)
    assert third[:2] == [5, 3]
    assert third[3] == {"span_id": "ab", "error": "E"}
    for table in ("operations_1m", "operations_10m"):
        assert reader.execute(
            f"SELECT origin, works, count, ms, max_ms, errors FROM {table} WHERE operation_id = ?",
            (first[2],),
        ).fetchall() == [("shop.views.basket", 2, 3, 6, 2, 0)]
        assert reader.execute(
            f"SELECT works, errors FROM {table} WHERE operation_id = ?", (third[2],)
        ).fetchall() == [(1, 1)]


def test_text_of_both_kinds_of_line_is_indexed(store: Store, reader: sqlite3.Connection) -> None:
    """Words of messages, stacks, paths and exceptions are found."""
    store.write(
        batch(
            record(message="the zanzibar parcel", exception={"class": "E", "stack": "quagga.py"}),
            request(path="/shop/okapi/", exception={"class": "KeyError"}),
        ),
        NOON,
    )

    for table, word in (
        ("logs", "zanzibar"),
        ("logs", "quagga"),
        ("work", "okapi"),
        ("work", "keyerror"),
    ):
        found = reader.execute(
            f"SELECT count(*) FROM {table}_fts WHERE {table}_fts MATCH ?", (word,)
        )
        assert found.fetchone() == (1,)


def test_server_start_and_version_change_are_events(
    store: Store, reader: sqlite3.Connection
) -> None:
    """The first request of a process is a start, a new version a change, a command neither."""
    store.write(batch(request(-4000, pid=1), request(-3999, pid=2), request(-3998, pid=1)), NOON)
    command = {"kind": "command", "logger": "introspect.command", "name": "migrate"}
    store.write(batch(request(-100, pid=9, **command)), NOON)
    store.write(batch(request(0, pid=3, version="1.5.0"), request(1, pid=1)), NOON)

    assert sorted(reader.execute("SELECT kind, title FROM events")) == [
        ("start", "front 1.4.2 started"),
        ("start", "front 1.4.2 started"),
        ("start", "front 1.5.0 started"),
        ("version", "front 1.5.0"),
    ]


def test_bad_lines_keep_their_newest_example(store: Store, reader: sqlite3.Connection) -> None:
    """Bad lines are counted by source and reason, the example made printable."""
    store.write(batch(statsd=b"T:x|c\nT:y|c"), NOON)
    store.write(batch(statsd=b"T:z\x1b[2J|c"), NOON + 5)

    assert reader.execute("SELECT source, reason, count, example FROM bad_lines").fetchall() == [
        ("statsd", "not a number", 3, "T:z\\x1b[2J|c")
    ]


def fill(store: Store, start: int, end: int, step: int) -> None:
    """Write a request, a record and a counter every ``step`` seconds."""
    for moment in range(start, end, step):
        store.write(
            batch(
                request(moment - NOON, message="x" * 200),
                record(moment - NOON, message="word " * 50),
                statsd=b"T:1|ms",
                now=moment,
            ),
            moment,
        )


def test_retention_by_age(tmp_path: Path) -> None:
    """What is older than the retention goes, in every table and in the search."""
    with contextlib.closing(Store(tmp_path / "console.db", retention=1800)) as store:
        fill(store, NOON - 3600, NOON, 60)
        connection = store._connection

        for table, column in (
            ("work", "id / 1000000"),
            ("logs", "id / 1000000"),
            ("points_10m", "start"),
        ):
            oldest, count = connection.execute(
                f"SELECT min({column}), count(*) FROM {table}"
            ).fetchone()
            assert NOON - 2400 <= oldest <= NOON - 1740
            assert count > 1
        (found,) = connection.execute(
            "SELECT count(*) FROM logs_fts WHERE logs_fts MATCH 'word'"
        ).fetchone()
        assert found == connection.execute("SELECT count(*) FROM logs").fetchone()[0] == 31
        for table in ("logs", "work"):
            connection.execute(f"INSERT INTO {table}_fts ({table}_fts) VALUES ('integrity-check')")


def test_fine_points_go_before_coarse_ones(store: Store, reader: sqlite3.Connection) -> None:
    """Ten-second buckets are kept for hours, one-minute ones for days, ten-minute ones for all."""
    for age in (3 * 86400, 86400, 60):
        store.write(batch(statsd=b"T:1|c", now=NOON - age), NOON - age)

    kept = {
        table: [age for (age,) in reader.execute(f"SELECT {NOON} - start FROM {table}")]
        for table in ("points_10s", "points_1m", "points_10m")
    }
    assert kept == {
        "points_10s": [60],
        "points_1m": [86400, 60],
        "points_10m": [3 * 86400, 86400, 600],
    }


def test_retention_by_size(tmp_path: Path) -> None:
    """A file that would grow beyond its size loses its oldest lines, and keeps its metrics."""
    limit = 1_500_000
    with contextlib.closing(Store(tmp_path / "console.db", max_bytes=limit)) as store:
        for moment in range(NOON - 4000, NOON, 20):
            lines = [record(moment - NOON, message=f"{moment} " + "filler " * 200)] * 10
            store.write(batch(*lines, statsd=b"T:1|c", now=moment), moment)
        (oldest,) = store._connection.execute("SELECT min(id) / 1000000 FROM logs").fetchone()
        (points,) = store._connection.execute("SELECT sum(sum) FROM points_10m").fetchone()

    assert (tmp_path / "console.db").stat().st_size < limit * 1.5
    assert NOON - 3000 < oldest < NOON - 60
    assert points == 200


def test_smaller_limit_shrinks_the_file(tmp_path: Path) -> None:
    """Started with a smaller limit than before, the file itself becomes smaller."""
    path = tmp_path / "console.db"
    with contextlib.closing(Store(path)) as store:
        for moment in range(NOON - 2000, NOON, 20):
            store.write(batch(*[record(moment - NOON, message="filler " * 300)] * 20), moment)
    before = path.stat().st_size
    with contextlib.closing(Store(path, max_bytes=before // 4)) as store:
        for second in range(300):
            store.write(batch(), NOON + second)

    assert path.stat().st_size < before / 2


def test_invented_series_and_operations_are_bounded(
    store: Store, reader: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names without end fill neither the file nor memory: the surplus is counted, or is _other."""
    monkeypatch.setattr(store_module, "MAX_SERIES", 20)
    monkeypatch.setattr(store_module, "MAX_OPERATIONS", 20)
    events = [
        {
            "offset_ms": 1,
            "kind": "db",
            "name": "default.select",
            "ms": 1,
            "statement": f"SELECT {n}",
        }
        for n in range(100)
    ]
    store.write(
        batch(request(events=events), statsd=b"\n".join(b"x%d:1|c" % n for n in range(50))), NOON
    )

    assert reader.execute("SELECT count(*) FROM series").fetchone() == (20,)
    assert reader.execute("SELECT count FROM bad_lines").fetchone() == (30,)
    assert reader.execute("SELECT count(*) FROM operations").fetchone() == (21,)
    other = (
        "SELECT count FROM operations_1m JOIN operations ON id = operation_id WHERE name = '_other'"
    )
    assert reader.execute(other).fetchone() == (81,)


def test_names_of_which_nothing_is_left_make_room(store: Store, reader: sqlite3.Connection) -> None:
    """A series whose points have all gone is forgotten."""
    store.retention = 600
    store._names_pruned = NOON
    store.write(batch(statsd=b"old:1|c"), NOON)
    store.write(batch(statsd=b"new:1|c", now=NOON + 7200), NOON + 7200)

    assert reader.execute("SELECT metric FROM series").fetchall() == [("new",)]


def test_failed_write_leaves_nothing_behind(store: Store, reader: sqlite3.Connection) -> None:
    """While another program locks the file a write fails whole, and succeeds whole afterwards."""
    waiting = batch(request(), record(), statsd=b"T:1|c")
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            store.write(waiting, NOON)
        other.execute("ROLLBACK")
    assert reader.execute("SELECT count(*) FROM series").fetchone() == (0,)
    store.write(waiting, NOON)

    for table in ("series", "work", "logs", "points_10s"):
        assert reader.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)


def test_full_disk_is_survived(tmp_path: Path) -> None:
    """When the file can grow no more a write fails, and what is there stays readable."""
    path = tmp_path / "console.db"
    with contextlib.closing(Store(path)) as store:
        store.write(batch(record()), NOON)
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages + 5}")
        big = [record(number, message="filler " * 2000) for number in range(50)]
        with pytest.raises(sqlite3.OperationalError, match="full"):
            store.write(batch(*big), NOON)
        assert store._connection.execute("SELECT count(*) FROM logs").fetchone() == (1,)
        store._connection.execute("PRAGMA max_page_count = 1000000")
        store.write(batch(*big), NOON)

        assert store._connection.execute("SELECT count(*) FROM logs").fetchone() == (51,)
        assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    """A console killed while it writes leaves whole batches, and the next one goes on."""
    path = tmp_path / "console.db"
    program = textwrap.dedent(f"""
        from introspect.console.store import Store
        from tests.console.rows import NOON, batch, record, request
        store = Store({str(path)!r})
        for number in range(10**9):
            store.write(batch(*[record(number)] * 50, *[request(number)] * 50), NOON + number)
            print(number, flush=True)
    """)
    writer = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with writer:
        written = int(next(itertools.islice(writer.stdout, 20, None)))
        writer.send_signal(signal.SIGKILL)
    with contextlib.closing(Store(path)) as store:
        (logs,) = store._connection.execute("SELECT count(*) FROM logs").fetchone()
        (works,) = store._connection.execute("SELECT count(*) FROM work").fetchone()

        assert logs == works >= (written + 1) * 50
        assert logs % 50 == 0
        assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_file_is_for_its_owner_alone(store: Store) -> None:
    """Log lines are readable by nobody else, in the write-ahead log neither."""
    store.write(batch(record()), NOON)

    for path in store.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_file_can_be_read_by_any_tool_meanwhile(store: Store) -> None:
    """Another connection reads while the console has the file open and writes."""
    with contextlib.closing(sqlite3.connect(store.path)) as tool:
        tool.execute("BEGIN")
        assert tool.execute("SELECT count(*) FROM logs").fetchone() == (0,)
        store.write(batch(record(-1)), NOON)
        assert tool.execute("SELECT count(*) FROM logs").fetchone() == (0,)
        tool.execute("COMMIT")
        (timestamp,) = tool.execute("SELECT timestamp FROM logs").fetchone()

    assert timestamp == "2026-11-23T11:59:59.000000Z"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is no database" * 100, "file is not a database"),
        (None, "its version is 0, ours"),
    ],
)
def test_foreign_file_is_refused_with_a_remedy(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    """A file that is not the console's is left alone, and the message says what to do."""
    path = tmp_path / "other.db"
    if content is None:
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE precious (x)")
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=message) as caught:
        Store(path)

    assert "--db" in str(caught.value)
    assert str(path) in str(caught.value)
    if content is not None:
        assert path.read_bytes() == before


def test_file_of_a_later_version_is_refused(store: Store) -> None:
    """A file written by a console with another schema is not touched."""
    store._connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(StoreError, match=f"its version is {VERSION + 1}, ours {VERSION}"):
        Store(store.path)


def test_file_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """A path that cannot be a file names itself and the option."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another file with --db"):
        Store(tmp_path / "file" / "console.db")
