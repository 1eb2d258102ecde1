"""A command in its own process group: started, waited for, always ended."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]

# What a developer's shell may hold and a test must not depend on.
_FOREIGN_PREFIXES = ("INTROSPECT_", "DD_", "OTEL_", "DJANGO_", "PROJECT_", "GUNICORN_", "UWSGI_")
_FOREIGN_NAMES = ("PYTHONPATH", "PYTHONSTARTUP", "PYTHONHASHSEED", "RUN_MAIN", "WEB_CONCURRENCY")


class EndedEarlyError(RuntimeError):
    """A command ended before it was ready; the message holds what it wrote."""


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without settings of ours, of Django, or of other agents; plus `extra`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN_PREFIXES) and name not in _FOREIGN_NAMES
    }
    return {**kept, **extra}


def script(name: str) -> str:
    """Return the path of the command `name` of the environment that runs the tests, e.g. `gunicorn`."""
    return str(Path(sys.executable).with_name(name))


def introspect_run(*options: str) -> list[str]:
    """Return the words to put before a command so that it runs under the agent."""
    return [script("introspect-run"), *options]


def wait_until(probe: Callable[[], T], timeout: float = 60.0, what: str = "") -> T:
    """Call `probe` until it returns something true, and return that; `AssertionError` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout} s in vain for {what or probe}")
        time.sleep(0.02)


class Running:
    """A started command: its PID (that of its process group as well) and what it has written so far."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.folder = folder

    @property
    def stdout(self) -> str:
        """All that the command has written to its standard output so far."""
        return (self.folder / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """All that the command has written to its standard error so far."""
        return (self.folder / "stderr").read_text(errors="replace")

    @property
    def returncode(self) -> int | None:
        """The exit status; None while the command runs."""
        return self.process.poll()

    def wait(self, timeout: float = 90.0) -> int:
        """Wait for the end of the command at most `timeout` seconds, and return its exit status."""
        return self.process.wait(timeout)

    def signal(self, number: int) -> None:
        """Send a signal to the command itself, not to its children."""
        self.process.send_signal(number)

    def stop(self, patience: float = 10.0) -> None:
        """End the command as a service manager does (SIGTERM), then whatever is left of its group (SIGKILL)."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(patience)

    def report(self) -> str:
        """Return a text for a failed test: the command, its exit status and what it wrote."""
        return (
            f"command: {self.process.args}\nexit status: {self.returncode}\n"
            f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"
        )


@contextlib.contextmanager
def running(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    user: str | None = None,
) -> Iterator[Running]:
    """Run `command` in a process group of its own while the block lasts; afterwards nothing of the group is left.

    Args:
        command: The program and its arguments.
        env: The whole environment; by default `clean_environment()`.
        cwd: The working directory; by default the repository.
        user: Whose rights it has; by default those of this process.
    """
    with tempfile.TemporaryDirectory(prefix="introspect-test-") as folder:
        with Path(folder, "stdout").open("wb") as out, Path(folder, "stderr").open("wb") as err:
            process = subprocess.Popen(
                list(command),
                env=dict(clean_environment() if env is None else env),
                cwd=str(cwd or REPOSITORY),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                user=user,
                group=pwd.getpwnam(user).pw_gid if user else None,
            )
        started = Running(process, Path(folder))
        try:
            yield started
        except BaseException:
            print(started.report())  # pytest shows it with the failure
            raise
        finally:
            started.stop()
