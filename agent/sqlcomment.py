"""What the comment of an SQL statement says, and what it may never contain.

``/* /2014/pycon/ */ SELECT …`` tells whoever looks at the database where a statement comes from.
The comment is safe by construction: whatever goes in, only ``[A-Za-z0-9/_.:=,-]`` and single
spaces come out, so that it can neither end early nor nest, and no driver sees a placeholder.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

PARTS: Final = ("path", "route", "view", "id", "caller")

# Few distinct values, so that a server that caches statements by their text still finds them.
LOW_CARDINALITY: Final = frozenset({"route", "view", "caller"})

LONGEST: Final = 256
_ROOM: Final = LONGEST - len("/*  */")

# An ID, and the dotted name of a view or task: of use only as a whole.
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")

# No driver's placeholder can be made of these. The colon stands before line numbers: whoever knows
# :name, Oracle's drivers and SQLite, passes over comments, which is not so for % and ?.
_UNSAFE = re.compile(r"[^A-Za-z0-9/_.:=,-]+")
_SAFE = re.compile(rf"[A-Za-z0-9/_.:=,-]{{1,{_ROOM}}}")


class Choice(NamedTuple):
    """Which parts the statements of each alias carry; ``others`` is for aliases not named."""

    others: tuple[str, ...]
    by_alias: dict[str, tuple[str, ...]]

    def parts(self, alias: str) -> tuple[str, ...]:
        """Return the parts for *alias*; empty means no comment."""
        return self.by_alias.get(alias, self.others)

    def is_off(self) -> bool:
        """Tell whether no alias has comments."""
        return not self.others and not any(self.by_alias.values())


def parse(text: str) -> Choice:
    """Parse ``path``, ``path,id``, ``off`` or ``default=path,id;replica=off``."""
    if "=" not in text:
        return Choice(_parse_parts(text), {})
    by_alias = {}
    for clause in filter(None, (clause.strip() for clause in text.split(";"))):
        alias, _, parts = clause.partition("=")
        by_alias[alias.strip()] = _parse_parts(parts)
    return Choice(by_alias.pop("*", ("path",)), by_alias)


def _parse_parts(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if parts in (("off",), ("0",), ("no",), ("false",)):
        return ()
    if not parts or not set(parts) <= set(PARTS):
        raise ValueError(
            f"made of {', '.join(PARTS)}, or off; write path,id or default=path,id;replica=off"
        )
    return parts


def comment(parts: list[str]) -> str:
    """Return the comment that holds *parts*, or an empty string if nothing is left of them."""
    if len(parts) == 1 and _SAFE.fullmatch(parts[0]):  # as most paths are
        return f"/* {parts[0]} */"
    texts = [text for text in map(safe, parts) if text]
    text = " ".join(texts)
    if len(text) > _ROOM:
        text = " ".join(_cut(texts, _ROOM - len(texts) + 1))
    return f"/* {text} */" if text else ""


def _cut(texts: list[str], room: int) -> list[str]:
    """Cut the long ones of *texts* to one length, so that all have room; names if they must be."""
    whole = {text for text in texts if _NAME.fullmatch(text)}
    others = [len(text) for text in texts if text not in whole]
    left = room - sum(len(text) for text in texts if text in whole)
    if left < len(others) or not others:
        whole, others, left = set(), [len(text) for text in texts], room
    longest = _longest(others, left)
    return [text if text in whole else text[:longest].rstrip() for text in texts]


def _longest(lengths: list[int], room: int) -> int:
    """Return the length to cut all longer ones of *lengths* to, so that their sum is in *room*."""
    shorter = 0
    for index, length in enumerate(sorted(lengths)):
        share = (room - shorter) // (len(lengths) - index)
        if length > share:
            return share
        shorter += length
    return LONGEST


def safe(text: str) -> str:
    """Replace what a comment may not contain; white space becomes one space."""
    return " ".join(_UNSAFE.sub("_", word) for word in text[: 4 * LONGEST].split())
