"""SQL through Django on SQLite, PostgreSQL and MariaDB: what is counted, and what stays as it was.

With TEST_PSYCOPG=2 in the environment the same tests use psycopg2: `test_with_psycopg2` runs them so.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from django import VERSION

from introspect.agent.metrics import OTHER
from introspect.instrumentations import django_db
from tests.helpers.databases import Database
from tests.helpers.ports import free_port
from tests.helpers.processes import REPOSITORY, clean_environment
from tests.instrumentations.conftest import Agent
from tests.instrumentations.handlers import WsgiCall, environ, urlconf
from tests.instrumentations.raised import raised

PSYCOPG2 = os.environ.get("TEST_PSYCOPG") == "2"
LENT_DATABASE = "TEST_POSTGRESQL_DATABASE"

if PSYCOPG2:
    sys.modules["psycopg"] = None  # type: ignore[assignment]  # Django then takes psycopg2

ALIAS = "store"


def configuration(database: Database, **more: Any) -> dict[str, Any]:
    """Return Django's description of a database."""
    return {
        "ENGINE": f"django.db.backends.{database.kind}",
        "NAME": database.name,
        "USER": database.user,
        "HOST": database.host,
        "PORT": database.port,
        **more,
    }


@pytest.fixture
def add_database(django: Callable[..., None]) -> Iterator[Callable[..., Any]]:
    """Add a database to Django's until the test ends: `add_database("alias", description)`."""
    from django.db import connections
    from django.db.utils import ConnectionHandler

    added: list[str] = []

    def add(alias: str, description: dict[str, Any]) -> Any:
        described = ConnectionHandler({"default": {}, alias: description})
        connections.settings[alias] = described.settings[alias]
        added.append(alias)
        return connections[alias]

    yield add
    for alias in added:
        if getattr(connections[alias], "pool", None):
            connections[alias].close_pool()
        connections[alias].close()
        del connections[alias]
        del connections.settings[alias]


