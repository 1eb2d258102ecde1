"""The tables of `overhead.py`: medians of paired differences, as Markdown."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

from overhead_plan import BASE, PAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    Round = dict[str, Any]


class Figure(NamedTuple):
    """A median over rounds, and how far the true one may be off: about a 95 % interval."""

    value: float
    plus_minus: float

    def __str__(self) -> str:
        return f"{self.value:+.1f} ± {self.plus_minus:.1f}"


def figure(values: list[float]) -> Figure:
    """Return the median of *values* with its uncertainty, from their quartiles."""
    if len(values) < 2:
        return Figure(values[0], 0.0)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Figure(statistics.median(values), 1.57 * (high - low) / len(values) ** 0.5)


def extra_of_page(found: Round, name: str, page: str, what: str) -> float:
    """Return what the variant *name* takes more per request than its neighbour without agent."""
    return statistics.median(
        mine[what] - base[what]
        for mine, base in zip(found[name]["pages"][page], _base(found, name)[page], strict=True)
    )


def _base(found: Round, name: str) -> Any:
    """Return the pages of the neighbour: another process, or *name*'s own without its patches."""
    return found[name].get("base") or found[BASE]["pages"]


def level_of_base(found: Round, name: str, page: str, what: str) -> float:
    """Return what the neighbour of the variant *name* takes per request."""
    return statistics.median(block[what] for block in _base(found, name)[page])


def quiet_extra_of_page(found: Round, name: str, page: str) -> float:
    """Return what the variant *name* takes more per request while nothing disturbs.

    That is the difference of the tenth percentiles of all single requests of a round: what shares
    the machine makes some requests dearer, and none cheaper.
    """
    return _quiet(found[name]["pages"][page]) - _quiet(_base(found, name)[page])


def _quiet(blocks: list[dict[str, Any]]) -> float:
    each = [microseconds for block in blocks for microseconds in block["cpu_us_each"]]
    return statistics.quantiles(each, n=10, method="inclusive")[0] if len(each) > 1 else each[0]


def cost_of_operation(found: Round, name: str, page: str) -> float:
    """Return CPU microseconds per operation: less those that the empty page takes more too."""
    extra = extra_of_page(found, name, page, "cpu_us") - extra_of_page(
        found, name, "empty", "cpu_us"
    )
    return extra / PAGES[page].operations


def quiet_cost_of_operation(found: Round, name: str, page: str) -> float:
    """Return the same while nothing disturbs."""
    extra = quiet_extra_of_page(found, name, page) - quiet_extra_of_page(found, name, "empty")
    return extra / PAGES[page].operations


def report(result: dict[str, Any]) -> str:
    """Return all tables."""
    machine, rounds = result["machine"], result["rounds"]
    names = [name for name in result["variants"] if name in rounds[0] and name != BASE]
    sections = [
        "{cpu}, {cores} cores; Python {python}, Django {django}".format(**machine),
        f"Medians of {len(rounds)} rounds, as differences to no agent, with 95 % intervals.",
        _section("CPU per request, all threads, µs", _page_rows(rounds, names, "cpu_us"), names),
        _section("CPU per operation, µs", _operation_rows(rounds, names), names),
        _section("Undisturbed CPU per request, µs", _quiet_page_rows(rounds, names), names),
        _section("Undisturbed CPU per operation, µs", _quiet_operation_rows(rounds, names), names),
        _section("Wall time per request, µs", _page_rows(rounds, names, "wall_us"), names),
    ]
    if BASE in rounds[0]:
        sections.append(_section("Process", _process_rows(rounds, names), names))
    return "\n\n".join(sections)


def _section(title: str, rows: list[list[str]], names: list[str]) -> str:
    header = [title, BASE, *names]
    table = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def _page_rows(rounds: list[Round], names: list[str], what: str) -> list[list[str]]:
    rows = []
    for page, (title, *_) in PAGES.items():
        level = statistics.median(level_of_base(found, names[0], page, what) for found in rounds)
        row = [title, f"{level:.0f}"]
        for name in names:
            extra = figure([extra_of_page(found, name, page, what) for found in rounds])
            row.append(f"{extra} ({extra.value / level:+.1%})")
        rows.append(row)
    return rows


