"""What a request executes, counted by valgrind's cachegrind instead of timed.

However busy the machine is, the counts hardly change: 1 % of page (b)'s instructions from run to
run, and 2 % of its misses, by where memory happens to lie. What the kernel does is not among them.
"""

from __future__ import annotations

import re
import subprocess
from typing import NamedTuple

# What most processors have: first-level caches of 32 KiB, and a second of 512 KiB.
CACHES = ("--I1=32768,8,64", "--D1=32768,8,64", "--LL=524288,8,64")


class Counts(NamedTuple):
    """Instructions executed, and reads and writes that found nothing in the second-level cache."""

    instructions: float
    misses: float

    def less(self, others: Counts) -> Counts:
        """Return the difference."""
        return Counts(self.instructions - others.instructions, self.misses - others.misses)

    def per(self, requests: int) -> Counts:
        """Return the share of one of so many."""
        return Counts(self.instructions / requests, self.misses / requests)


def counted(
    worker: list[str], environment: dict[str, str], requests: dict[str, int]
) -> dict[str, Counts]:
    """Return, by page, what one request to it takes in a process that has served them all.

    Counted in one process for all pages, and one more for each, which serves so many *requests* to
    it once more. Without garbage collection: whether it falls into one or the other is chance.
    """
    warm = "gc off\n" + "".join(f"{page} {number}\n" for page, number in requests.items())
    before = _run(worker, environment, warm)
    return {
        page: _run(worker, environment, f"{warm}{page} {number}\n").less(before).per(number)
        for page, number in requests.items()
    }


def _run(worker: list[str], environment: dict[str, str], orders: str) -> Counts:
    # What a start takes depends on how strings are hashed, which is drawn anew for each process.
    environment = {**environment, "PYTHONHASHSEED": "0"}
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=yes", *CACHES]
    done = subprocess.run(
        [*valgrind, "--cachegrind-out-file=/dev/null", *worker],
        env=environment,
        input=orders,
        capture_output=True,
        text=True,
        check=True,
    )
    return counts_in(done.stderr)


def counts_in(summary: str) -> Counts:
    """Read what cachegrind says at its end."""
    found = {
        name: int(number.replace(",", ""))
        for name, number in re.findall(r"(I\s+refs|LLi misses|LLd misses):\s*([\d,]+)", summary)
    }
    return Counts(
        next(number for name, number in found.items() if name.startswith("I ")),
        found["LLi misses"] + found["LLd misses"],
    )


def instructions_report(found: dict[str, dict[str, Counts]], titles: dict[str, str]) -> str:
    """Return the two tables; *found* is by variant and page, the first variant being the base."""
    base, *names = found
    return "\n\n".join(
        "\n".join(
            f"| {' | '.join(row)} |"
            for row in (
                [title, base, *names],
                ["---", *["---:"] * len(found)],
                *(
                    [titles[page], f"{level[item]:,.0f}", *_extras(found, names, page, item, level)]
                    for page, level in found[base].items()
                ),
            )
        )
        for item, title in enumerate(
            ("Instructions per request, user space", "Misses of a 512 KiB cache per request")
        )
    )


def _extras(
    found: dict[str, dict[str, Counts]], names: list[str], page: str, item: int, level: Counts
) -> list[str]:
    extras = [found[name][page][item] - level[item] for name in names]
    return [f"{extra:+,.0f} ({extra / level[item]:+.1%})" for extra in extras]
