"""What SQL comments cost inserts: `python -m tests.benchmarks.sql_comment_inserts`.

`bulk_create` of 1,000 rows, and the driver's own `executemany`, with and without comments, in turns, on PostgreSQL,
MariaDB and SQLite. Prints the best and the median time of each, in milliseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator

from tests.helpers.databases import Database, mariadb_database, postgresql_database
from tests.helpers.processes import REPOSITORY, clean_environment

ROWS = 1000
SETTINGS = ("off", "path", "path,id", "path,caller")

CHILD = """
import json, os, sys, time
import django
from django.conf import settings
settings.configure(USE_TZ=True, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
                   DATABASES={"default": json.loads(sys.argv[1])})
django.setup()
from django.db import connection, models
class Row(models.Model):
    name = models.CharField(max_length=100)
    number = models.IntegerField()
    class Meta: app_label = "bench"; db_table = "bench_row"
from introspect.agent import work
from introspect.agent.correlation import Inbound
from introspect.bootstrap.start import start
start()
class Unit(work.Work):
    kind = "bench"
    def comment_parts(self, parts):
        return (["/2014/pycon/"] if "path" in parts else []) + super().comment_parts(parts)
rows, rounds = int(sys.argv[2]), int(sys.argv[3])
with connection.cursor() as cursor:
    cursor.execute("DROP TABLE IF EXISTS bench_row")
with connection.schema_editor() as editor:
    editor.create_model(Row)
table = connection.ops.quote_name("bench_row")
times = {"bulk_create": [], "executemany": []}
for round in range(rounds):
    work.current.set(Unit(Inbound(f"round-{round:08}")))
    objects = [Row(name=f"row {n}", number=n) for n in range(rows)]
    started = time.perf_counter()
    Row.objects.bulk_create(objects)
    times["bulk_create"].append(time.perf_counter() - started)
    pairs = [(f"row {n}", n) for n in range(rows)]
    started = time.perf_counter()
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {table} (name, number) VALUES (%s, %s)", pairs)
    times["executemany"].append(time.perf_counter() - started)
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table}")
print(json.dumps(times))
"""


def measured(database: dict[str, object], setting: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round, in a process of its own, by kind of insert."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(database), str(ROWS), str(rounds)],
        env=clean_environment(INTROSPECT_SQL_COMMENT=setting, INTROSPECT_STATSD="off"),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def databases() -> Iterator[dict[str, dict[str, object]]]:
    """Give Django's description of each database, by its name."""
    with postgresql_database() as postgresql, mariadb_database() as mariadb:
        yield {
            "postgresql": described(postgresql, "postgresql"),
            "mariadb": described(mariadb, "mysql"),
            "sqlite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        }


def described(database: Database, engine: str) -> dict[str, object]:
    """Return Django's description of a database."""
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": database.name,
        "USER": database.user,
        "HOST": database.host,
        "PORT": database.port,
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="inserts of each kind per turn")
    parser.add_argument("--turns", type=int, default=3, help="how often the settings take turns")
    options = parser.parse_args()
    print(f"{ROWS} rows; best and median of {options.rounds * options.turns}, in ms")
    with databases() as known:
        for name, database in known.items():
            found: dict[tuple[str, str], list[float]] = {}
            for _ in range(options.turns):
                for setting in SETTINGS:
                    for kind, seconds in measured(database, setting, options.rounds).items():
                        found.setdefault((kind, setting), []).extend(seconds)
            for kind in ("bulk_create", "executemany"):
                for setting in SETTINGS:
                    times = [1000 * value for value in found[kind, setting]]
                    print(
                        f"{name:10} {kind:11} {setting:11} "
                        f"{min(times):8.2f} {statistics.median(times):8.2f}"
                    )


if __name__ == "__main__":
    main()
