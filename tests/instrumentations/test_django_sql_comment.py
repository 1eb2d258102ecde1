"""SQL comments as the databases get them: read on the server's side, on PostgreSQL, MariaDB and SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from introspect.agent import frames, work
from introspect.agent.correlation import Inbound
from introspect.bootstrap import start
from introspect.instrumentations import django_sql_comment
from tests.helpers.databases import Database

ID = "9110dbba-6dd9-4d1c-8828-11be81ac0561"
COMMENT = "/* /2014/pycon/ */"


class Unit(work.Work):
    """A unit of work whose comment says what the test wants."""

    kind = "test"

    def __init__(self, *texts: str) -> None:
        super().__init__(Inbound(ID), "")
        self.texts = list(texts)

    def comment_parts(self, parts: tuple[str, ...]) -> list[str]:
        """Answer for each part that has a text; `route` stands for those of low cardinality."""
        made = self.texts if "path" in parts else []
        made = [*made, *(["books/_int:pk_/"] if "route" in parts else [])]
        return made + super().comment_parts(parts)


def enter(*texts: str) -> Unit:
    """Begin a unit of work, by default that of a request to /2014/pycon/."""
    unit = Unit(*(texts or ("/2014/pycon/",)))
    work.current.set(unit)
    return unit


class Server:
    """A database with the agent before it, and a second way in to see what it was sent."""

    def __init__(self, name: str, connection: Any) -> None:
        self.name = name
        self.connection = connection
        connection.ensure_connection()

    def run(self, sql: Any, parameters: Any = None) -> Any:
        """Execute one statement and return its first row, if it has rows."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchone() if cursor.description else None

    def with_comment(self, comment: str, sql: str) -> str:
        """Return a statement with its comment, as the server gets it."""
        return f"{comment} {sql}"

    @contextlib.contextmanager
    def seen(self) -> Iterator[list[str]]:
        """Give the statements that the server itself says it got within the block."""
        raise NotImplementedError


class PostgreSQL(Server):
    """Asked by a second connection for what the first one's latest statement is."""

    @contextlib.contextmanager
    def seen(self) -> Iterator[list[str]]:
        """See `Server.seen`."""
        import psycopg

        settings = self.connection.settings_dict
        found: list[str] = []
        with psycopg.connect(
            host=settings["HOST"], port=settings["PORT"], user=settings["USER"],
            dbname=settings["NAME"], autocommit=True,
        ) as watching:  # fmt: skip
            own = self.connection.connection
            pid = own.get_backend_pid() if self.name == "psycopg2" else own.info.backend_pid
            yield found
            row = watching.execute(
                "SELECT query FROM pg_stat_activity WHERE pid = %s", [pid]
            ).fetchone()
            assert row is not None
            found.append(row[0])


class MariaDB(Server):
    """Asked for its general log."""

    @contextlib.contextmanager
    def seen(self) -> Iterator[list[str]]:
        """See `Server.seen`."""
        import MySQLdb

        settings = self.connection.settings_dict
        found: list[str] = []
        with contextlib.closing(
            MySQLdb.connect(host=settings["HOST"], port=settings["PORT"], user="root")
        ) as watching:
            cursor = watching.cursor()
            # The log is the server's, which others may be asking as well: those who run these tests
            # with another Python at the same time. The lock goes with the connection.
            cursor.execute("SELECT GET_LOCK('introspect_general_log', 300)")
            assert cursor.fetchone() == (1,)
            cursor.execute("SELECT @@global.log_output, @@global.general_log")
            before = cursor.fetchone()
            cursor.execute("SET GLOBAL log_output = 'TABLE'")
            cursor.execute("SET GLOBAL general_log = 1")
            thread = self.connection.connection.thread_id()
            cursor.execute(
                "SELECT COUNT(*) FROM mysql.general_log WHERE thread_id = %s"
                " AND command_type = 'Query'",
                [thread],
            )
            already = cursor.fetchone()[0]
            try:
                yield found
            finally:
                cursor.execute("SET GLOBAL general_log = %s", [before[1]])
                cursor.execute("SET GLOBAL log_output = %s", [before[0]])
                cursor.execute(
                    "SELECT argument FROM mysql.general_log WHERE thread_id = %s"
                    " AND command_type = 'Query' ORDER BY event_time LIMIT 100000 OFFSET %s",
                    [thread, already],
                )
                found += [row[0] for row in cursor.fetchall()]


