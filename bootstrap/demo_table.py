"""What arrived at StatsD, as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from introspect.bootstrap.demo_statsd import Listener, Series

# So wide that one table's numbers stand below another's.
NAMES_WIDTH = 40
NUMBERS_WIDTH = 8

# metric, and what its table is called: its tags are the table's first columns, behind the service
TIMERS = (
    ("request", "Requests"),
    ("view", "Views, by method"),
    ("db", "Database, by alias and verb"),
    ("template", "Templates"),
    ("http", "Outgoing calls, by host"),
    ("cache", "Cache, by alias and operation"),
    ("command", "Commands"),
)
COUNTERS = (
    ("exception", "Exceptions, by class and view"),
    ("response", "Responses, by status"),
)


def report(listener: Listener) -> str:
    """Return a table for each metric that people ask for first."""
    sections = [_timers(title, listener.series(metric)) for metric, title in TIMERS]
    sections += [_counters(title, listener.series(metric)) for metric, title in COUNTERS]
    return "\n\n".join(section for section in sections if section)


def _timers(title: str, found: list[Series]) -> str:
    rows = [
        (
            f"{series.count:,.0f}",
            f"{series.mean:,.2f}",
            f"{series.quantile(0.95):,.2f}",
            f"{series.total:,.0f}",
        )
        for series in found
    ]
    return aligned(title, ("count", "mean ms", "p95 ms", "total ms"), _named(found), rows)


def _counters(title: str, found: list[Series]) -> str:
    return aligned(title, ("count",), _named(found), [(f"{one.total:,.0f}",) for one in found])


def _named(found: list[Series]) -> list[tuple[str, ...]]:
    return [(series.service, *series.tags) for series in found]


def aligned(
    title: str,
    header: Sequence[str],
    names: Sequence[Sequence[str]],
    numbers: Sequence[Sequence[str]],
) -> str:
    """Set rows of *names* to the left under *title*, their *numbers* to the right under *header*.

    Without rows there is no table: the empty string.
    """
    if not names:
        return ""
    lefts = [title, *("  ".join(row).rstrip() for row in _padded(names))]
    rights = ["  ".join(cell.rjust(NUMBERS_WIDTH) for cell in row) for row in (header, *numbers)]
    width = max(NAMES_WIDTH, *map(len, lefts))
    lines = [f"{left:<{width}}  {right}" for left, right in zip(lefts, rights, strict=True)]
    lines.insert(1, "─" * len(lines[0]))
    return "\n".join(lines)


def _padded(rows: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
