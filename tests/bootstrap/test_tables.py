"""`introspect tables`: what can be set, measured and instrumented, from the code."""

from __future__ import annotations

import sys

import pytest

from introspect import instrumentations
from introspect.agent import metrics
from introspect.agent.settings import SETTINGS
from introspect.bootstrap import tables
from tests.bootstrap.launching import environment, plain

COMMAND = (sys.executable, "-m", "introspect.bootstrap.cli")


def rows(table: str) -> list[list[str]]:
    """Return the cells of a Markdown table, header and rule left out."""
    lines = table.splitlines()
    assert set(lines[1].replace("|", "").split()) == {"---"}
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_settings() -> None:
    """Every setting is a row, with its default and its fallbacks."""
    found = {row[0]: row for row in rows(tables.settings_table())}

    assert list(found) == [f"`{setting.variable}`" for setting in SETTINGS]
    assert "`DD_SERVICE`" in found["`INTROSPECT_SERVICE`"][2]


def test_metrics() -> None:
    """Every metric that any instrumentation declares is a row."""
    found = [row[0] for row in rows(tables.metrics_table())]

    assert found == [f"`{metric.name}`" for metric in metrics.catalogue()]
    assert {"`request`", "`view`", "`db`", "`template`", "`http`"} <= set(found)


def test_instrumentations() -> None:
    """Every file of the folder is a row, with its first sentence."""
    found = rows(tables.instrumentations_table())

    assert [row[0] for row in found] == [f"`{name}`" for name in instrumentations.names()]
    assert all(row[1] for row in found)


@pytest.mark.parametrize("words", [(), ("settings",), ("metrics", "instrumentations")])
def test_command(words: tuple[str, ...]) -> None:
    """The command prints all tables, or those named."""
    done = plain(*COMMAND, "tables", *words)

    assert done.returncode == 0
    assert done.stdout.decode().count("\n| --- |") == (len(words) or 3)


def test_unknown_table() -> None:
    """An unknown table is named with those there are."""
    done = plain(*COMMAND, "tables", "chairs")

    assert done.returncode == 2
    assert b"no table 'chairs'; there are settings, metrics, instrumentations" in done.stderr


def test_usage() -> None:
    """Without a command there is the usage; an unknown one is named, and the usage follows."""
    assert plain(*COMMAND).returncode == 2
    assert plain(*COMMAND, "--help").returncode == 0
    done = plain(*COMMAND, "dance")

    assert done.returncode == 2
    assert b"there is no command 'dance'" in done.stderr
    assert b"usage: introspect COMMAND" in done.stderr


def test_version() -> None:
    """--version prints it."""
    from introspect.agent import __version__

    assert plain(*COMMAND, "--version").stdout.decode() == f"introspect {__version__}\n"


@pytest.mark.parametrize("words", [[], ["--help"], ["tables"], ["demo", "--help"]])
def test_terminal_without_unicode(words: list[str]) -> None:
    """What a terminal cannot show is replaced, and keeps nothing from being printed."""
    done = plain(*COMMAND, *words, env=environment(PYTHONIOENCODING="ascii"))

    assert done.returncode == (0 if words else 2)
    assert done.stderr == b""


def test_reader_that_leaves() -> None:
    """Where nobody reads any more, as behind `head`, there is no traceback."""
    done = plain("sh", "-c", '"$@" | true', "sh", *COMMAND, "tables")

    assert done.stderr == b""
