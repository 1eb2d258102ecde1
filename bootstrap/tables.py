"""The tables of settings, metrics and instrumentations: printed, and in the README."""

from __future__ import annotations

from typing import TYPE_CHECKING

from introspect import instrumentations
from introspect.agent import metrics
from introspect.agent.settings import SETTINGS, in_force, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def settings_table() -> str:
    """Every setting, as a Markdown table."""
    return _markdown(
        ("variable", "default", "meaning"),
        (
            (
                "<br>".join(f"`{name}`" for name in (setting.variable,)),
                f"`{setting.default}`" if setting.default else "",
                setting.meaning + _else(setting.fallbacks),
            )
            for setting in SETTINGS
        ),
    )


def metrics_table() -> str:
    """Every metric of every instrumentation, as a Markdown table."""
    for name in instrumentations.names():
        instrumentations.load(name)
    return _markdown(
        ("name", "kind", "unit", "tags", "meaning"),
        ((f"`{m.name}`", m.kind, m.unit, ", ".join(m.tags), m.help) for m in metrics.catalogue()),
    )


def instrumentations_table() -> str:
    """Every instrumentation and what it does, as a Markdown table."""
    return _markdown(
        ("instrumentation", "what it does"),
        (
            (f"`{name}`", _first_sentence(instrumentations.load(name).__doc__))
            for name in instrumentations.names()
        ),
    )


def settings_in_force(environ: Mapping[str, str]) -> str:
    """The value of every setting, and the variable it comes from, for people."""
    texts, sources, _ = in_force(environ)
    found, mistakes = read(environ)
    rows = [(name, _masked(text or "-"), sources[name]) for name, text in texts.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{variable:<{widths[0]}} {value:<{widths[1]}} ({source})"
        for variable, value, source in rows
    ]
    lines.extend(f"mistake: {mistake}" for mistake in mistakes)
    if not found.enabled:
        lines.append("the agent is off")
    return "\n".join(lines)


def _masked(value: str) -> str:
    return "(set)" if "@" in value else value  # as in scheme://user:password@host


def _else(fallbacks: Sequence[str]) -> str:
    return f" (else `{'`, `'.join(fallbacks)}`)" if fallbacks else ""


def _first_sentence(docstring: str | None) -> str:
    return (docstring or "").partition("\n")[0].rstrip(".")


def _markdown(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )
