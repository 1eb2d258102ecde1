"""The benchmark script works; what it measures is not tested."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    for title in (
        "CPU per request, all threads",
        "CPU per operation",
        "Undisturbed CPU per request",
        "Undisturbed CPU per operation",
        "Wall time per request",
    ):
        assert f"| {title}, µs |" in done.stdout
    for operation in ("request", "query", "template", "outgoing call", "log record"):
        assert f"| {operation} |" in done.stdout
    for reading in ("start-up CPU of", "resident memory", "modules imported"):
        assert f"| {reading}" in done.stdout
    assert re.search(r"\| \(b\) .* \| .*%\) \|", done.stdout)


def test_a_variant_is_measured_beside_itself() -> None:
    """`--within` has the same rows, and without the patches nothing is sent."""
    words = [sys.executable, str(SCRIPT), *SMALLEST, "--within"]
    shown = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    done = subprocess.run([*words, "--json"], capture_output=True, check=True)

    assert "| none | introspect |" in shown
    assert re.search(r"\| \(b\) .* \| .*%\) \|", shown)
    [found] = json.loads(done.stdout)["rounds"]
    assert [blocks[0]["datagrams"] for blocks in found["introspect"]["base"].values()] == [0] * 6
    assert min(blocks[0]["datagrams"] for blocks in found["introspect"]["pages"].values()) >= 1


def test_growth_is_shown_over_requests_names_and_processes() -> None:
    """`--growth` has a row for each of what a process may meet ever more of, with memory and CPU."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--growth", "--requests", "1", "--variant", "introspect"],
        capture_output=True,
        check=True,
        text=True,
    )

    for what in ("empty", "names", "processes"):
        assert re.search(rf"\| introspect \| {what} \| (\d+, )+\d+ \| (\d+, )+\d+ \|", done.stdout)


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_instructions_are_counted() -> None:
    """What one request executes is counted by valgrind, page by page, and set beside another variant's."""
    worker = (
        "import sys\n"
        "for line in sys.stdin:\n"
        "    page, number = line.split()\n"
        "    for _ in range({times} * int(number) if page == 'busy' else 0): sum(range(100_000))\n"
    )
    code = (
        "import sys, overhead_instructions as o\n"
        "found = {name: o.counted([sys.executable, '-S', '-c', worker], {}, {'busy': 3, 'idle': 2})\n"
        "         for name, worker in zip(('none', 'more'), sys.argv[1:])}\n"
        "print(o.instructions_report(found, {'busy': 'Busy', 'idle': 'Idle'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, worker.format(times=1), worker.format(times=3)],
        cwd=SCRIPT.parent,
        capture_output=True,
        check=True,
        text=True,
    )

    assert "| Instructions per request, user space | none | more |" in done.stdout
    assert "| Misses of a 512 KiB cache per request | none | more |" in done.stdout
    [busy] = re.findall(r"\| Busy \| ([\d,]{6,}) \| \+[\d,]{6,} \(\+([\d.]+)%\) \|", done.stdout)
    assert int(busy[0].replace(",", "")) > 100_000
    assert float(busy[1]) == pytest.approx(200, abs=2)
