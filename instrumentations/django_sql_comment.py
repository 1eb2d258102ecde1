"""Put a comment into each SQL statement that says where it comes from.

Below Django's debug layer, so that ``connection.queries`` and ``assertNumQueries`` show the
application's own SQL, and on the class, so that every alias and every kind of cursor is covered.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from introspect.agent import frames, sqlcomment, work
from introspect.agent.patching import Patch, amended, rewriting_argument

if TYPE_CHECKING:
    from introspect.agent.settings import Settings

current = work.current.get

_choice = sqlcomment.parse("path")
_is_suffix = False

# A statement of these alone is empty. Databases say different things to that: it stays empty.
_NOTHING = " \t\r\n\f\v;"

# Databases that cache plans by a statement's text: a text of its own for each request would fill
# the cache with plans that are used once.
_CACHING_VENDORS = frozenset({"oracle", "microsoft"})


def configure(settings: Settings) -> None:
    """Take what the comments say, and where they stand."""
    global _choice, _is_suffix
    _choice = settings.sql_comment
    _is_suffix = settings.sql_comment_position == "suffix"
    _ways.cache_clear()


def commented(unit: work.Work, database: Any, sql: Any) -> Any:
    """Return a statement that *unit* runs with its comment.

    What goes in front of the unit's next statements, if that stays the same, is left in its
    ``sql_prefixes``.
    """
    # Taken before the look at `finished`: once the unit has ended, in whatever thread, they are the
    # process's, whose statements have no comments.
    prefixes = unit.sql_prefixes
    if unit.finished or unit is work.process():
        prefixes[database.alias] = ""
        return sql
    return _with_comment(sql, comment_for(unit, database, prefixes))


def many_commented(unit: work.Work, database: Any, sql: Any) -> Any:
    """Return the statement of an ``executemany`` with its comment.

    MySQL's drivers turn ``INSERT … VALUES`` into one statement of many rows if a regular expression
    matches the whole text: it takes a comment behind the verb, and nowhere else.
    """
    if database.vendor != "mysql" or type(sql) is not str:
        return commented(unit, database, sql)
    verb, _space, rest = sql.lstrip().partition(" ")
    prefixes = unit.sql_prefixes
    # Behind a comment of the application's there is no place for ours: MySQL's do not nest.
    if unit.finished or unit is work.process() or not (rest and verb.isalpha()):
        return sql
    comment = comment_for(unit, database, prefixes).text
    return f"{verb} {comment} {rest}" if comment else sql


def statement_runs(args: Any, _kwargs: Any) -> Any:
    """Return the SQL of ``_execute(cursor, sql, params, …)`` with its comment."""
    return commented(current(), args[0].db, args[1])


def statements_run(args: Any, _kwargs: Any) -> Any:
    """Return the SQL of ``_executemany(cursor, sql, param_list, …)`` with its comment."""
    return many_commented(current(), args[0].db, args[1])


def without_comment(_args: Any, _kwargs: Any, text: Any) -> Any:
    """Take our comment out of what a driver says it has sent: debug tools show that."""
    unit = work.active()
    if unit is None or not isinstance(text, str):
        return text
    comments = {unit.last_comment, *(placed.text for placed in unit.sql_comments.values())} - {""}
    for comment in comments:
        for form in (f"{comment} ", f" {comment}"):
            text = text.replace(form, "", 1)
    return text


# Where django_db, whose patch of the same functions does it, is left out.
_PATCHES_OF_CURSORS = (
    rewriting_argument("django.db.backends.utils:CursorWrapper._execute", 1, statement_runs),
    rewriting_argument("django.db.backends.utils:CursorWrapper._executemany", 1, statements_run),
)

# Of Django's own databases, these two ask the driver.
PATCHES = (
    amended(
        "django.db.backends.mysql.operations:DatabaseOperations.last_executed_query",
        without_comment,
    ),
    amended(
        "django.db.backends.postgresql.operations:DatabaseOperations.last_executed_query",
        without_comment,
    ),
)


def patches(settings: Settings) -> tuple[Patch, ...]:
    """Patch nothing where no alias has comments."""
    if settings.sql_comment.is_off():
        return ()
    return (*_PATCHES_OF_CURSORS, *PATCHES) if "django_db" in settings.disable else PATCHES


class Placed:
    """A comment, which may be empty, and whether it stands behind the statement."""

    __slots__ = ("is_suffix", "prefix", "text")

    def __init__(self, text: str, *, is_suffix: bool) -> None:
        self.text = text
        self.is_suffix = is_suffix
        self.prefix = f"{text} " if text and not is_suffix else ""
        """What goes in front of a statement, where that is its place."""


def comment_for(unit: work.Work, database: Any, prefixes: dict[str, str]) -> Placed:
    """Return the comment for a statement of *unit*; kept by alias, unless it names the caller."""
    alias = database.alias
    found: Placed | None = unit.sql_comments.get(alias)
    if found is not None:
        return found
    parts = _choice.by_alias.get(alias, _choice.others)
    is_behind, caches_by_text = _ways(database.vendor)
    if caches_by_text or _prepares(database):
        parts = tuple(part for part in parts if part in sqlcomment.LOW_CARDINALITY)
    texts = unit.comment_parts(parts)
    if "caller" in parts:
        texts.append(frames.caller())  # an empty one leaves no trace
    placed = Placed(sqlcomment.comment(texts), is_suffix=is_behind)
    if "caller" not in parts and unit.comments_are_final(parts):
        unit.sql_comments = {**unit.sql_comments, alias: placed}
        if not (is_behind and placed.text):
            prefixes[alias] = placed.prefix
    else:
        unit.last_comment = placed.text
    return placed


def _prepares(database: Any) -> bool:
    """Tell whether statements are prepared on the server: by psycopg 3, if it is told to."""
    # None, Django's default, prepares nothing.
    return getattr(database.connection, "prepare_threshold", None) is not None


@functools.lru_cache(maxsize=100)
def _ways(vendor: str) -> tuple[bool, bool]:
    """Return whether a vendor's comments go behind, and whether its plans are kept by text."""
    return _goes_behind(vendor), vendor in _CACHING_VENDORS


