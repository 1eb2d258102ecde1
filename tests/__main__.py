"""Every check of the project, with all its set-up: `python3 -m tests`, on any Python from 3.10 on.

Standard library only.  Two lanes of steps run side by side; each step's output is kept in `.cache/logs`, and shown if
the step fails.  The environments in `.cache` are made on the first run and used again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests import environments, machine

REPOSITORY = environments.REPOSITORY
LOGS = environments.CACHE / "logs"

UNIT_TESTS = ("tests/agent", "tests/bootstrap", "tests/instrumentations")
SERVER_TESTS = ("tests/servers",)

# A test that hangs costs a quarter of an hour and shows where, instead of the whole run.
WATCHDOG = ["-o", "faulthandler_timeout=900", "-o", "faulthandler_exit_on_timeout=true"]
PYTEST = ["-m", "pytest", *WATCHDOG]


class StepFailedError(Exception):
    """A command of a step ended with another status than 0."""


class Commands:
    """Runs the commands of one step, one after the other, with their output in one log file."""

    def __init__(self, log: IO[bytes], is_shown: bool, minutes: float) -> None:
        self.log = log
        self.is_shown = is_shown
        self.deadline = time.monotonic() + 60 * minutes
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, command: list[str], **variables: str) -> None:
        """Run `command` with more environment variables; `StepFailedError` if it fails or time is up."""
        self._write(f"$ {' '.join(command)}\n".encode())
        self.process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watch = threading.Timer(self.deadline - time.monotonic(), self.stop)
        watch.start()
        try:
            with self.process:
                assert self.process.stdout is not None
                for line in self.process.stdout:
                    self._write(line)
            status = self.process.returncode
        finally:
            watch.cancel()
        if status:
            late = ", time is up" if time.monotonic() >= self.deadline else ""
            raise StepFailedError(f"status {status}{late}: {' '.join(command)}")

    def stop(self) -> None:
        """End the command that runs now, as Ctrl-C does, so that it ends its servers; after a while by force."""
        if self.process is None or self.process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
            os.killpg(self.process.pid, signal.SIGKILL)

    def _write(self, data: bytes) -> None:
        self.log.write(data)
        self.log.flush()
        if self.is_shown:
            sys.stdout.buffer.write(data)
            sys.stdout.flush()


@dataclass
class Step:
    """One line of the summary: how to run it, how long it may take, and how it went."""

    name: str
    meaning: str
    perform: Callable[[Commands, list[str]], None]
    minutes: float = 10
    is_shown: bool = False
    is_passed: bool = False
    seconds: float = 0.0
    last_line: str = ""
    commands: Commands | None = None

    @property
    def log(self) -> Path:
        """Where the output of the step is kept."""
        return LOGS / f"{self.name}.log"

    def run(self, pytest_words: list[str]) -> None:
        """Run the step, report its start and end, and never raise."""
        say(f"{self.name}: {self.meaning}")
        started = time.monotonic()
        with self.log.open("wb") as log:
            self.commands = Commands(log, self.is_shown, self.minutes)
            try:
                self.perform(self.commands, pytest_words)
                self.is_passed = True
            except Exception as error:
                log.write(f"{type(error).__name__}: {error}\n".encode())
        self.seconds = time.monotonic() - started
        lines = self.log.read_text(errors="replace").strip().splitlines()
        self.last_line = next(
            (line.strip("= ") for line in reversed(lines) if is_telling(line)), ""
        )
        say(f"{self.name}: {self.outcome} after {self.seconds:.0f} s: {self.last_line}")
        if not (self.is_passed or self.is_shown):
            print("\n".join(lines[-300:]), flush=True)

    @property
    def outcome(self) -> str:
        """The result in one word."""
        return "passed" if self.is_passed else "FAILED"


def is_telling(line: str) -> bool:
    """Tell whether a line of a log says how it went: neither a command nor the report of its status."""
    return bool(line.strip()) and not line.startswith(("$ ", "StepFailedError"))


def lint(commands: Commands, _words: list[str]) -> None:
    """Look for mistakes, and for files that are not formatted."""
    python = main_python(commands)
    commands.run([python, "-m", "ruff", "check"])
    commands.run([python, "-m", "ruff", "format", "--check"])


def types(commands: Commands, _words: list[str]) -> None:
    """Check the types of the packages under the names by which they are imported."""
    packages = [
        word for package in environments.PACKAGES for word in ("-p", f"introspect.{package}")
    ]
    farm = str(environments.link_farm())
    commands.run(
        [main_python(commands), "-m", "mypy", "--cache-dir", ".cache/mypy", *packages],
        MYPYPATH=farm,
    )


def tests(commands: Commands, words: list[str]) -> None:
    """Run the whole suite."""
    commands.run([main_python(commands), *PYTEST, *words])


def oldest(commands: Commands, words: list[str]) -> None:
    """Run what touches Django and the dependencies with the oldest versions of both."""
    python = environments.oldest_environment(commands.run)
    commands.run([str(python), *PYTEST, *UNIT_TESTS, *SERVER_TESTS, *words])


def newest(commands: Commands, words: list[str]) -> None:
    """Run the suite from the built wheel on the newest Python with the newest Django."""
    commands.run([main_python(commands), "-m", "tests.chroot", *WATCHDOG, *words])


def django(commands: Commands, _words: list[str]) -> None:
    """Run Django's own tests with the agent and without, and compare."""
    commands.run([main_python(commands), "-m", "tests.django_suite"])