class SQLite(Server):
    """Asked by its trace callback, which the library calls with what it runs."""

    def with_comment(self, comment: str, sql: str) -> str:
        """Return it with the comment behind, as of Python 3.10."""
        in_order = (sql, comment) if sys.version_info < (3, 11) else (comment, sql)
        return " ".join(in_order)

    @contextlib.contextmanager
    def seen(self) -> Iterator[list[str]]:
        """See `Server.seen`."""
        found: list[str] = []
        connection: sqlite3.Connection = self.connection.connection
        connection.set_trace_callback(found.append)
        try:
            yield found
        finally:
            connection.set_trace_callback(None)


def wrapper(kind: str, alias: str = "default", **settings: Any) -> Any:
    """Return Django's connection of a kind of database, made as `django.db.connections` does."""
    from django.db import connections
    from django.db.utils import load_backend

    given_ = {"default": {"ENGINE": f"django.db.backends.{kind}", **settings}}
    configured = type(connections)(given_).configure_settings(given_)["default"]
    return load_backend(configured["ENGINE"]).DatabaseWrapper(configured, alias)


def described(database: Database) -> dict[str, Any]:
    """Return Django's settings for a database."""
    return {
        "NAME": database.name, "USER": database.user, "HOST": database.host, "PORT": database.port,
    }  # fmt: skip


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def server(request: pytest.FixtureRequest, django: object) -> Iterator[Server]:
    """Each of the three databases in turn; the agent is not started yet."""
    if request.param == "sqlite":
        made: Server = SQLite("sqlite", wrapper("sqlite3", NAME=":memory:"))
    elif request.param == "mariadb":
        database = request.getfixturevalue("mariadb")
        made = MariaDB("mariadb", wrapper("mysql", **described(database)))
    else:
        database = request.getfixturevalue("postgresql")
        made = PostgreSQL("postgresql", wrapper("postgresql", **described(database)))
    yield made
    made.connection.close()


@pytest.fixture
def postgres(postgresql: Database, django: object) -> Iterator[PostgreSQL]:
    """PostgreSQL alone, by psycopg 3."""
    made = PostgreSQL("postgresql", wrapper("postgresql", **described(postgresql)))
    yield made
    made.connection.close()


@pytest.fixture
def maria(mariadb: Database, django: object) -> Iterator[MariaDB]:
    """MariaDB alone."""
    made = MariaDB("mariadb", wrapper("mysql", **described(mariadb)))
    yield made
    made.connection.close()


Start = Callable[..., Any]


def last(seen: list[str]) -> str:
    """Return the last statement seen."""
    return seen[-1].strip()


@pytest.mark.parametrize(
    ("setting", "texts", "expected"),
    [
        ("path", ["/2014/pycon/"], COMMENT),
        ("path", ["manage.py send_subscriptions 1000"], "/* manage.py send_subscriptions 1000 */"),
        ("path", ["task.name"], "/* task.name */"),
        ("id", [], f"/* {ID} */"),
        ("path,id", ["/2014/pycon/"], f"/* /2014/pycon/ {ID} */"),
        ("route", [], "/* books/_int:pk_/ */"),
    ],
)
def test_what_the_server_gets(
    start_agent: Start, server: Server, setting: str, texts: list[str], expected: str
) -> None:
    """The comment stands before the statement, of SQLite's up to Python 3.10 behind it, as the server itself shows it."""
    start_agent(SQL_COMMENT=setting)
    enter(*texts)

    with server.seen() as seen:
        assert server.run("SELECT 1") == (1,)

    assert last(seen) == server.with_comment(expected, "SELECT 1")