@pytest.fixture(scope="session")
def postgresql_description(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Django's description of the PostgreSQL database."""
    if lent := os.environ.get(LENT_DATABASE):
        host, port, user, name = lent.split(" ")
        return configuration(Database("postgresql", host, int(port), user, name))
    return configuration(request.getfixturevalue("postgresql"))


@pytest.fixture
def describe(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Return Django's description of the database of a kind."""

    def description(kind: str) -> dict[str, Any]:
        if kind == "sqlite":
            return {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "store.sqlite3"}
        if kind == "postgresql":
            found: dict[str, Any] = request.getfixturevalue("postgresql_description")
            return found
        return configuration(request.getfixturevalue("mariadb"))

    return description


@pytest.fixture
def postgresql_store(describe: Any, add_database: Any) -> Any:
    """Django's connection to PostgreSQL, under the alias `store`."""
    return add_database(ALIAS, describe("postgresql"))


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def store(request: pytest.FixtureRequest, describe: Any, add_database: Any) -> Any:
    """Django's connection to each kind of database, under the alias `store`."""
    if PSYCOPG2 and request.param != "postgresql":
        pytest.skip("has nothing to do with psycopg2")
    # It stays open when a request begins, which closes connections that have no age.
    return add_database(ALIAS, {**describe(request.param), "CONN_MAX_AGE": None})


@pytest.fixture
def table(store: Any) -> Iterator[str]:
    """The name of a new table with the columns `id` (unique) and `name`."""
    name = f"t_{uuid.uuid4().hex[:8]}"
    with store.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {name} (id integer PRIMARY KEY, name varchar(20))")
    yield name
    store.close()
    with store.cursor() as cursor:
        cursor.execute(f"DROP TABLE {name}")


def in_request(django: Callable[..., None], action: Callable[[], Any]) -> Any:
    """Return what `action` returns when it is run by a view, within a request."""
    from django.http import HttpResponse
    from django.urls import path

    results = []

    def view(request: Any) -> Any:
        results.append(action())
        return HttpResponse("x")

    django(ROOT_URLCONF=urlconf(path("", view)), DEBUG_PROPAGATE_EXCEPTIONS=True)
    WsgiCall(environ()).read()
    return results[0]


@contextlib.contextmanager
def stored_sessions(store: Any, number: int) -> Iterator[Any]:
    """Give so many rows as a query set, in a table that is there for as long as the block lasts."""
    from django.contrib.sessions.models import Session

    with store.schema_editor() as editor:
        editor.create_model(Session)
    try:
        moment = datetime(2030, 1, 1, tzinfo=timezone.utc)
        sessions = (Session(session_key=str(n), expire_date=moment) for n in range(number))
        Session.objects.using(ALIAS).bulk_create(sessions)
        yield Session.objects.using(ALIAS).order_by("session_key")
    finally:
        with store.schema_editor() as editor:
            editor.delete_model(Session)


def outcome(action: Callable[[], Any]) -> Any:
    """Return the result of `action`, or the exception's class and message."""
    try:
        return action()
    except Exception as error:
        return type(error), str(error).partition("\n")[0]


class TestStatements:
    """What is counted."""

    def test_each_statement_by_alias_and_verb(self, store: Any, table: str, agent: Agent) -> None:
        """One count for each call of `execute` and `executemany`, under the first word."""
        with store.cursor() as cursor:
            agent.clear()
            cursor.execute(f"INSERT INTO {table} VALUES (%s, %s)", [1, "a"])
            cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s)", [(2, "b"), (3, "c")])
            cursor.execute(sql=f"select count(*) from {table}", params=[])
            assert cursor.fetchone() == (3,)
            cursor.execute(f"  /* why */ UPDATE {table} SET name = 'd' WHERE id = 1")
            cursor.execute(f"DELETE FROM {table} WHERE id = %s", (1,))
            cursor.execute("EXPLAIN SELECT 1")

        assert agent.counts("db") == {
            f"db.{ALIAS}.insert": 2,
            f"db.{ALIAS}.select": 1,
            f"db.{ALIAS}.update": 1,
            f"db.{ALIAS}.delete": 1,
            f"db.{ALIAS}.explain": 1,
        }

    def test_connections_commits_and_rollbacks(self, store: Any, table: str, agent: Agent) -> None:
        """Transactions count by how they end; a savepoint is a statement."""
        from django.db import transaction

        store.close()
        agent.clear()
        with transaction.atomic(using=ALIAS), store.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} VALUES (1, 'a')")
            with pytest.raises(LookupError), transaction.atomic(using=ALIAS):
                raise LookupError
        with pytest.raises(LookupError), transaction.atomic(using=ALIAS):
            raise LookupError

        counts = agent.counts("db.")
        assert counts[f"db.connect.{ALIAS}"] == 1
        assert counts[f"db.commit.{ALIAS}"] == 1
        assert counts[f"db.rollback.{ALIAS}"] == 1
        assert counts[f"db.{ALIAS}.savepoint"] == 1
        assert counts[f"db.{ALIAS}.rollback"] == 1

    def test_a_statement_that_fails(self, store: Any, table: str, agent: Agent) -> None:
        """It is counted, timed, and counted again under the class that Django raises."""
        from django.db import DatabaseError, IntegrityError

        with store.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} VALUES (1, 'a')")
            agent.clear()
            with pytest.raises(IntegrityError):
                cursor.execute(f"INSERT INTO {table} VALUES (1, 'b')")
            with pytest.raises(DatabaseError) as caught:
                cursor.execute("SELECT nobody FROM nowhere")

        assert agent.counts("db.error") == {
            f"db.error.{ALIAS}.IntegrityError": 1,
            f"db.error.{ALIAS}.{caught.type.__name__}": 1,
        }
        assert agent.counts(f"db.{ALIAS}") == {f"db.{ALIAS}.insert": 1, f"db.{ALIAS}.select": 1}

    def test_a_connection_that_fails(self, describe: Any, add_database: Any, agent: Agent) -> None:
        """A database that is not there is an error of `connect`."""
        from django.db import OperationalError

        nowhere = {**describe("postgresql"), "PORT": free_port()}
        connection = add_database("broken", nowhere)

        with pytest.raises(OperationalError):
            connection.ensure_connection()

        assert agent.counts("db.") == {
            "db.connect.broken": 1,
            "db.error.broken.OperationalError": 1,
        }

    def test_every_thread_and_alias(self, add_database: Any, agent: Agent) -> None:
        """Connections are a thread's own; all of them are counted."""
        from django.db import connections

        description = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        for alias in ("one", "two"):
            add_database(alias, description)

        def ask() -> None:
            for alias in ("one", "two"):
                with connections[alias].cursor() as cursor:
                    cursor.execute("SELECT 1")
            connections.close_all()

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert agent.counts("db.one.select") == {"db.one.select": 5}
        assert agent.counts("db.two.select") == {"db.two.select": 5}
        assert agent.counts("db.connect.two") == {"db.connect.two": 5}

    def test_the_debug_cursor_counts_once(
        self, store: Any, agent: Agent, django: Callable[..., None]
    ) -> None:
        """With DEBUG on, Django's cursor is another one, which calls the first."""
        django(DEBUG=True)
        with store.cursor() as cursor:
            agent.clear()
            cursor.execute("SELECT 1")
            cursor.execute("SELECT 2", [])

        assert agent.counts("db.") == {f"db.{ALIAS}.select": 2}
        assert [entry["sql"] for entry in store.queries[-2:]] == ["SELECT 1", "SELECT 2"]

    def test_a_request_has_its_sums(
        self, store: Any, agent: Agent, django: Callable[..., None]
    ) -> None:
        """Time in the database and the number of statements, of one request."""

        def ask() -> None:
            with store.cursor() as cursor:
                for _ in range(7):
                    cursor.execute("SELECT 1")

        store.ensure_connection()
        agent.clear()
        in_request(django, ask)

        assert agent.values("request.db_queries") == [7]
        sums = sum(agent.values(f"db.{ALIAS}.select"))
        assert agent.values("request.db") == [pytest.approx(sums, abs=0.01)]

    def test_what_a_new_connection_asks_is_not_summed_twice(
        self, add_database: Any, agent: Agent, django: Callable[..., None]
    ) -> None:
        """Statements within `connect` are a part of its time, and the request's sum stays a sum."""
        import time

        from django.db.backends.signals import connection_created

        connection = add_database(
            ALIAS, {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        )

        def asks(sender: Any, connection: Any, **details: Any) -> None:
            if connection.alias == ALIAS:
                connection.connection.create_function("pause", 0, lambda: time.sleep(0.05))
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pause()")

        connection_created.connect(asks)
        try:
            in_request(django, connection.ensure_connection)
        finally:
            connection_created.disconnect(asks)

        assert agent.values(f"db.{ALIAS}.select")[0] >= 50
        assert agent.values("request.db") == agent.values(f"db.connect.{ALIAS}")


class TestUntouched:
    """What the application and the driver see is what they saw without the agent."""

    @pytest.fixture(params=["defaults", "everything"])
    def start_agent(
        self,
        request: pytest.FixtureRequest,
        start_agent: Callable[..., Agent],
        tmp_path: Path,
    ) -> Callable[..., Agent]:
        """Start the agent, also with all that looks at a statement switched on."""
        if request.param == "defaults":
            return start_agent
        everything = {"DETAIL": "all", "SQL_COMMENT": "path,route,view,id,caller"}
        return lambda: start_agent(LOG=f"file://{tmp_path}/log", **everything)

    def test_the_drivers_cursor_is_the_drivers(
        self, store: Any, start_agent: Callable[..., Agent]
    ) -> None:
        """Drivers look at the C type of their cursors and connections."""

        def types() -> list[type]:
            with store.cursor() as cursor:
                return [type(cursor), type(cursor.cursor), type(store.connection)]

        without = types()
        start_agent()

        assert types() == without

    @pytest.mark.parametrize("within", ["request", "nothing"])
    def test_statements_of_every_type(
        self,
        within: str,
        store: Any,
        start_agent: Callable[..., Agent],
        django: Callable[..., None],
    ) -> None:
        """Text, bytes, lazy text, no text at all: the driver's answer or its refusal is the same."""
        from django.utils.functional import lazystr
        from django.utils.safestring import mark_safe

        class Text(str):
            __slots__ = ()

        statements: list[Any] = [
            "SELECT 1", Text("SELECT 1"), mark_safe("SELECT 1"), lazystr("SELECT 1"), b"SELECT 1",
            "", "  ", ";", "-- nothing", "/* nothing */", "SELECT '%'", "SELECT '%%'", None, 5, ["SELECT 1"],
            "\nSELECT 1;\n", "SELECT 1 -- end",
        ]  # fmt: skip
        if store.vendor == "postgresql":
            statements += composables()

        def answers() -> list[Any]:
            return [outcome(lambda sql=sql: ask(sql)) for sql in statements]  # type: ignore[misc]

        def ask(sql: Any) -> Any:
            with store.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else None

        store.ensure_connection()
        without = answers()
        agent = start_agent()

        assert (in_request(django, answers) if within == "request" else answers()) == without
        assert without[0] in ([(1,)], ((1,),))
        assert agent.counts(f"db.{ALIAS}")[f"db.{ALIAS}.select"] >= 6

    @pytest.mark.parametrize("within", ["request", "nothing"])
    def test_parameters_are_the_applications(
        self,
        within: str,
        store: Any,
        table: str,
        start_agent: Callable[..., Agent],
        django: Callable[..., None],
    ) -> None:
        """No parameters, none given, empty ones, iterators: each means what it meant."""

        def answers() -> list[Any]:
            with store.cursor() as cursor:
                statements = (
                    lambda: cursor.execute("SELECT '100%'"),
                    lambda: cursor.execute("SELECT '100%'", None),
                    lambda: cursor.execute("SELECT '100%%'", ()),
                    lambda: cursor.execute("SELECT '100%%'", []),
                    lambda: cursor.execute("SELECT %s", iter(["x"])),
                    lambda: cursor.execute("SELECT %(a)s", {"a": "x"}),
                )
                found = [
                    outcome(lambda run=run: (run(), cursor.fetchall())[1])  # type: ignore[misc]
                    for run in statements
                ]
                rows = ((number, "x") for number in range(5))
                found.append(
                    outcome(
                        lambda: (
                            cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s)", rows)
                            and None
                        )
                    )
                )
                found.append(len(list(rows)))
                cursor.execute(f"SELECT count(*) FROM {table}")
                found.append(cursor.fetchall())
                cursor.execute(f"DELETE FROM {table}")
                return found

        without = answers()
        start_agent()

        assert (in_request(django, answers) if within == "request" else answers()) == without
        assert without[0] in ([("100%",)], (("100%",),))

    @pytest.mark.parametrize("within", ["request", "nothing"])
    def test_captured_queries_are_the_applications(
        self,
        within: str,
        store: Any,
        table: str,
        start_agent: Callable[..., Agent],
        django: Callable[..., None],
    ) -> None:
        """`CaptureQueriesContext`, and with it `assertNumQueries`, sees neither more nor other SQL."""
        from django.test.utils import CaptureQueriesContext

        def captured() -> list[str]:
            with CaptureQueriesContext(store) as capture, store.cursor() as cursor:
                cursor.execute(f"INSERT INTO {table} VALUES (%s, %s)", [1, "it's 100%"])
                cursor.execute(f"SELECT name FROM {table}")
                cursor.executemany(f"DELETE FROM {table} WHERE id = %s", [(1,), (2,)])
            return [entry["sql"] for entry in capture]

        without = captured()
        start_agent()

        assert (in_request(django, captured) if within == "request" else captured()) == without
        assert len(without) == 3

    def test_execute_wrappers_are_called_as_ever(
        self, store: Any, agent: Agent, django: Callable[..., None]
    ) -> None:
        """A wrapper of the application's sees its own statement, once."""
        seen = []

        def wrapper(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
            seen.append((sql, params, many, sorted(context)))
            return execute(sql, params, many, context)

        def ask() -> Any:
            with store.execute_wrapper(wrapper), store.cursor() as cursor:
                cursor.execute("SELECT 1")
                return cursor.fetchone()

        store.ensure_connection()
        assert in_request(django, ask) == (1,)
        assert seen == [("SELECT 1", None, False, ["connection", "cursor"])]
        assert store.execute_wrappers == []

    def test_the_orm_streams_as_ever(self, store: Any, agent: Agent) -> None:
        """`QuerySet.iterator()`, by a server-side cursor where the database has them."""
        from django.db import transaction

        with stored_sessions(store, 250) as sessions:
            agent.clear()
            with transaction.atomic(using=ALIAS):
                rows = sessions.iterator(chunk_size=100)
                first = next(rows)
                rest = list(rows)

        assert first.session_key == "0"
        assert len(rest) == 249
        assert agent.counts(f"db.{ALIAS}.select") == {f"db.{ALIAS}.select": 1}

    @pytest.mark.parametrize("within", ["request", "nothing"])
    def test_server_side_cursors_of_postgresql(
        self,
        within: str,
        postgresql_store: Any,
        start_agent: Callable[..., Agent],
        django: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A cursor that streams has the driver's own type, and is named and declared as ever."""
        from django.db import transaction

        chunked_cursor = postgresql_store.chunked_cursor
        made: list[Any] = []

        def noted() -> Any:
            made.append(chunked_cursor())
            return made[-1]

        monkeypatch.setattr(postgresql_store, "chunked_cursor", noted)

        def seen() -> list[Any]:
            found: list[Any] = []
            with transaction.atomic(using=ALIAS):
                rows = sessions.iterator(chunk_size=2)
                found.append(next(rows).session_key)
                with postgresql_store.chunked_cursor() as named:
                    named.execute("SELECT is_holdable, is_scrollable, name FROM pg_cursors")
                    found += [(*row[:2], kind_of_name(row[2])) for row in named.fetchall()]
                    found.append(quoted(named.cursor))
                found += [row.session_key for row in rows]
            for cursor in made:
                own = cursor.cursor
                found += [type(cursor), type(own), kind_of_name(own.name)]
                found += [own.scrollable, own.withhold, own.itersize]
            made.clear()
            return found

        with stored_sessions(postgresql_store, 5) as sessions:
            without = seen()
            start_agent()

            assert (in_request(django, seen) if within == "request" else seen()) == without
        assert without[1:3] == [(False, False, "_django_curs_0_sync_0")] * 2
        types = [found for found in without if isinstance(found, type)]
        assert sum(issubclass(found, drivers_server_side_cursor()) for found in types) == 2

    def test_a_commit_that_fails(
        self, store: Any, table: str, start_agent: Callable[..., Agent]
    ) -> None:
        """A broken deferred constraint, or what MariaDB has instead, raises as ever, and is counted."""
        from django.db import transaction

        def fails() -> None:
            with transaction.atomic(using=ALIAS), store.cursor() as cursor:
                if store.vendor == "mysql":  # ends by XA END alone, and not by a rollback either
                    cursor.execute(f"XA START '{table}'")
                else:
                    cursor.execute(f"INSERT INTO {table}_part VALUES (1)")

        with referring_to(table, store):
            without = raised(fails)
            agent = start_agent()
            agent.clear()

            assert raised(fails) == without
        fails_twice = store.vendor == "mysql"
        name = "OperationalError" if fails_twice else "IntegrityError"
        assert (without[0][0].__module__, without[0][0].__name__) == ("django.db.utils", name)
        assert agent.counts("db.error") == {f"db.error.{ALIAS}.{name}": 2 if fails_twice else 1}
        assert agent.counts("db.commit") == {f"db.commit.{ALIAS}": 1}
        assert agent.counts("db.rollback") == {f"db.rollback.{ALIAS}": 1}

    def test_a_rollback_that_fails(self, store: Any, start_agent: Callable[..., Agent]) -> None:
        """On a connection that is closed it raises as ever, and is counted by what Django raises."""

        def fails() -> None:
            store.ensure_connection()
            store.connection.close()
            try:
                store.rollback()
            finally:
                store.connection = None

        without = raised(fails)
        agent = start_agent()
        agent.clear()

        assert raised(fails) == without
        name = {
            "sqlite": "ProgrammingError",
            "postgresql": "InterfaceError" if PSYCOPG2 else "OperationalError",
            "mysql": "OperationalError",
        }[store.vendor]
        assert (without[0][0].__module__, without[0][0].__name__) == ("django.db.utils", name)
        assert agent.counts("db.error") == {f"db.error.{ALIAS}.{name}": 1}
        assert agent.counts("db.rollback") == {f"db.rollback.{ALIAS}": 1}

    def test_an_executemany_that_fails(
        self, store: Any, table: str, start_agent: Callable[..., Agent]
    ) -> None:
        """A row that is there already raises as ever, and the statement counts as one that failed."""

        def fails() -> None:
            with store.cursor() as cursor:
                rows = [(1, "a"), (2, "b"), (1, "c")]
                cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s)", rows)

        with store.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} VALUES (1, 'z')")
        without = raised(fails)
        agent = start_agent()
        agent.clear()

        assert raised(fails) == without
        assert agent.counts("db.") == {
            f"db.{ALIAS}.insert": 1,
            f"db.error.{ALIAS}.IntegrityError": 1,
        }