def unit(commands: Commands, words: list[str]) -> None:
    """Run the quick part of the suite."""
    commands.run([main_python(commands), *PYTEST, *UNIT_TESTS, *words])


def main_python(commands: Commands) -> str:
    """Return the Python that has the tools, the present one with `--quick`."""
    return (
        sys.executable
        if os.environ.get("TESTS_QUICK")
        else str(environments.main_environment(commands.run))
    )


# Each lane is one step after the other; the lanes run side by side.
LANES = (
    (
        Step("lint", "ruff check, ruff format --check", lint),
        Step("types", "mypy, strict", types),
        Step("tests", "the whole suite", tests, minutes=80, is_shown=True),
        Step("django", "Django's own tests with and without the agent", django, minutes=40),
    ),
    (
        Step(
            "newest",
            "the suite on Python 3.14 with the newest Django, in a chroot",
            newest,
            minutes=80,
        ),
        Step("oldest", "the oldest Django and dependencies allowed", oldest, minutes=60),
    ),
)
QUICK_LANES = ((*LANES[0][:2], Step("unit", "the quick tests", unit, is_shown=True)),)


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    options = parse(sys.argv[1:])
    LOGS.mkdir(parents=True, exist_ok=True)
    lanes = choose(options)
    started = time.monotonic()
    if options.quick:
        os.environ["TESTS_QUICK"] = "1"
    else:
        machine.install_missing(say)
        prepare()
    threads = [
        threading.Thread(target=run_lane, args=(lane, options.pytest), daemon=True)
        for lane in lanes
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        for step in (step for lane in lanes for step in lane if step.commands):
            step.commands.stop()
        return 130
    return summarise([step for lane in lanes for step in lane], time.monotonic() - started)


def parse(words: list[str]) -> argparse.Namespace:
    """Read the command line; what stands behind `--` is for pytest."""
    names = [step.name for lane in LANES for step in lane]
    parser = argparse.ArgumentParser(prog="python3 -m tests", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="lint, types and unit tests with the present Python"
    )
    parser.add_argument(
        "--only", action="append", choices=names, metavar="STEP", help=f"one of {', '.join(names)}"
    )
    parser.add_argument("pytest", nargs="*", help="behind `--`: arguments for pytest")
    return parser.parse_args(words)


def choose(options: argparse.Namespace) -> tuple[tuple[Step, ...], ...]:
    """Return the lanes with the steps that were asked for."""
    lanes = QUICK_LANES if options.quick else LANES
    if not options.only:
        return lanes
    return tuple(tuple(step for step in lane if step.name in options.only) for lane in lanes)


def prepare() -> None:
    """Make the main environment before the lanes part, which both need it."""
    say("setting up .cache/venv")
    with (LOGS / "setup.log").open("wb") as log:
        try:
            environments.main_environment(Commands(log, is_shown=False, minutes=30).run)
        except StepFailedError as error:
            sys.exit(f"{error}\n{(LOGS / 'setup.log').read_text(errors='replace')}")


def run_lane(lane: tuple[Step, ...], pytest_words: list[str]) -> None:
    """Run the steps of a lane in their order; a failed one does not stop the others."""
    for step in lane:
        step.run(pytest_words)


def summarise(steps: list[Step], seconds: float) -> int:
    """Print a line for each step, and return the exit status."""
    failed = [step.name for step in steps if not step.is_passed]
    print()
    for step in steps:
        print(f"{step.name:8} {step.outcome} {step.seconds:5.0f} s  {step.last_line}")
    print(
        f"{len(steps) - len(failed)} steps passed, {len(failed)} failed in {seconds / 60:.1f} minutes"
    )
    # The suite's own summary stands last, for those who read no more than that.
    print(
        next((step.last_line for step in steps if step.name in {"tests", "unit"}), ""), flush=True
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