@pytest.mark.parametrize("sql", ["SELECT 1", "  select 1"])
def test_each_way_alone(start_agent: Start, server: Server, sql: Any) -> None:
    """Statements have comments where timing them is disabled, and are timed where comments are."""
    agent = start_agent(DISABLE="django_db")
    enter()
    with server.seen() as seen:
        assert server.run(sql) == (1,)
    assert last(seen) == server.with_comment(COMMENT, sql).strip()
    assert agent.counts("db") == {}

    start.stop()
    start_agent(DISABLE="django_sql_comment")
    unit = enter()
    with server.seen() as seen:
        assert server.run(sql) == (1,)
    assert "/*" not in last(seen)
    unit.send(0.0)
    assert agent.counts("db.") == {"db.default.select": 1}


def test_several_aliases(start_agent: Start, django: object) -> None:
    """Each alias has what is set for it, whatever another one has had within the same unit."""
    start_agent(SQL_COMMENT="default=path,id;replica=off")
    enter()
    for alias, comment in [
        ("default", f"/* /2014/pycon/ {ID} */"),
        ("replica", None),
        ("another", COMMENT),
        ("default", f"/* /2014/pycon/ {ID} */"),
    ]:
        made = SQLite("sqlite", wrapper("sqlite3", NAME=":memory:"))
        made.connection.alias = alias
        with made.seen() as seen:
            assert made.run("SELECT 1") == (1,)
        made.connection.close()

        assert last(seen) == (made.with_comment(comment, "SELECT 1") if comment else "SELECT 1")


def test_nothing_behind_the_end_of_a_unit(start_agent: Start, django: object) -> None:
    """What a thread runs when its request has ended says nothing of it."""
    start_agent()
    made = SQLite("sqlite", wrapper("sqlite3", NAME=":memory:"))
    unit = enter()
    with made.seen() as seen:
        made.run("SELECT 1")
        unit.finish()
        made.run("SELECT 2")
    made.connection.close()

    assert seen[-2:] == [made.with_comment(COMMENT, "SELECT 1"), "SELECT 2"]


def test_suffix(start_agent: Start, server: Server) -> None:
    """At the end of a statement the comment stands before its semicolon."""
    start_agent(SQL_COMMENT_POSITION="suffix")
    enter()

    for sql, expected in [
        ("SELECT 1", f"SELECT 1 {COMMENT}"),
        ("SELECT 1 ; ", f"SELECT 1 {COMMENT} ;"),
    ]:
        with server.seen() as seen:
            assert server.run(sql) == (1,)
        assert " ".join(last(seen).rstrip(" ;").split()) == expected.rstrip(" ;")


def test_percent_signs_and_parameters(start_agent: Start, server: Server) -> None:
    """Statements without parameters keep their percent signs, statements with them their values."""
    start_agent(SQL_COMMENT="path,caller")
    enter("/100%s/%(x)s/%/")

    assert server.run("SELECT '100%'") == ("100%",)
    assert server.run("SELECT %s", ["50%"]) == ("50%",)
    assert server.run("SELECT '100%%' , %s", [1]) == ("100%", 1)
    assert server.run("SELECT %(a)s", {"a": 7}) == (7,)


def test_empty_statements(start_agent: Start, postgres: PostgreSQL) -> None:
    """A statement that says nothing is left as it is, whatever its database thinks of that."""
    for position in ("prefix", "suffix"):
        start_agent(SQL_COMMENT_POSITION=position)
        enter()
        for empty in ("", "   ", b"", b" \n"):
            postgres.run(empty)


def test_executemany(start_agent: Start, server: Server) -> None:
    """`executemany` carries the comment in each statement that it becomes."""
    start_agent()
    work.leave()
    server.run("CREATE TEMPORARY TABLE pair (a int, b int)")
    enter()

    with server.seen() as seen, server.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO pair (a, b) VALUES (%s, %s)", [(1, 2), (3, 4)])

    inserts = [statement for statement in seen if "INTO pair" in statement]
    assert inserts
    assert all("2014/pycon" in statement for statement in inserts)
    assert server.run("SELECT COUNT(*) FROM pair") == (2,)


