"""What the README lists is what the code holds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.processes import REPOSITORY, clean_environment

README = REPOSITORY / "README.md"


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
    readme = README.read_text()
    assert readme.count(f"<!-- {table} -->") == readme.count(f"<!-- /{table} -->") == 1
    written = readme.partition(f"<!-- {table} -->")[2].partition(f"<!-- /{table} -->")[0].strip()

    assert written.splitlines() == printed.splitlines()


def test_continuous_integration_runs_the_readmes_command(tmp_path: Path) -> None:
    """`.ci/run` runs what the README says runs the tests, nothing else, at the top, with CI=true."""
    (command,) = re.findall(
        r"^The tests, with all their set-up:\n\n```sh\n(.*?)\n```$",
        README.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    stand_in = tmp_path / "python3"
    stand_in.write_text('#!/bin/sh\necho "python3 $*"\necho "CI=$CI in $PWD"\nexit 7\n')
    stand_in.chmod(0o755)
    dirname = shutil.which("dirname")
    assert dirname is not None
    (tmp_path / "dirname").symlink_to(dirname)

    # Whatever else it might run is not to be found, and would be complained about.
    done = subprocess.run(
        [REPOSITORY / ".ci" / "run"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path), "CI": "false"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.splitlines() == [command, f"CI=true in {REPOSITORY}"]
    assert (done.returncode, done.stderr) == (7, "")