@contextlib.contextmanager
def referring_to(table: str, store: Any) -> Iterator[None]:
    """Make a table whose rows must refer to rows of `table`, by the time that they are committed."""
    if store.vendor == "mysql":  # has no deferred constraints
        yield
        return
    with store.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE {table}_part"
            f" (whole integer REFERENCES {table} (id) DEFERRABLE INITIALLY DEFERRED)"
        )
    try:
        yield
    finally:
        with store.cursor() as cursor:
            cursor.execute(f"DROP TABLE {table}_part")


def kind_of_name(name: str) -> str:
    """Return a cursor's name without the numbers of its thread and of the cursor."""
    return re.sub(r"\d+", "0", name)


def drivers_server_side_cursor() -> type:
    """Return the driver's type of the cursors that Django streams by."""
    if PSYCOPG2:
        from psycopg2.extensions import cursor

        return cursor
    from psycopg import ServerCursor

    return ServerCursor


def quoted(cursor: Any) -> str:
    """Return a name as the driver quotes it, for which it wants a cursor of its own."""
    if PSYCOPG2:
        from psycopg2.extensions import quote_ident

        return quote_ident('a"b', cursor)
    from psycopg.sql import Identifier

    return Identifier('a"b').as_string(cursor)


def composables() -> list[Any]:
    """Return statements put together by psycopg."""
    if PSYCOPG2:
        from psycopg2 import sql
    else:
        from psycopg import sql
    select = sql.SQL("SELECT ")
    return [
        sql.SQL("SELECT 1"),
        select + sql.Literal("it's"),
        sql.SQL("SELECT {}").format(sql.Literal(5)),
        sql.Composed(
            [sql.Composed([select, sql.Literal(1)]), sql.SQL(" AS "), sql.Identifier("x")]
        ),
        sql.Composed([]),
    ]


