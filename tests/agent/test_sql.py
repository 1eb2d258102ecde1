"""SQL for people: no literal survives, names and structure do."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from introspect.agent import sql


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT * FROM t WHERE a = 'x' AND b = 2", "SELECT * FROM t WHERE a = ? AND b = ?"),
        ("SELECT 'it''s', E'a\\'b', N'x', U&'y', X'ff'", "SELECT ?, ?, ?, U&?, ?"),
        ("SELECT $$secret$$, $tag$se$$cret$tag$", "SELECT ?, ?"),
        ("SELECT -1, +2.5e-3, 0xFF, .5, 1_000", "SELECT ?, ?, ?, ?, ?"),
        ("SELECT col1, t2.c3 FROM t2", "SELECT col1, t2.c3 FROM t2"),
        ("SELECT \"t\".\"a b\" FROM \"t\" WHERE x = \"'; --\"", 'SELECT "t"."a b" FROM "t" WHERE x = ?'),
        ('SELECT * FROM t WHERE a = "secret" AND b <> "x"', "SELECT * FROM t WHERE a = ? AND b <> ?"),
        ('SELECT * FROM t WHERE a LIKE "s%" OR b glob"x"', "SELECT * FROM t WHERE a LIKE ? OR b glob?"),
        ('SELECT * FROM t WHERE a IN ("s", "t" , "u")', "SELECT * FROM t WHERE a IN (?…)"),
        ('SELECT "t"."a" AS "b" FROM "t" JOIN "u" ON ("t"."a" = "u"."b") ORDER BY "b", "t"."c"',
         'SELECT "t"."a" AS "b" FROM "t" JOIN "u" ON ("t"."a" = "u"."b") ORDER BY "b", "t"."c"'),
        ('UPDATE "t" SET "a" = %s, "b" = ("t"."b" + 1) WHERE "t"."id" IN (SELECT U0."id" FROM "u" U0)',
         'UPDATE "t" SET "a" = ?, "b" = ("t"."b" + ?) WHERE "t"."id" IN (SELECT U0."id" FROM "u" U0)'),
        ("SELECT 1 -- 'secret\nFROM t", "SELECT ? FROM t"),
        ("/* /secret/ */ SELECT 1", "SELECT ?"),
        ("INSERT INTO t (a, b) VALUES (%s, %s), (%s, %s)", "INSERT INTO t (a, b) VALUES (?…)"),
        ("SELECT a FROM t WHERE b IN (1, 2, 3)", "SELECT a FROM t WHERE b IN (?…)"),
        ("SELECT %(name)s, :arg0, $1, @p1", "SELECT ?, ?, ?, ?"),
        ("SELECT 'cut off", "SELECT ?"),
        ("SELECT a::int FROM t", "SELECT a::int FROM t"),
        ("", ""),
    ],
)  # fmt: skip
def test_literals_become_question_marks(statement: str, expected: str) -> None:
    """Literals, placeholders and comments go; names, operators and structure stay."""
    assert sql.normalise(statement).statement == expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT `a b` FROM t WHERE x = \"it's\" AND y = 'b'", "SELECT `a b` FROM t WHERE x = ? AND y = ?"),
        ("SELECT 'a\\'b', 'c'", "SELECT ?, ?"),
        ("SELECT _utf8'x', x'ff'", "SELECT _utf8?, x?"),
        ("SELECT a # it's 'secret'\nFROM t", "SELECT a FROM t"),
    ],
)  # fmt: skip
def test_mysql(statement: str, expected: str) -> None:
    """MySQL's quotes, backslashes and comments are read as MySQL reads them."""
    assert sql.normalise(statement, mysql=True).statement == expected


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ('SELECT 1 FROM "books_book" b', "books_book"),
        ("INSERT INTO `shop`.`book` VALUES (1)", "shop.book"),
        ("UPDATE ONLY book SET a = 1", "book"),
        ("DELETE FROM book", "book"),
        ('SELECT 1 FROM "public"."book"', "public.book"),
        ("CREATE TABLE IF NOT EXISTS book (a int)", "book"),
        ("SELECT 'FROM secret'", None),
        ("SAVEPOINT s1", None),
    ],
)
def test_the_table(statement: str, table: str | None) -> None:
    """The first table of a statement is known, in whatever quotes."""
    assert sql.normalise(statement, mysql="`" in statement).table == table


@examples(deadline=None, database=None, max_examples=300)
@given(st.text(alphabet="ab'\"\\;-/*$%?\n é", max_size=40), st.booleans())
def test_no_quoted_text_survives(secret: str, mysql: bool) -> None:
    """What is properly quoted, however odd, is never shown, and what follows still is."""
    quoted = secret.replace("'", "''")
    if mysql:
        quoted = quoted.replace("\\", "\\\\")
    found = sql.normalise(f"SELECT c FROM t WHERE x = 'S{quoted}S' AND following = 1", mysql=mysql)

    assert found.statement == "SELECT c FROM t WHERE x = ? AND following = ?"


@examples(deadline=None, database=None, max_examples=300)
@given(st.text(max_size=200), st.booleans())
def test_any_text_is_survived(text: str, mysql: bool) -> None:
    """Whatever is called a statement, no quoted string of it remains."""
    found = sql.normalise(text, mysql=mysql).statement

    assert len(found) <= sql.LONGEST
    assert not re.search(r"'", found)


def test_long_statements_are_cut() -> None:
    """Megabytes of SQL take no time and are shown by their beginning."""
    found = sql.normalise(f"SELECT {'column, ' * 1_000_000} FROM t")

    assert found.statement.startswith("SELECT column, column")
    assert found.statement.endswith("…")
    assert len(found.statement) == sql.LONGEST


def test_the_cache_is_bounded() -> None:
    """However many statements are seen, only so many are kept."""
    for number in range(3 * sql._CACHED):
        sql.normalise(f"SELECT c{number}")

    assert len(sql._cache) <= sql._CACHED