def test_mariadbs_bulk_insert_stays_one_statement(start_agent: Start, maria: MariaDB) -> None:
    """The driver still makes one statement of many rows, which is what makes it fast."""
    start_agent()
    maria.run("CREATE TEMPORARY TABLE pair (a int, b varchar(100))")
    enter()
    rows = [(number, "it's 100%") for number in range(1000)]

    for sql in ("INSERT INTO pair (a, b) VALUES (%s, %s)", "\n  insert into pair VALUES (%s, %s)"):
        with maria.seen() as seen, maria.connection.cursor() as cursor:
            assert cursor.executemany(sql, rows) == 1000

        inserts = [statement for statement in seen if "insert" in statement.lower()]
        assert len(inserts) == 1
        assert COMMENT in inserts[0][:60]
    assert maria.run("SELECT COUNT(*) FROM pair") == (2000,)


def test_an_executemany_that_begins_with_a_comment(start_agent: Start, maria: MariaDB) -> None:
    """MySQL's comments do not nest: what begins with one of the application's is left as it is."""
    start_agent()
    maria.run("CREATE TEMPORARY TABLE one (a int)")
    enter()
    with maria.connection.cursor() as cursor:
        for sql in (
            "/* nightly */ INSERT INTO one VALUES (%s)",
            "INSERT/* a b */INTO one VALUES (%s)",
        ):
            cursor.executemany(sql, [(1,), (2,)])

    assert maria.run("SELECT COUNT(*) FROM one") == (4,)


def test_a_unit_that_ends_in_the_midst(start_agent: Start, django: object) -> None:
    """Where a unit ends while another thread of it makes its comment, nobody else's statements have it."""

    class Ending(Unit):
        def comment_parts(self, parts: tuple[str, ...]) -> list[str]:
            self.finish()
            return super().comment_parts(parts)

    start_agent()
    made = SQLite("sqlite", wrapper("sqlite3", NAME=":memory:"))
    work.current.set(Ending("/orders/17"))
    with made.seen() as seen:
        made.run("SELECT 1")
        work.leave()
        made.run("SELECT 2")
    made.connection.close()

    assert seen[-1] == "SELECT 2"


def test_a_comment_is_made_once_for_a_statement(
    start_agent: Start, django: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack is walked once for each statement that says its caller."""
    calls: list[int] = []
    monkeypatch.setattr(frames, "caller", lambda: calls.append(1) or "here:1")
    start_agent(SQL_COMMENT="caller")
    made = SQLite("sqlite", wrapper("sqlite3", NAME=":memory:"))
    enter()
    calls.clear()
    with made.seen() as seen:
        for _ in range(3):
            made.run("SELECT 1")
    made.connection.close()

    assert len(calls) == 3
    assert last(seen) == made.with_comment("/* here:1 */", "SELECT 1")


def test_bulk_create(start_agent: Start, server: Server) -> None:
    """A statement of many rows, as `bulk_create` makes them, carries the comment."""
    start_agent()
    enter()
    rows = [(number,) for number in range(500)]
    server.run("CREATE TEMPORARY TABLE one (a int)")

    with server.seen() as seen:
        placeholders = ", ".join(["(%s)"] * len(rows))
        server.run(f"INSERT INTO one VALUES {placeholders}", [row[0] for row in rows])

    values = ", ".join(f"({number})" for number in range(len(rows)))
    # PostgreSQL shows the first 1023 bytes.
    assert server.with_comment(COMMENT, f"INSERT INTO one VALUES {values}").startswith(last(seen))
    assert COMMENT in last(seen)


def test_bytes(start_agent: Start, server: Server) -> None:
    """Statements in bytes are commented where the driver takes bytes."""
    if server.name == "sqlite":
        pytest.skip("sqlite3 takes no bytes")
    for position in ("prefix", "suffix"):
        start_agent(SQL_COMMENT_POSITION=position)
        enter()
        with server.seen() as seen:
            assert server.run(b"SELECT 1") == (1,)
        assert COMMENT in last(seen)


def test_composed_of_psycopg3(start_agent: Start, postgres: PostgreSQL) -> None:
    """`SQL` and `Composed` of psycopg 3 are commented and stay what they are."""
    from psycopg import sql

    start_agent()
    for statement in (
        sql.SQL("SELECT 1 AS a"),
        sql.SQL("SELECT {} AS {}").format(sql.Literal(1), sql.Identifier("a")),
        sql.SQL("SELECT %s::int AS a"),
    ):
        enter()
        with postgres.seen() as seen:
            parameters = [1] if "%s" in repr(statement) else None
            assert postgres.run(statement, parameters) == (1,)
        assert last(seen).startswith(f"{COMMENT} SELECT ")


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python 3.14 has template strings")
def test_template_strings(start_agent: Start, postgres: PostgreSQL) -> None:
    """Template strings are commented where psycopg takes them."""
    start_agent()
    enter()
    template = eval('(lambda value: t"SELECT {value}")(1)')

    with postgres.seen() as seen:
        assert postgres.run(template) == (1,)

    assert last(seen).startswith(f"{COMMENT} SELECT ")


PSYCOPG2 = """
import sys
sys.modules["psycopg"] = None
import django
from django.conf import settings
settings.configure(USE_TZ=True, DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": sys.argv[1], "USER": "postgres",
    "HOST": sys.argv[2], "PORT": sys.argv[3]}}, DEBUG=True)