class TestPostgresql:
    """What only PostgreSQL's drivers have."""

    def test_quoting_with_the_raw_cursor(self, postgresql_store: Any, agent: Agent) -> None:
        """The driver's own functions take the cursor beneath Django's."""
        with postgresql_store.cursor() as cursor:
            assert quoted(cursor.cursor) == '"a""b"'

    @pytest.mark.parametrize("whose", ["Django's", "the driver's"])
    def test_copy(
        self,
        whose: str,
        postgresql_store: Any,
        agent: Agent,
        django: Callable[..., None],
    ) -> None:
        """COPY goes to the driver's cursor, past Django's `execute`, in and out, with no comment."""

        def copied() -> list[Any]:
            with postgresql_store.cursor() as cursor:
                cursor.execute("CREATE TEMPORARY TABLE copied (id integer, name text)")
                own = cursor if whose == "Django's" else cursor.cursor
                if PSYCOPG2:
                    own.copy_expert("COPY copied FROM STDIN", io.StringIO("1\ta\n2\tb\n"))
                    out = io.StringIO()
                    own.copy_expert("COPY copied TO STDOUT", out)
                    text = out.getvalue()
                else:
                    with own.copy("COPY copied FROM STDIN") as copy:
                        copy.write("1\ta\n2\tb\n")
                    with own.copy("COPY copied TO STDOUT") as copy:
                        text = b"".join(copy).decode()
                cursor.execute("SELECT count(*) FROM copied")
                return [text, cursor.fetchone(), type(own)]

        counted = in_request(django, copied)

        assert counted[:2] == ["1\ta\n2\tb\n", (2,)]
        assert agent.counts(f"db.{ALIAS}") == {f"db.{ALIAS}.create": 1, f"db.{ALIAS}.select": 1}

    def test_procedures(self, postgresql_store: Any, agent: Agent) -> None:
        """`callproc` counts as a call, a failing one as an error, too."""
        from django.db import ProgrammingError

        with postgresql_store.cursor() as cursor:
            agent.clear()
            cursor.callproc("lower", ["ABC"])
            assert cursor.fetchone() == ("abc",)
            with pytest.raises(ProgrammingError):
                cursor.callproc("no_such_function")

        assert agent.counts("db.") == {
            f"db.{ALIAS}.call": 2,
            f"db.error.{ALIAS}.ProgrammingError": 1,
        }

    def test_composed_statements_have_a_verb(self, postgresql_store: Any, agent: Agent) -> None:
        """The verb is read off the parts, without a connection, and without rendering them."""
        with postgresql_store.cursor() as cursor:
            agent.clear()
            for statement in composables()[:4]:
                cursor.execute(statement)

        assert agent.counts("db.") == {f"db.{ALIAS}.select": 4}

    @pytest.mark.skipif(VERSION < (5, 1), reason="Django has pools from 5.1 on")
    def test_a_pool(self, describe: Any, add_database: Any, agent: Agent) -> None:
        """With psycopg's pool, connections go back and come again; the pool's threads are its own."""
        if PSYCOPG2:
            pytest.skip("psycopg2 has no pool that Django uses")
        pooled = {**describe("postgresql"), "OPTIONS": {"pool": {"min_size": 1, "max_size": 2}}}
        connection = add_database("pooled", pooled)
        for _ in range(3):
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
            connection.close()

        counts = agent.counts("db.")
        assert counts["db.pooled.select"] == 3
        assert counts["db.connect.pooled"] == 3
        assert connection.pool.get_stats()["requests_num"] == 3


