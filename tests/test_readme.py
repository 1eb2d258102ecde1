"""What the README lists is what the code holds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_snippets import snippets
from tests.helpers.processes import REPOSITORY, clean_environment, running

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


@pytest.mark.host_only
def test_the_demonstration(tmp_path: Path) -> None:
    """In a fresh copy of the repository the documented command, with `--once`, is all it takes to see the documented tables."""
    (command,) = (text for text in snippets("README.md", "sh") if text.endswith("demo\n"))
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
    checkout = shutil.copytree(REPOSITORY, tmp_path / "checkout", ignore=left_out)

    with running(["sh", "-c", f"{command.rstrip()} --once"], cwd=checkout) as demonstration:
        status = demonstration.wait(800)
        # What pip says where it finds no index.
        if "(from versions: none)" in demonstration.stderr and os.environ.get("CI") != "true":
            pytest.skip("no package index can be reached")
        assert status == 0
        shown, printed = headings(snippets("README.md", "text")[0]), headings(demonstration.stdout)

    assert len(shown) == 3
    assert shown <= printed


def headings(text: str) -> set[str]:
    """Return the lines above rules, with single spaces."""
    return {" ".join(line.split()) for line in re.findall(r"^(.+)\n─+$", text, re.MULTILINE)}


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