django.setup()
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from introspect.agent import work
from introspect.agent.correlation import Inbound
from introspect.bootstrap.start import start
start()
class Unit(work.Work):
    kind = "test"
    def comment_parts(self, parts): return ["/2014/pycon/"]
work.current.set(Unit(Inbound("0123456789")))
from psycopg2 import sql
from psycopg2.extensions import quote_ident
OWN = "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()"
C = "/* /2014/pycon/ */ "
with connection.cursor() as cursor:
    cursor.execute(OWN); assert cursor.fetchone() == (C + OWN,)
    cursor.execute(OWN.encode()); assert cursor.fetchone() == (C + OWN,)
    cursor.execute(sql.SQL(OWN)); assert cursor.fetchone() == (C + OWN,)
    cursor.execute(sql.SQL("{} AND {} = 1").format(sql.SQL(OWN), sql.Literal(1)))
    assert cursor.fetchone() == (f"{C}{OWN} AND 1 = 1",)
    cursor.execute("SELECT %s", ["100%"]); assert cursor.fetchone() == ("100%",)
    assert quote_ident("a b", cursor.cursor) == '"a b"'
with transaction.atomic(), connection.chunked_cursor() as cursor:
    cursor.execute("SELECT statement FROM pg_cursors")
    assert C + "SELECT statement FROM pg_cursors" in cursor.fetchone()[0]
with CaptureQueriesContext(connection) as captured:
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s", [1])
        cursor.executemany("SELECT %s", [[1], [2]])
texts = [query["sql"] for query in captured.captured_queries]
assert texts[0] == "SELECT 1", texts
assert not any("pycon" in text for text in texts), texts
print("right")
"""


def test_psycopg2(postgresql: Database) -> None:
    """With psycopg 2: text, bytes, compositions, server-side cursors, debug tools, and its own functions."""
    from tests.agent.test_outputs import in_process

    done = in_process(
        PSYCOPG2, postgresql.name, postgresql.host, str(postgresql.port), INTROSPECT_STATSD="off"
    )

    assert done.stdout == "right\n", done.stderr


def test_server_side_cursors(start_agent: Start, postgres: PostgreSQL) -> None:
    """A server-side cursor's query carries the comment."""
    start_agent()
    enter()
    own = "SELECT statement FROM pg_cursors"

    postgres.connection.set_autocommit(False)
    with postgres.connection.chunked_cursor() as cursor:
        cursor.execute(own)
        found = cursor.fetchone()[0]
    postgres.connection.rollback()

    assert f"{COMMENT} {own}" in found


def prepared(server: PostgreSQL) -> int:
    """Return how many statements the server has prepared for its connection."""
    with server.connection.connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM pg_prepared_statements", prepare=False)
        return int(cursor.fetchone()[0])


def test_nothing_is_prepared_under_the_default(start_agent: Start, postgres: PostgreSQL) -> None:
    """Under Django's default psycopg prepares nothing, whatever the comments say."""
    start_agent(SQL_COMMENT="path,id")
    for number in range(30):
        enter(f"/books/{number}/")
        postgres.run("SELECT %s", [number])

    assert prepared(postgres) == 0


