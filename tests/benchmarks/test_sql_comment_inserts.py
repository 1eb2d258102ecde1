"""The script works; what it measures is not tested."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.helpers.processes import REPOSITORY


@pytest.mark.usefixtures("postgresql", "mariadb")
def test_each_database_has_a_row_for_each_setting() -> None:
    """One tiny turn inserts by each way, into each database, with each form of comment."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.sql_comment_inserts", "--rounds=1", "--turns=1"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        text=True,
    )

    rows = re.findall(r"^(\w+) +(\w+) +([\w,]+) +[\d.]+ +[\d.]+$", done.stdout, re.MULTILINE)
    assert sorted(rows) == sorted(
        (database, kind, setting)
        for database in ("postgresql", "mariadb", "sqlite")
        for kind in ("bulk_create", "executemany")
        for setting in ("off", "path", "path,id", "path,caller")
    )