def test_procedures_of_mariadb(describe: Any, add_database: Any, agent: Agent) -> None:
    """`callproc` reaches mysqlclient as it is, results and all."""
    if PSYCOPG2:
        pytest.skip("has nothing to do with psycopg2")
    connection = add_database(ALIAS, describe("mysql"))
    with connection.cursor() as cursor:
        cursor.execute("CREATE PROCEDURE twice(IN n int) SELECT 2 * n")
        try:
            agent.clear()
            cursor.callproc("twice", [21])
            assert cursor.fetchone() == (42,)
            while cursor.nextset():
                pass
            assert agent.counts("db.") == {f"db.{ALIAS}.call": 1}
        finally:
            cursor.execute("DROP PROCEDURE twice")


VERBS = {
    "SELECT 1": "select",
    "select\n1": "select",
    "Select*from t": OTHER,
    "SELECT": "select",
    "SELECT;": "select",
    "WITH x AS (SELECT 1) SELECT * FROM x": "with",
    "((SELECT 1))": "select",
    "VALUES(1)": "values",
    "/* a */ -- b\n /* c */ INSERT INTO t": "insert",
    "/*+ hint */ DELETE FROM t": "delete",
    "-- only a comment": OTHER,
    "/* never closed": OTHER,
    "": OTHER,
    " \n\t ": OTHER,
    ";;": OTHER,
    "SELECTED": OTHER,
    "FROBNICATE t": OTHER,
    "é": OTHER,
    "x" * 10_000: OTHER,
    b"UPDATE t": "update",
    bytearray(b"update t").decode(): "update",
}


