"""The benchmark script works; what it measures is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("overhead.py")
SMALLEST = ("--rounds", "1", "--blocks", "1", "--requests", "4", "--variant", "floor,introspect")


def test_every_page_is_measured_and_sends_its_datagrams() -> None:
    """One tiny round measures each page in each variant, and only the agent sends anything."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *SMALLEST, "--json"], capture_output=True, check=True
    )

    [found] = json.loads(done.stdout)["rounds"]
    datagrams = {
        name: [block["datagrams"] for blocks in variant["pages"].values() for block in blocks]
        for name, variant in found.items()
    }
    assert datagrams["none"] == datagrams["floor"] == [0] * 6
    assert len(datagrams["introspect"]) == 6
    assert min(datagrams["introspect"]) >= 1


def test_the_report_has_a_row_for_each_operation() -> None:
    """The Markdown names what is measured, beside the floor."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *SMALLEST], capture_output=True, check=True, text=True
    )

    assert "| none | floor | introspect |" in done.stdout
    for operation in ("request", "query", "template", "outgoing call", "log record"):
        assert f"| {operation} |" in done.stdout