def _quiet_page_rows(rounds: list[Round], names: list[str]) -> list[list[str]]:
    rows = []
    for page, (title, *_) in PAGES.items():
        level = statistics.median(_quiet(_base(found, names[0])[page]) for found in rounds)
        row = [title, f"{level:.0f}"]
        for name in names:
            extra = figure([quiet_extra_of_page(found, name, page) for found in rounds])
            row.append(f"{extra} ({extra.value / level:+.1%})")
        rows.append(row)
    return rows


def _operation_rows(rounds: list[Round], names: list[str]) -> list[list[str]]:
    def request(found: Round, name: str) -> float:
        return extra_of_page(found, name, "empty", "cpu_us")

    return _rows_of_operations(rounds, names, request, cost_of_operation)


def _quiet_operation_rows(rounds: list[Round], names: list[str]) -> list[list[str]]:
    def request(found: Round, name: str) -> float:
        return quiet_extra_of_page(found, name, "empty")

    return _rows_of_operations(rounds, names, request, quiet_cost_of_operation)


def _rows_of_operations(
    rounds: list[Round],
    names: list[str],
    request: Callable[[Round, str], float],
    cost: Callable[[Round, str, str], float],
) -> list[list[str]]:
    extras = [str(figure([request(found, name) for found in rounds])) for name in names]
    rows = [["request", "", *extras]]
    for page, (_, _, operation, _) in PAGES.items():
        if not operation:
            continue
        row = [operation, ""]
        for name in names:
            found_cost = figure([cost(found, name, page) for found in rounds])
            row.append(f"{found_cost.value:+.2f} ± {found_cost.plus_minus:.2f}")
        rows.append(row)
    return rows


def _datagrams(found: Round, name: str, page: str) -> float:
    return statistics.median(block["datagrams"] for block in found[name]["pages"][page])


def _process_rows(rounds: list[Round], names: list[str]) -> list[list[str]]:
    def row(title: str, reading: Callable[[Round, str], float], form: str) -> list[str]:
        level = statistics.median(reading(found, BASE) for found in rounds)
        cells = [title, format(level, form)]
        for name in names:
            extra = figure([reading(found, name) - reading(found, BASE) for found in rounds])
            cells.append(f"{extra.value:+{form}} ± {extra.plus_minus:{form}}")
        return cells

    def last(what: str) -> Callable[[Round, str], float]:
        return lambda found, name: max(
            blocks[-1][what] for blocks in found[name]["pages"].values() if blocks
        )

    return [
        row(
            "start-up CPU of a Django process, first response included, ms",
            lambda found, name: found[name]["startup_cpu_ms"],
            ".1f",
        ),
        row(
            "start-up CPU of a process without Django, ms",
            lambda found, name: found[name]["plain_start_cpu_ms"],
            ".1f",
        ),
        row(
            "… launched by introspect-run, ms",
            lambda found, name: found[name]["launched_cpu_ms"],
            ".1f",
        ),
        row(
            "resident memory at the end, MB",
            lambda found, name: last("rss_kib")(found, name) / 1000 * 1.024,
            ".1f",
        ),
        row("modules imported at the end", last("modules"), ".0f"),
        row(
            "datagrams per request to (a)",
            lambda found, name: _datagrams(found, name, "empty"),
            ".2f",
        ),
        row(
            "datagrams per request to (c)",
            lambda found, name: _datagrams(found, name, "queries"),
            ".2f",
        ),
    ]


def growth_report(growth: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Return what each step of many requests left behind."""
    lines = [
        "| variant | page, or number of processes | resident after each step, KiB | CPU per request, µs |",
        "| --- | --- | --- | --- |",
    ]
    for name, pages in growth.items():
        for page, steps in pages.items():
            memory = ", ".join(f"{step['rss_kib']:.0f}" for step in steps)
            times = ", ".join(f"{step['cpu_us']:.0f}" for step in steps)
            lines.append(f"| {name} | {page} | {memory} | {times} |")
    return "\n".join(lines)
