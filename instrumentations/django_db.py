"""Time every SQL statement, connection, commit and rollback that goes through Django.

Django's own ``CursorWrapper`` is patched, on the class: that covers every alias, thread and
database, debug cursors too, and leaves the driver's cursor the object it was. Drivers check its C
type (psycopg2's ``quote_ident``, for one). The time is the driver's: ``execute_wrappers`` and the
debug layer are further out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from introspect.agent import work
from introspect.agent.metrics import COUNTER, OTHER, TIMER, Metric
from introspect.agent.patching import measured

if TYPE_CHECKING:
    from introspect.agent.metrics import Series
    from introspect.agent.patching import Patch
    from introspect.agent.settings import Settings

AREA = "db"

QUERY = Metric("db", TIMER, "ms", ("alias", "verb"), "each SQL statement", area=AREA)
CONNECT = Metric(
    "db.connect",
    TIMER,
    "ms",
    ("alias",),
    "each new connection to a database",
    area=AREA,
    encloses=True,  # what it asks the new connection
)
COMMIT = Metric("db.commit", TIMER, "ms", ("alias",), "each commit", area=AREA)
ROLLBACK = Metric("db.rollback", TIMER, "ms", ("alias",), "each rollback", area=AREA)
ERROR = Metric("db.error", COUNTER, "", ("alias", "class"), "statements and others that failed")

_current = work.current.get
_query_series = QUERY.series
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

# By alias and those six characters.
_series_by_start: dict[str, dict[str, Series]] = {}

LONGEST_PREAMBLE = 2000

# A bulk insert may be megabytes long, and a unit keeps many statements until it ends.
LONGEST_STATEMENT_KEPT = 8000


class _NoComments:
    """What django_sql_comment is to us where it is disabled."""

    @staticmethod
    def commented(unit: work.Work, database: Any, sql: Any) -> Any:
        unit.sql_prefixes[database.alias] = ""
        return sql

    many_commented = commented


_comments: Any = _NoComments


def configure(settings: Settings) -> None:
    """Put comments into statements, unless they are disabled."""
    global _comments
    _series_by_start.clear()
    _comments = _NoComments
    if "django_sql_comment" not in settings.disable:
        from introspect.instrumentations import django_sql_comment

        _comments = django_sql_comment


def statement_runs(cursor: Any, sql: Any, *_params: Any) -> tuple[Any, Series]:
    """Return the SQL of an ``_execute`` with its comment, and what it counts as.

    The parameters are never looked at.
    """
    database = cursor.db
    unit = _current()
    if type(sql) is str:
        # What nearly every statement is, by exceptions, which cost nothing where there are none.
        try:
            alias = database.alias
            return unit.sql_prefixes[alias] + sql, _series_by_start[alias][sql[:6]]
        except KeyError:
            series = _series_of_start(database.alias, sql[:6])
            if series is not None:
                return _comments.commented(unit, database, sql), series
    return _comments.commented(unit, database, sql), _query_series[database.alias, verb_of(sql)]


def _series_of_start(alias: str, start: str) -> Series | None:
    """Note what statements that begin with *start* count as, if that is known from six letters."""
    verb = _VERB_BY_START.get(start)
    if verb is None:
        return None
    series = _query_series[alias, verb]
    if _query_series.get((alias, verb)) is series:  # within the budget of names
        _series_by_start.setdefault(alias, {})[start] = series
    return series


def statements_run(cursor: Any, sql: Any, *_params: Any) -> tuple[Any, Series]:
    """Return the same of an ``_executemany``."""
    database = cursor.db
    sent = _comments.many_commented(_current(), database, sql)
    return sent, _query_series[database.alias, verb_of(sql)]


def statement_detail(error: BaseException | None, cursor: Any, sql: Any, *_params: Any) -> Any:
    """Return what the canonical line tells of a statement."""
    text = sql if type(sql) is str else _beginning(sql)
    if len(text) > LONGEST_STATEMENT_KEPT:
        text = text[:LONGEST_STATEMENT_KEPT]
    name = type(error).__name__ if error is not None else None
    # Called by its class, a NamedTuple takes three times as long to make.
    return _new(work.Query, (text, cursor.db.vendor == "mysql", name))


def statement_failed(error: BaseException, cursor: Any, *_params: Any) -> Series:
    """Return the counter of statements that raise such an *error*."""
    return ERROR.of(cursor.db.alias, type(error).__name__)


def procedure_series(cursor: Any, *_params: Any) -> Series:
    """Return what a ``callproc`` counts as."""
    return QUERY.series[cursor.db.alias, "call"]


def connection_failed(error: BaseException, database: Any) -> Series:
    """Return the counter of what fails with such an *error* beside statements."""
    return ERROR.of(database.alias, type(error).__name__)


def _series_of_alias(metric: Metric) -> Any:
    def series_of(database: Any) -> Series:
        return metric.series[(database.alias,)]

    return series_of


def _of_connection(method: str, metric: Metric) -> Patch:
    return measured(
        f"django.db.backends.base.base:BaseDatabaseWrapper.{method}",
        _series_of_alias(metric),
        failure_of=connection_failed,
    )


PATCHES = (
    # Below `execute_wrappers` and Django's debug layer, which thus shows the application's own SQL.
    measured(
        "django.db.backends.utils:CursorWrapper._execute",
        statement_runs,
        failure_of=statement_failed,
        detail_of=statement_detail,
        rewrites=1,
    ),
    measured(
        "django.db.backends.utils:CursorWrapper._executemany",
        statements_run,
        failure_of=statement_failed,
        detail_of=statement_detail,
        rewrites=1,
    ),
    measured(
        "django.db.backends.utils:CursorWrapper.callproc",
        procedure_series,
        failure_of=statement_failed,
    ),
    _of_connection("connect", CONNECT),
    _of_connection("commit", COMMIT),
    _of_connection("rollback", ROLLBACK),
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
