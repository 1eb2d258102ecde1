"""Ports that tests choose are theirs."""

from __future__ import annotations

import ast
import subprocess
import sys

from tests.helpers import ports
from tests.helpers.processes import clean_environment


def test_processes_side_by_side_choose_different_ports() -> None:
    """Another process that runs tests at the same time chooses from other ports than this one."""
    code = "from tests.helpers import ports; print([ports.free_port() for _ in range(50)])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert not set(ast.literal_eval(done.stdout)) & set(ports._RANGE)
    assert ports.free_port() in ports._RANGE
