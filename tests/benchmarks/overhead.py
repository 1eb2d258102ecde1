"""Measure what the agent costs: CPU, time, memory, start-up, beside the least that measuring can.

    python tests/benchmarks/overhead.py                        about ten minutes
    python tests/benchmarks/overhead.py --rounds 3 --variant introspect
    python tests/benchmarks/overhead.py --tree before=../old   compare with another checkout
    python tests/benchmarks/overhead.py --within               one process, patches on and off
    python tests/benchmarks/overhead.py --growth               does anything grow?
    python tests/benchmarks/overhead.py --instructions         counted by valgrind, not timed

A round starts one fresh process per variant. The processes serve the pages of `overhead_pages.py`
in short blocks and by turns, in an order drawn anew for each block, so that whatever else the
machine does falls on all alike. What a variant costs is the median over a round's blocks of the
difference to the process without an agent in the same block, and then the median over the rounds.
The first blocks of a process are thrown away. Since a neighbour on the machine makes some requests
dearer and none cheaper, a second table has the tenth percentiles of single requests: what is
undisturbed. Two processes that do the same differ, though, by
where their memory happens to lie: with `--within`, a variant's neighbour is its own process with
the agent's patches taken out. Output is Markdown, or with --json everything
measured. Variants and pages stand in `overhead_plan.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overhead_instructions import counted, instructions_report
from overhead_plan import AGENT, BASE, DEFAULT_VARIANTS, FLOOR, PAGES, VARIANTS
from overhead_report import growth_report, report

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from overhead_instructions import Counts

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
WORKER = str(HERE / "overhead_worker.py")

WARM_UP_BLOCKS = 2
PLAIN_STARTS = 5

GROWTH_STEPS = 5
PROCESSES = (1, 2, 4, 8)


def main(argv: list[str] | None = None) -> None:
    """Measure as the command line says, and print."""
    options = _options(argv)
    variants = {name: VARIANTS[name] for name in (BASE, *options.variant)}
    trees = dict.fromkeys(variants, str(REPOSITORY))
    for name, tree in options.tree:
        variants[name] = AGENT
        trees[name] = str(Path(tree).resolve())
    with _bench(variants, trees) as bench:
        if options.growth:
            growth = {name: bench.growth(name, options.requests) for name in variants}
            print(json.dumps(growth) if options.json else growth_report(growth))
            return
        if options.instructions:
            counts = {name: bench.instructions(name, options.requests) for name in variants}
            titles = {page: planned.title for page, planned in PAGES.items()}
            print(json.dumps(counts) if options.json else instructions_report(counts, titles))
            return
        rounds = []
        for number in range(options.rounds):
            measure = bench.round_within if options.within else bench.round
            rounds.append(measure(number, options.blocks, options.requests))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    result = {"machine": machine(), "variants": list(variants), "rounds": rounds}
    print(json.dumps(result) if options.json else report(result))


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measured = [name for name in VARIANTS if name != BASE]
    parser.add_argument("--rounds", type=int, default=10, help="of fresh processes (10)")
    parser.add_argument("--blocks", type=int, default=20, help="per page, process and round (20)")
    parser.add_argument("--requests", type=int, default=100, help="to (a) in a block (100)")
    parser.add_argument(
        "--variant",
        type=lambda text: [_known(name, measured) for name in text.split(",") if name],
        default=list(DEFAULT_VARIANTS),
        help=f"which of {','.join(measured)} ({','.join(DEFAULT_VARIANTS)})",
    )
    parser.add_argument(
        "--tree",
        type=lambda text: text.split("=", 1),
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="measure another checkout's agent as well",
    )
    parser.add_argument(
        "--within",
        action="store_true",
        help="measure each variant against itself without its patches, in one process",
    )
    parser.add_argument(
        "--growth",
        action="store_true",
        help="memory and CPU over many requests, names and processes",
    )
    parser.add_argument(
        "--instructions",
        action="store_true",
        help="instructions and cache misses, counted by valgrind: an hour, on any machine",
    )
    parser.add_argument("--json", action="store_true", help="print everything measured")
    return parser.parse_args(argv)


def _known(name: str, names: Iterable[str]) -> str:
    if name not in names:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(names)}")
    return name


class Worker:
    """A measured process (`overhead_worker.py`)."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = _started([sys.executable, WORKER], environment)
        _pin(self._process, 0)
        self.startup_cpu_ms = self._answer()["startup_cpu_ms"]

    def serve(self, page: str, requests: int) -> dict[str, Any]:
        """Serve *page* so many times and return what one request took."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{page} {requests}\n")
        self._process.stdin.flush()
        return self._answer()

    def put_patches(self, *, on: bool) -> None:
        """Put the agent's functions in the places of the application's, or take them out."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"patches {'on' if on else 'off'}\n")

    def stop(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process {self._process.args} ended too early")
        return json.loads(line)


class Bench:
    """The variants' environments, and the process with the servers they talk to."""

    def __init__(
        self, environments: dict[str, dict[str, str]], loopback: subprocess.Popen[str]
    ) -> None:
        self.environments = environments
        self._loopback = loopback

    def round(self, number: int, blocks: int, requests: int) -> dict[str, Any]:
        """Measure all variants once, in fresh processes."""
        names = list(self.environments)
        draw = random.Random(number)
        found: dict[str, Any] = {name: {"pages": {page: [] for page in PAGES}} for name in names}
        for name in _shuffled(names, draw):
            found[name]["plain_start_cpu_ms"] = self._plain_start(name, [])
            launcher = [str(Path(sys.executable).with_name("introspect-run"))]
            found[name]["launched_cpu_ms"] = self._plain_start(name, launcher)
        with contextlib.ExitStack() as stack:
            workers = {}
            for name in _shuffled(names, draw):
                workers[name] = Worker({**self.environments[name], "PYTHONHASHSEED": str(number)})
                stack.callback(workers[name].stop)
                found[name]["startup_cpu_ms"] = workers[name].startup_cpu_ms
            for block in range(-WARM_UP_BLOCKS, blocks):
                for page in PAGES:
                    for name in _shuffled(names, draw):
                        measured = self._block(workers[name], page, requests)
                        if block >= 0:
                            found[name]["pages"][page].append(measured)
        return found

    def round_within(self, number: int, blocks: int, requests: int) -> dict[str, Any]:
        """Measure each variant beside itself without patches; what a start takes is left out."""
        draw = random.Random(number)
        found: dict[str, Any] = {}
        for name in [name for name in self.environments if not name.startswith((BASE, FLOOR))]:
            measured: dict[bool, Any] = {on: {page: [] for page in PAGES} for on in (True, False)}
            worker = Worker({**self.environments[name], "PYTHONHASHSEED": str(number)})
            try:
                for block in range(-WARM_UP_BLOCKS, blocks):
                    for page in PAGES:
                        for on in draw.sample((True, False), 2):
                            worker.put_patches(on=on)
                            worker.serve(page, 2)  # Python adapts its code to what it meets
                            taken = self._block(worker, page, requests)
                            if block >= 0:
                                measured[on][page].append(taken)
            finally:
                worker.stop()
            found[name] = {"pages": measured[True], "base": measured[False]}
        return found

    def growth(self, name: str, requests: int) -> dict[str, list[dict[str, float]]]:
        """Serve the empty page, then ever new names, in equal steps; then from more processes."""
        worker = Worker(self.environments[name])
        try:
            for page in PAGES:
                worker.serve(page, requests)
            steps = {
                page: [worker.serve(page, requests * 10) for _ in range(GROWTH_STEPS)]
                for page in ("empty", "names")
            }
        finally:
            worker.stop()
        steps["processes"] = [self._processes(name, number, requests) for number in PROCESSES]
        return steps

    def instructions(self, name: str, requests: int) -> dict[str, Counts]:
        """Count what a request to each page executes."""
        print(f"counting {name}", file=sys.stderr)
        environment = {**self.environments[name], "PYTHONHASHSEED": "0"}
        numbers = {page: _repeats(page, requests) for page in PAGES}
        return counted([sys.executable, WORKER], environment, numbers)

    def _processes(self, name: str, number: int, requests: int) -> dict[str, float]:
        """Serve the pages from so many processes by turns; return what one of them took."""
        with contextlib.ExitStack() as stack:
            workers = [Worker(self.environments[name]) for _ in range(number)]
            for worker in workers:
                stack.callback(worker.stop)
                for page in PAGES:
                    worker.serve(page, requests)
            served = [worker.serve("empty", requests * 10) for worker in workers]
        return {key: statistics.mean(one[key] for one in served) for key in ("cpu_us", "rss_kib")}

    def _block(self, worker: Worker, page: str, requests: int) -> dict[str, Any]:
        repeats = _repeats(page, requests)
        before = self._datagrams()
        measured = worker.serve(page, repeats)
        return {**measured, "datagrams": (self._datagrams() - before) / repeats}

    def _plain_start(self, name: str, launcher: list[str]) -> float:
        """Return the CPU milliseconds of a process that imports nothing, Django least of all."""
        program = "import time; print(time.process_time_ns() / 1e6)"
        return statistics.median(
            float(
                subprocess.check_output(
                    [*launcher, sys.executable, "-c", program], env=self.environments[name]
                )
            )
            for _ in range(PLAIN_STARTS)
        )

    def _datagrams(self) -> int:
        assert self._loopback.stdin is not None
        assert self._loopback.stdout is not None
        self._loopback.stdin.write("\n")
        self._loopback.stdin.flush()
        return int(self._loopback.stdout.readline())


def _repeats(page: str, requests: int) -> int:
    """Return how many requests to *page* take as long as so many empty ones."""
    return max(1, requests * PAGES[page].share // 100)


@contextlib.contextmanager
def _bench(variants: dict[str, dict[str, str]], trees: dict[str, str]) -> Iterator[Bench]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("INTROSPECT_", "OVERHEAD_", "DJANGO_", "DD_", "OTEL_", "PYTHON"))
    }
    loopback = _started([sys.executable, str(HERE / "overhead_loopback.py")], kept)
    _pin(loopback, 1)
    try:
        assert loopback.stdout is not None
        ports = json.loads(loopback.stdout.readline())
        with tempfile.TemporaryDirectory(prefix="introspect-overhead-") as folder:
            base = {
                **kept,
                "DJANGO_SETTINGS_MODULE": "overhead_site",
                "OVERHEAD_DATABASE": str(Path(folder, "shop.sqlite3")),
                "OVERHEAD_OTHER_SERVICE": f"http://127.0.0.1:{ports['web']}/",
            }
            subprocess.run([sys.executable, WORKER, "stock"], env=base, check=True)
            places = {
                "statsd": f"udp://127.0.0.1:{ports['statsd']}",
                "unwaited": f"udp://127.0.0.1:{ports['unwaited']}",
                "folder": folder,
            }
            environments = {}
            longest = max(map(len, variants.values()))
            for name, extra in variants.items():
                own = {
                    key: value.format(tree=trees[name], variant=name, **places)
                    for key, value in extra.items()
                }
                if "PYTHONPATH" in own:
                    linked = _importable(Path(trees[name]), Path(folder, name))
                    own["PYTHONPATH"] += f"{os.pathsep}{linked}"
                # As many for all: `requests` goes through every variable of the environment, and
                # more than once a call, whatever they are about.
                padding = {f"OVERHEAD_VARIABLE_{n}": "of no use" for n in range(longest - len(own))}
                environments[name] = {**base, **own, **padding}
            yield Bench(environments, loopback)
    finally:
        loopback.communicate()


def _importable(tree: Path, folder: Path) -> Path:
    """Make a folder from which `introspect` is imported as it is in *tree*."""
    package = folder / "introspect"
    package.mkdir(parents=True)
    for part in ("agent", "bootstrap", "instrumentations"):
        (package / part).symlink_to(tree / part)
    return folder


def _started(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _pin(process: subprocess.Popen[str], number: int) -> None:
    """Let the process run on one CPU alone, if there are two: 0 for the measured, 1 for servers.

    Where both meet on one CPU, they empty each other's caches, and a request costs a third more.
    """
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(process.pid, {sorted(os.sched_getaffinity(0))[number]})


def _shuffled(names: list[str], draw: random.Random) -> list[str]:
    return draw.sample(names, len(names))


def machine() -> dict[str, str]:
    """Say what the figures were measured on."""
    import django

    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "django": django.get_version(),
    }


if __name__ == "__main__":
    main()
