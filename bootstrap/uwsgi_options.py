"""The options that uWSGI is given: on its command line, and in the files that this names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from introspect.bootstrap import file_ends

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_FILE = 65_536

# A file may be named by such an option, or stand alone if it has such an ending.
_FILE_OPTIONS = frozenset({"ini", "yaml", "yml", "y", "json", "j"})
_YAML = (".yaml", ".yml")
_JSON = (".json", ".js")
_FILES = (".ini", *_YAML, *_JSON)

_FALSE = frozenset({"0", "false", "no", "off"})

_LINE = re.compile(r"([\w-]+)\s*(?:[=:]\s*(.*))?")
_JSON_ITEM = re.compile(r'"([\w-]+)"\s*:\s*"?([^",}\s]*)')


class Option(NamedTuple):
    """An option's name without dashes, its value, and the file that it stands in, if it does."""

    name: str
    value: str
    file: str = ""

    def is_on(self) -> bool:
        """Tell whether a switch is on, which it is without a value."""
        return self.value.lower() not in _FALSE


def given(arguments: list[str]) -> Iterator[Option]:
    """Give each option in *arguments* and in the files named there; those name no more."""
    for position, word in enumerate(arguments):
        name, equals, value = word.lstrip("-").partition("=")
        is_option = word.startswith("-")
        if is_option:
            following = "" if equals else "".join(arguments[position + 1 : position + 2])
            value = value or following
            yield Option(name, value)
        if is_option and name in _FILE_OPTIONS:
            yield from _in_file(value)
        elif not is_option and word.endswith(_FILES) and _stands_alone(arguments, position):
            yield from _in_file(word)


def _stands_alone(arguments: list[str], position: int) -> bool:
    """Tell whether the word there is no option's value, as far as can be seen."""
    return (
        not position
        or not arguments[position - 1].startswith("-")
        or "=" in arguments[position - 1]
    )


def _in_file(named: str) -> Iterator[Option]:
    path, _, section = named.partition(":")
    text = file_ends.beginning(path, LONGEST_FILE).decode("utf-8", "replace")
    if path.endswith(_JSON):
        yield from (Option(name, value, path) for name, value in _JSON_ITEM.findall(text))
        return
    is_ours = path.endswith(_YAML)
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            is_ours = line == f"[{section or 'uwsgi'}]"
        elif is_ours and (match := _LINE.fullmatch(line)):
            values = (match[2] or "").split()
            yield Option(match[1], values[0].strip("'\"") if values else "", path)
