"""What the README lists is what the code holds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.processes import REPOSITORY, clean_environment


@pytest.mark.parametrize("table", ["settings", "metrics", "instrumentations"])
def test_table_is_what_the_command_prints(table: str) -> None:
    """Each table of the README equals what `introspect tables` prints: paste it between the marks."""
    printed = subprocess.run(
        [sys.executable, "-m", "introspect.bootstrap.cli", "tables", table],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    readme = (REPOSITORY / "README.md").read_text()
    assert readme.count(f"<!-- {table} -->") == readme.count(f"<!-- /{table} -->") == 1
    written = readme.partition(f"<!-- {table} -->")[2].partition(f"<!-- /{table} -->")[0].strip()

    assert written.splitlines() == printed.splitlines()
