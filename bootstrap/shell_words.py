"""Which command a shell would come to, for texts that are plain enough to tell."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_TEXT = 10_000

# Long options of bash with a value of their own.
_WITH_A_VALUE = frozenset({"--init-file", "--rcfile"})

# What is no part of this, as a parenthesis or `${x:-y}`, takes a shell to read.
_VARIABLE = r"\$(?!\(|\{\w*[^\w}])"
_TOKEN = re.compile(
    rf"""[ \t]+ | (?P<comment>\#[^\n]*)
    | (?P<word> (?: [^\s;&|()`'"\\$] | {_VARIABLE} | \\. | '[^']*'
                  | "(?:[^"\\`$]|{_VARIABLE}|\\.)*" | (?<=[<>])& | &(?=>) )+ )
    | (?P<operator> (?: && | \|[|&]? ) \s* | [;&\n] )""",
    re.VERBOSE | re.DOTALL,
)


def text_of(arguments: list[str]) -> str | None:
    """Return the text that a shell called with *arguments* runs; ``None`` if it runs a script."""
    words = iter(arguments)
    is_text = False
    for word in words:
        if word in ("-", "--"):
            return next(words, None) if is_text else None
        if word.startswith("--"):
            if word in _WITH_A_VALUE:
                next(words, None)
        elif word.startswith(("-", "+")):
            is_text = is_text or (word.startswith("-") and "c" in word)
            if "o" in word.lower():  # -o pipefail, -O extglob
                next(words, None)
        else:
            return word if is_text else None
    return None


def last_command(text: str) -> list[str]:
    """Return the words of the last simple command in *text*, the one that a shell ends with.

    Empty if that is not plain. Behind a ``|``, be it one or two, nothing is looked at.
    """
    command: list[str] = []
    latest: list[str] = []
    is_piped = False
    try:
        for kind, token in _tokens(text.replace("\\\n", " ")):
            if kind == "operator":
                is_piped = token.startswith("|")
                latest, command = command or latest, []
            elif kind == "word" and not is_piped:
                command += shlex.split(token)
    except ValueError:
        return []
    return command or latest


def _tokens(text: str) -> Iterator[tuple[str | None, str]]:
    if len(text) > LONGEST_TEXT or "<<" in text:
        raise ValueError("not plain")
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError("not plain")
        yield match.lastgroup, match.group()
        position = match.end()