def test_prepared_statements_are_found_again(start_agent: Start, postgresql: Database) -> None:
    """On a connection that prepares, only parts of few values are sent: the count stays flat."""
    options = {"OPTIONS": {"prepare_threshold": 0, "server_side_binding": True}}
    server = PostgreSQL("postgresql", wrapper("postgresql", **described(postgresql), **options))
    start_agent(SQL_COMMENT="path,id,route")
    counts = []
    try:
        for number in range(30):
            enter(f"/books/{number}/")
            with server.seen() as seen:
                server.run("SELECT %s::int", [number])
            assert last(seen).startswith("/* books/_int:pk_/ */ SELECT ")
            counts.append(prepared(server))

        assert counts[0] == counts[-1] > 0
    finally:
        server.connection.close()


class AskAround:
    """Middleware that asks the database before and behind the view, for the test below."""

    connection: Any = None

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        """Ask, answer, ask."""
        self.connection.cursor().execute("SELECT 'before'")
        response = self.get_response(request)
        self.connection.cursor().execute("SELECT 'behind'")
        return response


def test_route_and_view_once_they_are_known(
    start_agent: Start, django: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statements ahead of the URL's resolution say nothing of it, those from then on do."""
    from django.http import HttpResponse
    from django.urls import path

    from tests.instrumentations.handlers import fetch_wsgi, urlconf

    server = SQLite("sqlite", wrapper("sqlite3", NAME=":memory:"))
    monkeypatch.setattr(AskAround, "connection", server.connection)

    def view(request: Any, number: int) -> Any:
        server.run("SELECT 'view'")
        return HttpResponse("x")

    django(
        ROOT_URLCONF=urlconf(path("books/<int:number>/", view)),
        MIDDLEWARE=[f"{__name__}.AskAround"],
    )
    start_agent(SQL_COMMENT="route,view")
    with server.seen() as seen:
        assert fetch_wsgi("/books/7/").status == 200
    server.connection.close()

    own = f"{__name__}.{view.__qualname__}".replace("<", "_").replace(">", "_")
    said = f"/* books/_int:number_/ {own} */"
    assert seen == [
        "SELECT 'before'",
        server.with_comment(said, "SELECT 'view'"),
        server.with_comment(said, "SELECT 'behind'"),
    ]


class OtherDatabase:
    """What a comment asks of a connection, as Django's of Oracle and Microsoft's of SQL Server answer it."""

    alias = "default"
    connection = object()

    def __init__(self, vendor: str) -> None:
        self.vendor = vendor


@pytest.mark.parametrize("vendor", ["oracle", "microsoft"])
def test_databases_that_keep_plans_by_text(start_agent: Start, vendor: str) -> None:
    """On Oracle and SQL Server only the parts of few values are sent, on Oracle before the statement in any case."""
    start_agent(SQL_COMMENT="path,id,route,caller", SQL_COMMENT_POSITION="suffix")

    placed = django_sql_comment.comment_for(enter(), OtherDatabase(vendor), {})

    assert re.fullmatch(
        r"/\* books/_int:pk_/ (\S+/)?test_django_sql_comment\.py:\d+ \*/", placed.text
    )
    assert placed.is_suffix == (vendor != "oracle")
    start.stop()
    start_agent(SQL_COMMENT="path,id")
    assert django_sql_comment.comment_for(enter(), OtherDatabase(vendor), {}).text == ""


def test_by_alias(start_agent: Start, postgresql: Database, django: object) -> None:
    """Each alias has the parts that the setting gives it, or none."""
    start_agent(SQL_COMMENT="default=path,id;replica=off")
    enter()
    for alias, expected in [("default", f"/* /2014/pycon/ {ID} */ SELECT 1"), ("replica", "SELECT 1"),
                            ("other", f"{COMMENT} SELECT 1")]:  # fmt: skip
        server = PostgreSQL(alias, wrapper("postgresql", alias, **described(postgresql)))
        try:
            with server.seen() as seen:
                server.run("SELECT 1")
            assert last(seen) == expected
        finally:
            server.connection.close()


class Oracle(SQLite):
    """Django's connection to SQLite that says it is one to Oracle, which is not to be had here."""

    def __init__(self) -> None:
        super().__init__("oracle", wrapper("sqlite3", NAME=":memory:"))
        self.connection.vendor = "oracle"


def test_oracle(start_agent: Start, django: object) -> None:
    """Django strips a slash from the end of a statement for Oracle, which caches plans by the text."""
    start_agent(SQL_COMMENT="path,id,route", SQL_COMMENT_POSITION="suffix")
    enter()
    server = Oracle()
    try:
        with server.seen() as seen:
            server.run("SELECT 1")
        assert last(seen) == "/* books/_int:pk_/ */ SELECT 1"
    finally:
        server.connection.close()


def test_caller(start_agent: Start, server: Server) -> None:
    """`caller` names this very line of the code that asked, also for another line of the same unit."""
    start_agent(SQL_COMMENT="caller")
    enter()

    places = []
    for _ in range(2):
        with server.seen() as seen:
            number = sys._getframe().f_lineno + 1
            server.connection.cursor().execute("SELECT 1")
        places.append((last(seen), number))
    with server.seen() as seen:
        number = sys._getframe().f_lineno + 1
        server.connection.cursor().execute("SELECT 1")
    places.append((last(seen), number))

    for statement, number in places:
        assert statement == server.with_comment(here(number), "SELECT 1")


def here(number: int) -> str:
    """Return the comment that names a line of this file."""
    return f"/* {frames._short(__file__, __name__)}:{number} */"


def test_the_caller_of_a_transaction(start_agent: Start, django: object) -> None:
    """`BEGIN` is asked for where a function in `transaction.atomic` is called, not by `contextlib`."""
    from django.db import connection, transaction

    @transaction.atomic
    def sell() -> int:
        connection.cursor().execute("SELECT 1")
        return sys._getframe().f_lineno - 1

    start_agent(SQL_COMMENT="caller")
    enter()
    server = SQLite("default", connection)
    with server.seen() as seen:
        within = sell()
        begun = sys._getframe().f_lineno - 1

    begin, select, *_ = (statement.strip() for statement in seen)
    assert begin == server.with_comment(here(begun), "BEGIN")
    assert select == server.with_comment(here(within), "SELECT 1")


def test_no_caller(start_agent: Start, server: Server) -> None:
    """In a thread of `asgiref`'s, as the async ORM has it, no line of the application is known: that part is left out."""
    server.connection.inc_thread_sharing()
    cursor = server.connection.cursor()
    for setting, expected in [("path,caller", COMMENT), ("caller", "")]:
        start_agent(SQL_COMMENT=setting)
        enter()
        with server.seen() as seen:
            asyncio.run(sync_to_async(cursor.execute)("SELECT 1"))
        assert last(seen) == (server.with_comment(expected, "SELECT 1") if expected else "SELECT 1")
        start.stop()


def test_outside_a_unit_and_after_it(start_agent: Start, server: Server) -> None:
    """Outside any unit of work, and once it has ended, statements are what the application wrote."""
    start_agent()
    work.leave()
    with server.seen() as seen:
        server.run("SELECT 1")
    assert last(seen) == "SELECT 1"

    enter().finish()
    with server.seen() as seen:
        server.run("SELECT 2")
    assert last(seen) == "SELECT 2"


def test_off(start_agent: Start, server: Server) -> None:
    """Off, no statement is touched and nothing of this instrumentation is patched."""
    from introspect.agent import patching

    start_agent(SQL_COMMENT="off")
    enter()
    with server.seen() as seen:
        server.run("SELECT 1")

    assert last(seen) == "SELECT 1"
    targets = {patch.target for patch in django_sql_comment.PATCHES}
    assert not targets & patching.status().keys()


@pytest.mark.parametrize("position", ["prefix", "suffix"])
def test_debug_tools_see_the_applications_sql(
    start_agent: Start, server: Server, position: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`connection.queries`, `assertNumQueries` and the SQL log show what the application wrote."""
    from django.test.utils import CaptureQueriesContext

    start_agent(SQL_COMMENT="path,id", SQL_COMMENT_POSITION=position)
    enter()
    server.run("CREATE TEMPORARY TABLE pair (a int, b int)")

    with (
        caplog.at_level(logging.DEBUG, "django.db.backends"),
        CaptureQueriesContext(server.connection) as captured,
        server.connection.cursor() as cursor,
    ):
        cursor.execute("SELECT 1")
        cursor.execute("SELECT %s", [1])
        cursor.execute("SELECT 1 ;")
        cursor.executemany("INSERT INTO pair (a, b) VALUES (%s, %s)", [(1, 2), (3, 4)])

    texts = [query["sql"] for query in captured.captured_queries]
    assert len(captured) == 4
    assert texts[0] == "SELECT 1"
    assert texts[2] == "SELECT 1 ;"
    assert "pycon" not in "".join(texts)
    assert ID not in caplog.text
    assert "pycon" not in caplog.text


HOSTILE = st.text(max_size=80) | st.from_regex(
    r"[-/*! +%?'\"\\;\n#$(){}\x00`:@é]{1,60}", fullmatch=True
)


@pytest.mark.parametrize("position", ["prefix", "suffix"])
def test_hostile_paths(start_agent: Start, server: Server, position: str) -> None:
    """Whatever a client writes in a path, the server gets one comment and the very same statement."""
    start_agent(SQL_COMMENT="path", SQL_COMMENT_POSITION=position)
    form = re.compile(r"/\* [A-Za-z0-9/_.:=,-]+(?: [A-Za-z0-9/_.:=,-]+)* \*/")

    @examples(deadline=None, database=None, max_examples=60)
    @given(HOSTILE)
    @example("/*/ DROP TABLE x; --")
    @example("/*!50000 SELECT 2 */")
    @example("/*+ MAX_EXECUTION_TIME(1) */")
    @example("/" + "a" * 5000)
    @example("'; SELECT 2; --")
    @example("/%s/%(a)s/?/$1/:a/")
    @example("/\ud800/")
    def check(path: str) -> None:
        enter(f"/{path}")
        with server.seen() as seen:
            assert server.run("SELECT %s", ["value"]) == ("value",)
        statement = last(seen)
        comments = form.findall(statement)
        assert len(comments) == 1
        assert len(comments[0]) <= 256
        rest = statement.replace(comments[0], "").strip()
        assert rest in ("SELECT 'value'", "SELECT $1", "SELECT ?")

    check()


def test_a_hostile_path_cannot_reach_a_table(start_agent: Start, server: Server) -> None:
    """A path that tries to break out of the comment drops nothing."""
    start_agent()
    enter()
    server.run("CREATE TEMPORARY TABLE victim (a int)")
    for path in ("*/ DROP TABLE victim; /*", "\n*/\nDROP TABLE victim;--", "*/;DELETE FROM victim"):
        enter(path)
        server.run("SELECT COUNT(*) FROM victim")


def test_row_counts_and_transactions(start_agent: Start, server: Server) -> None:
    """`rowcount`, `lastrowid` and transactions are what they are without comments."""
    start_agent()
    enter()
    server.run("CREATE TEMPORARY TABLE pair (a int)")
    with server.connection.cursor() as cursor:
        cursor.execute("INSERT INTO pair VALUES (1), (2)")
        assert cursor.rowcount == 2
        cursor.execute("UPDATE pair SET a = a + 1")
        assert cursor.rowcount == 2
        server.connection.set_autocommit(False)
        cursor.execute("DELETE FROM pair")
        assert cursor.rowcount == 2
        server.connection.rollback()
        server.connection.set_autocommit(True)
        if server.name != "mariadb":
            cursor.execute("SELECT COUNT(*) FROM pair")
            assert cursor.fetchone() == (2,)


def test_lazy_sql_is_not_evaluated(start_agent: Start, server: Server) -> None:
    """What a driver refuses it refuses in the same words; nothing of ours evaluates it."""
    start_agent()
    enter()

    class Odd:
        def __str__(self) -> str:
            raise AssertionError("evaluated")

        __repr__ = __str__

    with pytest.raises(Exception) as with_comments:  # noqa: PT011
        server.run(Odd())
    work.leave()
    with pytest.raises(Exception) as without:  # noqa: PT011
        server.run(Odd())

    assert with_comments.type is without.type
