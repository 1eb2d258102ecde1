"""The story of a correlation ID: every service's work with that ID, in the order it happened."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from introspect.console.query import MICROSECONDS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

MAX_CHAPTERS: Final = 500
MAX_LOGS: Final = 2000


@dataclass(frozen=True)
class Event:
    """Something that happened inside a unit of work."""

    offset_ms: float
    """After the start of the STORY."""
    ms: float
    kind: str
    """``db``, ``template``, ``http``, ``cache``."""
    name: str
    statement: str
    status: int | None
    error: str
    child: int | None
    """``Chapter.id`` of the work this call caused in another service."""


@dataclass(frozen=True)
class LogLine:
    """One log line of the story."""

    id: int
    offset_ms: float
    level: str
    logger: str
    message: str
    service: str
    exception: str
    """Class and message, empty if none."""
    stack: str
    file: str


@dataclass(frozen=True)
class Chapter:
    """One unit of work: a request, a command or a task."""

    id: int
    """Of ``work``."""
    parent: int | None
    """``Chapter.id`` of the work whose call caused this one."""
    depth: int
    """0 for what nobody in the story caused."""
    offset_ms: float
    """After the start of the story."""
    duration_ms: float
    kind: str
    service: str
    title: str
    """'GET /checkout/', 'manage.py send_subscriptions', the task's name."""
    status: int | None
    exception: str
    """Class, message and place, empty if none."""
    events: list[Event]
    events_dropped: int
    logs: list[LogLine]
    """Written while it ran, by the same process."""
    work: dict[str, Any]
    """All columns of ``work``."""


@dataclass(frozen=True)
class Story:
    """Everything with one correlation ID."""

    correlation_id: str
    start: float
    """Epoch seconds; offsets count from here."""
    duration_ms: float
    services: list[str]
    chapters: list[Chapter]
    """Depth first: each right after the one that caused it."""
    logs: list[LogLine]
    """Lines that no chapter claims."""
    truncated: bool
    """More than 500 units of work or 2000 log lines have this ID: the rest is left out."""


def story(connection: sqlite3.Connection, correlation_id: str) -> Story | None:
    """Assemble the story, or ``None`` if nobody has heard of the ID."""
    works = rows(
        connection,
        "SELECT * FROM work WHERE correlation_id = ? ORDER BY id LIMIT ?",
        (correlation_id, MAX_CHAPTERS + 1),
    )
    logs = rows(
        connection,
        "SELECT * FROM logs WHERE correlation_id = ? ORDER BY id LIMIT ?",
        (correlation_id, MAX_LOGS + 1),
    )
    if not works and not logs:
        return None
    truncated = len(works) > MAX_CHAPTERS or len(logs) > MAX_LOGS
    works, logs = works[:MAX_CHAPTERS], logs[:MAX_LOGS]
    start = min(row["id"] for row in (*works[:1], *logs[:1]))
    ends = [row["id"] + int((row["duration_ms"] or 0) * 1000) for row in works]
    end = max([*ends, *(row["id"] for row in logs[-1:])])
    chapters, unclaimed = _chapters(connection, works, logs, start)
    return Story(
        correlation_id,
        start / MICROSECONDS,
        (end - start) / 1000,
        sorted({row["service"] for row in (*works, *logs) if row["service"]}),
        chapters,
        unclaimed,
        truncated,
    )


def rows(
    connection: sqlite3.Connection, statement: str, values: tuple[object, ...] = ()
) -> list[dict[str, Any]]:
    """Rows by column name, whatever the connection's own row factory is."""
    return list(iterate(connection, statement, values))


def iterate(
    connection: sqlite3.Connection, statement: str, values: tuple[object, ...] = ()
) -> Iterator[dict[str, Any]]:
    """Rows by column name, one after the other."""
    cursor = connection.execute(statement, values)
    columns = [column[0] for column in cursor.description]
    for row in cursor:
        yield dict(zip(columns, row, strict=True))


def title_of(work: dict[str, Any]) -> str:
    """What a unit of work is called."""
    if work["kind"] == "request":
        return f"{work['method'] or ''} {work['path'] or ''}".strip() or "request"
    if work["kind"] == "command":
        return f"manage.py {work['name'] or ''}".strip()
    return str(work["name"] or work["kind"])


def exception_of(row: dict[str, Any]) -> str:
    """Class, message and place as far as known."""
    text = ": ".join(filter(None, (row["exception_class"], row["exception_message"])))
    place = row.get("exception_place")
    return f"{text} ({place})" if text and place else text


