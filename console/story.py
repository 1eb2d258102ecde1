"""``introspect story ID``: what one correlation ID did, as a waterfall in the terminal."""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final

from introspect.console.query import open_reader
from introspect.console.query_story import Chapter, Event, LogLine, Story, story
from introspect.console.say import print_line
from introspect.console.store import default_path

if TYPE_CHECKING:
    from collections.abc import Iterator

BAR: Final = 24
"""Characters of the time line on the left."""

NARROWEST: Final = 60

_COLOURS: Final = {"bold": "1", "dim": "2", "error": "31", "warning": "33", "call": "36"}


def main(argv: list[str]) -> int:
    """Print a story; return an exit status: 1 if nobody has heard of the ID."""
    parser = argparse.ArgumentParser(
        prog="introspect story", description="Print all that one correlation ID left behind."
    )
    parser.add_argument("id", help="the correlation ID: from a log line, or the response's header")
    parser.add_argument("--db", type=Path, default=default_path(), help="the file (%(default)s)")
    options = parser.parse_args(argv)
    if not options.db.exists():
        print_line(f"{options.db} does not exist: start `introspect console`, or name its --db")
        return 1
    connection = open_reader(options.db)
    try:
        found = story(connection, options.id)
    except sqlite3.Error as error:
        print_line(f"{options.db} cannot be read ({error}): name the console's file with --db")
        return 1
    finally:
        connection.close()
    if found is None:
        print_line(f"nothing in {options.db} has the correlation ID {options.id}")
        return 1
    width = max(NARROWEST, shutil.get_terminal_size((120, 40)).columns)
    for line in Printer(found, width, is_coloured=sys.stdout.isatty()).lines():
        print(line)  # noqa: T201
    return 0


class Printer:
    """Lays a story out in lines of a given width."""

    def __init__(self, told: Story, width: int, *, is_coloured: bool) -> None:
        self._story = told
        self._width = width
        self._is_coloured = is_coloured
        self._children: dict[int | None, list[Chapter]] = {}
        for chapter in told.chapters:
            self._children.setdefault(chapter.parent, []).append(chapter)

    def lines(self) -> Iterator[str]:
        """The whole story, line by line."""
        told = self._story
        began = datetime.fromtimestamp(told.start, timezone.utc)
        yield self._paint("bold", f"{told.correlation_id}")
        services = ", ".join(told.services)
        yield f"{began:%Y-%m-%d %H:%M:%S} UTC   {_ms(told.duration_ms)}   {services}"
        yield ""
        roots = [chapter for chapter in told.chapters if chapter.depth == 0]
        items: list[Chapter | LogLine] = [*roots, *told.logs]
        for item in sorted(items, key=_offset):
            if isinstance(item, Chapter):
                yield from self._chapter(item)
            else:
                yield self._log(item, 0)
        if told.truncated:
            yield self._paint("warning", "(there is more with this ID than is shown here)")

    def _chapter(self, chapter: Chapter) -> Iterator[str]:
        depth = chapter.depth
        status = "" if chapter.status is None else f" → {chapter.status}"
        title = f"{chapter.service}  {chapter.title}{status}"
        yield self._row(chapter.offset_ms, chapter.duration_ms, depth, title, "bold")
        shown = {event.child for event in chapter.events}
        own = [
            child
            for child in self._children.get(chapter.id, ())
            if child.id not in shown and child.depth > depth
        ]
        items: list[Chapter | Event | LogLine] = [*chapter.events, *chapter.logs, *own]
        for item in sorted(items, key=_offset):
            if isinstance(item, Chapter):
                yield from self._chapter(item)
            elif isinstance(item, LogLine):
                yield self._log(item, depth + 1)
            else:
                yield from self._event(item, depth + 1)
        if chapter.events_dropped:
            yield self._row(None, None, depth + 1, f"… {chapter.events_dropped} more", "dim")
        if chapter.exception:
            yield self._row(None, None, depth + 1, f"✖ {chapter.exception}", "error")

    def _event(self, event: Event, depth: int) -> Iterator[str]:
        what = event.statement or event.name
        more = " ".join(filter(None, (str(event.status or ""), event.error)))
        title = f"{event.kind:<8} {what} {more}".rstrip()
        colour = "error" if event.error else "call" if event.kind == "http" else ""
        yield self._row(event.offset_ms, event.ms, depth, title, colour)
        for child in self._story.chapters:
            if child.id == event.child and child.depth >= depth:
                yield from self._chapter(child)

    def _log(self, line: LogLine, depth: int) -> str:
        text = ": ".join(filter(None, (line.logger, line.message, line.exception)))
        colour = {"ERROR": "error", "CRITICAL": "error", "WARNING": "warning"}.get(
            line.level, "dim"
        )
        return self._row(line.offset_ms, None, depth, f"{line.level:<8} {text}", colour)

    def _row(
        self, offset: float | None, ms: float | None, depth: int, title: str, colour: str
    ) -> str:
        length = "" if ms is None else _ms(ms)
        left = f"{self._bar(offset, ms)} {length:>9} {'  ' * depth}"
        return left + self._paint(colour, _cut(title, self._width - len(left)))

    def _bar(self, offset: float | None, ms: float | None) -> str:
        """Where on the time line something happened: a bar, or a dot for a moment."""
        if offset is None:
            return " " * BAR
        scale = BAR / max(self._story.duration_ms, 0.001)
        begin = min(BAR - 1, max(0, int(offset * scale)))
        if ms is None:
            return f"{' ' * begin}·{' ' * (BAR - begin - 1)}"
        length = max(1, min(BAR - begin, round(ms * scale)))
        return f"{' ' * begin}{'━' * length}{' ' * (BAR - begin - length)}"

    def _paint(self, colour: str, text: str) -> str:
        # What a log line says must not move the cursor or change the title of somebody's terminal.
        text = "".join(char if char.isprintable() else "·" for char in text)
        if not self._is_coloured or not colour:
            return text
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def _offset(item: Chapter | Event | LogLine) -> float:
    return item.offset_ms


def _ms(ms: float) -> str:
    return f"{ms / 1000:.2f} s" if ms >= 10_000 else f"{ms:.1f} ms"  # noqa: PLR2004


def _cut(text: str, longest: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: max(1, longest - 1)]}…"