@pytest.mark.parametrize("sql", VERBS, ids=lambda sql: repr(sql[:30]))
def test_the_verb_is_the_first_word(sql: Any) -> None:
    """Brackets and comments are passed over, and no other word becomes a name."""
    assert django_db.verb_of(sql) == VERBS[sql]


def test_a_lazy_statement_is_not_evaluated() -> None:
    """Django's lazy objects are the application's to evaluate."""
    from django.utils.functional import SimpleLazyObject, lazystr

    def fail() -> str:
        raise AssertionError("evaluated")

    assert django_db.verb_of(SimpleLazyObject(fail)) == OTHER
    assert django_db.verb_of(lazystr("SELECT 1")) == OTHER


def test_a_template_string_has_a_verb() -> None:
    """Python 3.14's t-strings keep their text in `strings`."""

    class Template:
        strings = ("SELECT ", "")

    assert django_db.verb_of(Template()) == "select"


def test_with_psycopg2(postgresql: Database) -> None:
    """All tests of this file that use PostgreSQL pass with psycopg2, too."""
    if PSYCOPG2:
        pytest.skip("these are they")
    lent = f"{postgresql.host} {postgresql.port} {postgresql.user} {postgresql.name}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(
        [*command, "-k", "postgresql or a_connection_that_fails"],
        env=clean_environment(**{"TEST_PSYCOPG": "2", LENT_DATABASE: lent}),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
