"""SQL text for people, without anything that a user may have typed in it."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

LONGEST: Final = 1000

# More is not looked at: a bulk insert may be megabytes long.
LONGEST_READ: Final = 8000

_CACHED: Final = 500

_TOKENS = r"""
      (?P<comment> /\*.*?(?:\*/|\Z) | --[^\n]* {comments} )
    | (?P<dollar>  (?P<tag>\$\w*\$) .*? (?:(?P=tag)|\Z) )
    | (?P<string>  {strings} )
    | (?P<double>  {doubles} )
    | (?P<name>    ` [^`]* (?:`|\Z) | \[ [A-Za-z_][^\]]* \] )
    | (?P<holder>  %s | %\(\w+\)s | \$\d+ | (?<!:):\w+ | @\w+ )
    | (?P<number>  (?<![\w.$]) [+-]? (?: 0x[0-9a-fA-F]+ | \d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)? | \.\d+ ) )
    """  # noqa: E501
_FLAGS = re.VERBOSE | re.DOTALL

# A backslash escapes a quote in MySQL, and elsewhere only in E'…'. Taken wrongly, what follows the
# string would be read as its inside, and the next string's inside as SQL.
_ESCAPED = r"""[eE] ' (?:\\.|[^'\\]|'')* (?:'|\Z)"""
_UNESCAPED = r"""[a-zA-Z]? ' (?:[^']|'')* (?:'|\Z)"""
_STANDARD_TOKENS = re.compile(
    _TOKENS.format(
        strings=f"{_ESCAPED} | {_UNESCAPED}",
        doubles=r"""" (?:[^"]|"")* (?:"|\Z)""",
        comments="",
    ),
    _FLAGS,
)
_MYSQL_TOKENS = re.compile(
    _TOKENS.format(
        strings=_ESCAPED.replace("[eE]", ""),
        doubles=r"""" (?:\\.|[^"\\]|"")* (?:"|\Z)""",
        comments=r"| \#[^\n]*",
    ),
    _FLAGS,
)
_LIST = re.compile(r"\(\s*\?(?:\s*,\s*\?)+\s*\)")
_ROWS = re.compile(r"(\(\?…?\))(?:\s*,\s*\(\?…?\))+")
_QUOTES = re.compile(r'["`\[\]]')
_SPACE = re.compile(r"\s+")
_PLAIN_NAME = re.compile(r'"[A-Za-z_][A-Za-z0-9_$ .-]*"')
_BEFORE_VALUE = re.compile(r"(?:[=<>]|\b(?:LIKE|GLOB|MATCH|REGEXP)|\bIN\s*\()\s*\Z", re.IGNORECASE)
_TABLE = re.compile(
    r"\b(?:FROM|INTO|UPDATE|JOIN|TABLE)\s+(?:ONLY\s+|IF\s+(?:NOT\s+)?EXISTS\s+)?"
    r'((?:["`\[]?\w+["`\]]?\.)?["`\[]?\w+["`\]]?)',
    re.IGNORECASE,
)


class Normalised(NamedTuple):
    """A statement whose literals and placeholders are ``?``, and its first table, if it has one."""

    statement: str
    table: str | None


_cache: dict[tuple[str, bool], Normalised] = {}


def normalise(sql: str, *, mysql: bool = False) -> Normalised:
    """Replace every literal and placeholder by ``?``, and lists of them by ``(?…)``.

    MySQL reads ``"…"`` as a string, everybody else as a name; a name that does not look like one
    is taken for a literal. What is cut off inside a literal is taken for one, too.
    """
    sql = sql[:LONGEST_READ]
    key = (sql, mysql)
    found = _cache.get(key)
    if found is None:
        found = _normalise(sql, mysql=mysql)
        if len(_cache) >= _CACHED:
            _cache.clear()  # cheaper than order, and rare: an application has fewer statements
        _cache[key] = found
    return found


def _normalise(sql: str, *, mysql: bool) -> Normalised:
    end_of_value = 0

    def replaced(match: re.Match[str]) -> str:
        nonlocal end_of_value
        kind = match.lastgroup
        text = match.group()
        if kind == "comment":
            return " "
        if kind == "name":
            return text
        if kind == "double" and not mysql and _PLAIN_NAME.fullmatch(text):
            follows_value = end_of_value and sql[end_of_value : match.start()].strip() == ","
            if not (follows_value or _is_value(sql, match)):
                return text
            end_of_value = match.end()
        return "?"

    tokens = _MYSQL_TOKENS if mysql else _STANDARD_TOKENS
    text = _SPACE.sub(" ", tokens.sub(replaced, sql)).strip()
    text = _ROWS.sub(r"\1", _LIST.sub("(?…)", text))
    table = _TABLE.search(text)
    if len(text) > LONGEST:
        text = text[: LONGEST - 1] + "…"
    return Normalised(text, _QUOTES.sub("", table.group(1)) if table else None)


def _is_value(sql: str, name: re.Match[str]) -> bool:
    """Tell whether what looks like a quoted *name* is compared with, or assigned.

    SQLite takes it for a string where there is no such column; what Django compares with is the
    name of a column behind that of its table.
    """
    before = sql[max(0, name.start() - 20) : name.start()]
    return _BEFORE_VALUE.search(before) is not None and sql[name.end() : name.end() + 1] != "."