def _goes_behind(vendor: str) -> bool:
    if vendor == "oracle":
        return False  # Django strips a trailing slash there, and with it the end of the comment
    if vendor == "sqlite" and sys.version_info < (3, 11):
        return True  # its driver looks for INSERT, UPDATE, DELETE at the very start, for `rowcount`
    return _is_suffix


def _with_comment(sql: Any, placed: Placed) -> Any:
    comment, suffix = placed.text, placed.is_suffix
    kind = type(sql)
    if not comment:
        return sql
    if kind is str or issubclass(kind, str):
        if not sql.strip(_NOTHING):
            return sql
        if suffix:
            statement, semicolon = _parted(sql, ";")
            return f"{statement} {comment}{semicolon}"
        return f"{comment} {sql}"
    if kind is bytes:
        if not sql.strip(_NOTHING.encode()):
            return sql
        data = comment.encode("ascii")
        if suffix:
            statement, semicolon = _parted(sql, b";")
            return b"%b %b%b" % (statement, data, semicolon)
        return b"%b %b" % (data, sql)
    return _composed(sql, comment, suffix=suffix)


def _parted(sql: Any, semicolon: Any) -> tuple[Any, Any]:
    """Return a statement and, apart, the semicolons that end it: some need theirs."""
    text = sql.rstrip()
    statement = text.rstrip(semicolon)
    return statement, text[len(statement) :]


def _composed(sql: Any, comment: str, *, suffix: bool) -> Any:
    """Return psycopg's ``SQL`` and ``Composed``, and t-strings, with the comment as a part."""
    module = type(sql).__module__
    if module in ("psycopg.sql", "psycopg2.sql"):
        part = sys.modules[module].SQL
        return sql + part(f" {comment}") if suffix else part(f"{comment} ") + sql
    if module == "string.templatelib":
        return type(sql)(*sql, f" {comment}") if suffix else type(sql)(f"{comment} ", *sql)
    return sql  # a lazy string or what else a driver takes: not ours to evaluate
