"""Time every SQL statement, connection, commit and rollback that goes through Django.

Django's own ``CursorWrapper`` is patched, on the class: that covers every alias, thread and
database, ``CursorDebugWrapper`` and ``execute_wrappers`` included, and leaves the driver's cursor
the object it was. Drivers check its C type (psycopg2's ``quote_ident``, for one).
"""

from __future__ import annotations

from typing import Any

from introspect.agent import work
from introspect.agent.metrics import COUNTER, OTHER, TIMER, Metric
from introspect.agent.patching import timed

QUERY = Metric("db", TIMER, "ms", ("alias", "verb"), "each SQL statement")
CONNECT = Metric("db.connect", TIMER, "ms", ("alias",), "each new connection to a database")
COMMIT = Metric("db.commit", TIMER, "ms", ("alias",), "each commit")
ROLLBACK = Metric("db.rollback", TIMER, "ms", ("alias",), "each rollback")
ERROR = Metric("db.error", COUNTER, "", ("alias", "class"), "statements and others that failed")

AREA = "db"

record = work.record
_new = tuple.__new__

# The verbs that are told apart; a statement of any other counts as `_other`.
VERBS = frozenset(
    {
        "alter", "analyze", "begin", "call", "close", "commit", "copy", "create", "declare",
        "delete", "drop", "end", "exec", "execute", "explain", "fetch", "grant", "insert", "listen",
        "lock", "merge", "notify", "pragma", "prepare", "refresh", "reindex", "release", "rename",
        "replace", "reset", "revoke", "rollback", "savepoint", "select", "set", "show", "start",
        "truncate", "unlisten", "update", "use", "vacuum", "values", "with",
    }
)  # fmt: skip

# By the first six characters, as Django's compiler writes them: one look-up for most statements.
_VERB_BY_START = {
    "SELECT": "select",
    "INSERT": "insert",
    "UPDATE": "update",
    "DELETE": "delete",
}

LONGEST_PREAMBLE = 2000

# A bulk insert may be megabytes long, and a unit keeps many statements until it ends.
LONGEST_STATEMENT_KEPT = 8000


def statement_ran(
    started: float, ended: float, args: Any, kwargs: Any, _result: Any, error: Any
) -> None:
    """Record one ``execute`` or ``executemany``. The parameters are never looked at."""
    database = args[0].db
    alias = database.alias
    sql = kwargs["sql"] if kwargs else args[1]
    verb = (_VERB_BY_START.get(sql[:6]) if type(sql) is str else None) or verb_of(sql)
    detail = _detail(database, sql, error) if work.detail_wanted else None
    record(QUERY.series[alias, verb], started, ended, AREA, detail)
    if error is not None:
        work.count(ERROR.of(alias, type(error).__name__))


def _detail(database: Any, sql: object, error: BaseException | None) -> work.Query:
    text = sql if type(sql) is str else _beginning(sql)
    if len(text) > LONGEST_STATEMENT_KEPT:
        text = text[:LONGEST_STATEMENT_KEPT]
    name = type(error).__name__ if error is not None else None
    # Called by its class, a NamedTuple takes three times as long to make.
    return _new(work.Query, (text, database.vendor == "mysql", name))


def procedure_ran(
    started: float, ended: float, args: Any, _kwargs: Any, _result: Any, error: Any
) -> None:
    """Record one ``callproc``."""
    alias = args[0].db.alias
    work.record(QUERY.of(alias, "call"), started, ended, AREA)
    if error is not None:
        work.count(ERROR.of(alias, type(error).__name__))


def _recorder_of(metric: Metric) -> Any:
    def recorded(
        started: float, ended: float, args: Any, _kwargs: Any, _result: Any, error: Any
    ) -> None:
        alias = args[0].alias
        work.record(metric.series[(alias,)], started, ended, AREA)
        if error is not None:
            work.count(ERROR.of(alias, type(error).__name__))

    return recorded


_connect_recorded = _recorder_of(CONNECT)


def connected(
    started: float, ended: float, args: Any, kwargs: Any, result: Any, error: Any
) -> None:
    """Record one ``connect``; what it asked the new connection is a part of it, summed once."""
    unit = work.active()
    if unit is not None:
        samples = unit.samples
        for index in range(len(samples) - 1, -1, -1):
            series, began, seconds, _area, detail = samples[index]
            if began < started:
                break
            samples[index] = (series, began, seconds, None, detail)
    _connect_recorded(started, ended, args, kwargs, result, error)


PATCHES = (
    timed("django.db.backends.utils:CursorWrapper.execute", after=statement_ran),
    timed("django.db.backends.utils:CursorWrapper.executemany", after=statement_ran),
    timed("django.db.backends.utils:CursorWrapper.callproc", after=procedure_ran),
    timed("django.db.backends.base.base:BaseDatabaseWrapper.connect", after=connected),
    timed("django.db.backends.base.base:BaseDatabaseWrapper.commit", after=_recorder_of(COMMIT)),
    timed(
        "django.db.backends.base.base:BaseDatabaseWrapper.rollback", after=_recorder_of(ROLLBACK)
    ),
)


def verb_of(sql: object) -> str:
    """Return the first word of a statement in lower case, or ``_other``.

    *sql* may be ``str``, ``bytes``, a psycopg 2 or 3 ``SQL`` or ``Composed``, a template string,
    or anything else that a driver takes.
    """
    text = _beginning(sql)
    words = _without_comments(text).split(None, 1)
    if not words:
        return OTHER
    verb = words[0].split("(", 1)[0].rstrip(";").lower()
    return verb if verb in VERBS else OTHER


def _beginning(sql: Any) -> str:
    """Return the start of a statement's text without rendering it: that needs a connection."""
    for _ in range(8):  # composed of composed of …: nobody nests deeper, and this must end
        # By type, not isinstance: that asks `__class__`, which evaluates Django's lazy objects.
        kind = type(sql)
        if issubclass(kind, str):
            return str.__getitem__(sql, slice(LONGEST_PREAMBLE))
        if issubclass(kind, (bytes, bytearray)):
            return bytes(sql[:LONGEST_PREAMBLE]).decode("latin-1")
        if issubclass(kind, (list, tuple)):
            sql = sql[0] if sql else ""
            continue
        # psycopg 3 keeps its parts in `_obj`; psycopg 2 in `_wrapped`; Python 3.14's t-strings
        # in `strings`.
        for attribute in ("_obj", "_wrapped", "strings"):
            if attribute in _attributes(sql):
                sql = getattr(sql, attribute)
                break
        else:
            return ""
    return ""


def _attributes(sql: object) -> Any:
    # Not hasattr: on a lazy string of Django's that would evaluate it.
    if type(sql).__name__ == "Template":
        return ("strings",)
    return getattr(type(sql), "__slots__", None) or _instance_dict(sql)


def _instance_dict(sql: object) -> dict[str, Any]:
    try:
        return object.__getattribute__(sql, "__dict__")  # type: ignore[no-any-return]
    except AttributeError:
        return {}


def _without_comments(text: str) -> str:
    """Strip white space, opening brackets and comments from the start of *text*."""
    while True:
        text = text.lstrip(" \t\r\n\f\v(;")
        if text.startswith("/*"):
            text = text.partition("*/")[2]
        elif text.startswith("--"):
            text = text.partition("\n")[2]
        else:
            return text