def read_events(
    connection: sqlite3.Connection, work_ids: list[int]
) -> tuple[dict[int, list[list[Any]]], dict[int, int], dict[int, tuple[str, str, str]]]:
    """Events as stored and how many were dropped, by work; and the operations they name."""
    found = connection.execute(
        "SELECT work_id, dropped, events FROM work_events"
        " WHERE work_id IN (SELECT value FROM json_each(?))",
        (json.dumps(work_ids),),
    ).fetchall()
    events = {work: json.loads(text) for work, _, text in found}
    wanted = {event[2] for of_one in events.values() for event in of_one}
    operations = {
        operation: (kind, name, statement)
        for operation, kind, name, statement in connection.execute(
            "SELECT id, kind, name, statement FROM operations"
            " WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted(wanted)),),
        )
    }
    return events, {work: dropped for work, dropped, _ in found}, operations


def _chapters(
    connection: sqlite3.Connection,
    works: list[dict[str, Any]],
    logs: list[dict[str, Any]],
    start: int,
) -> tuple[list[Chapter], list[LogLine]]:
    stored, dropped, operations = read_events(connection, [work["id"] for work in works])
    caused_by_span = {work["parent_id"]: work["id"] for work in works if work["parent_id"]}
    logs_of, unclaimed = _claim(works, logs, start)
    chapters = {}
    parents: dict[int, int] = {}
    for work in works:
        own = work["id"]
        offset = (own - start) / 1000
        events = []
        for event in stored.get(own, ()):
            more = event[3] if len(event) > 3 else {}  # noqa: PLR2004
            child = caused_by_span.get(more.get("span_id"))
            if child is not None and child != own:
                parents[child] = own
            else:
                child = None
            kind, name, statement = operations.get(event[2], ("", "", ""))
            events.append(
                Event(
                    offset + event[0],
                    event[1],
                    kind,
                    name,
                    statement,
                    more.get("status"),
                    more.get("error") or "",
                    child,
                )
            )
        chapters[own] = Chapter(
            own,
            None,
            0,
            offset,
            work["duration_ms"] or 0.0,
            work["kind"],
            work["service"],
            title_of(work),
            work["status"],
            exception_of(work),
            sorted(events, key=lambda event: event.offset_ms),
            dropped.get(own, 0),
            logs_of.get(own, []),
            work,
        )
    _adopt_by_span(works, parents)
    return _depth_first(chapters, parents), unclaimed


def _adopt_by_span(works: list[dict[str, Any]], parents: dict[int, int]) -> None:
    """Find parents where the caller's events are not known: its own span may be the parent."""
    by_span = {work["span_id"]: work["id"] for work in works if work["span_id"]}
    for work in works:
        parent = by_span.get(work["parent_id"])
        if work["id"] not in parents and parent is not None and parent != work["id"]:
            parents[work["id"]] = parent


def _depth_first(chapters: dict[int, Chapter], parents: dict[int, int]) -> list[Chapter]:
    children: dict[int | None, list[int]] = {}
    for chapter in chapters:
        children.setdefault(parents.get(chapter), []).append(chapter)
    ordered: list[Chapter] = []
    seen: set[int] = set()

    def follow(chapter: int, depth: int) -> None:
        if chapter in seen:  # spans that claim to have caused each other
            return
        seen.add(chapter)
        ordered.append(replace(chapters[chapter], parent=parents.get(chapter), depth=depth))
        for child in children.get(chapter, ()):
            follow(child, depth + 1)

    for chapter in (*children.get(None, ()), *chapters):
        follow(chapter, 0)
    return ordered


def _claim(
    works: list[dict[str, Any]], logs: list[dict[str, Any]], start: int
) -> tuple[dict[int, list[LogLine]], list[LogLine]]:
    """Give each log line to the work of its process during which it was written."""
    claimed: dict[int, list[LogLine]] = {}
    unclaimed = []
    by_process: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for work in works:
        by_process.setdefault((work["service"], work["host"], work["pid"]), []).append(work)
    for log in logs:
        line = LogLine(
            log["id"],
            (log["id"] - start) / 1000,
            log["level"],
            log["logger"],
            log["message"],
            log["service"],
            exception_of(log),
            log["stack"] or "",
            log["file"] or "",
        )
        owner = None
        for work in by_process.get((log["service"], log["host"], log["pid"]), ()):
            # The canonical line and the record are written by two clocks' readings: a little slack.
            if (
                work["id"] - 1000
                <= log["id"]
                <= work["id"] + (work["duration_ms"] or 0) * 1000 + 2000
            ):
                owner = work["id"]
        if owner is None:
            unclaimed.append(line)
        else:
            claimed.setdefault(owner, []).append(line)
    return claimed, unclaimed
