"""The demonstration's processes: started under introspect-run, found by their log, always ended."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

T = TypeVar("T")

_SITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "demo_site")

SECONDS_TO_START = 30.0
SECONDS_TO_STOP = 8.0

# What a shell may hold and the demonstration must not depend on.
_FOREIGN = ("INTROSPECT_", "_INTROSPECT_", "DD_", "OTEL_", "DJANGO_", "GUNICORN_", "DEMO_")
_FOREIGN_NAMES = frozenset({"WEB_CONCURRENCY", "PYTHONWARNINGS"})

_LISTENING = re.compile(r"Listening at: (http://[0-9.]+:[0-9]+)")
_CONSOLE = re.compile(r"introspect console: (http://\S+)")
_CONSOLE_INPUTS = re.compile(r"StatsD at udp://([0-9.]+):([0-9]+), .*udp://([0-9.]+:[0-9]+);")
_TAIL_LINES = 15


class DemoError(Exception):
    """The demonstration cannot go on; the message says why, and what to do about it."""


def check_requirements() -> None:
    """Raise ``DemoError`` unless what the extra ``demo`` names is installed where we are."""
    needed = ("django", "gunicorn", "datasette", "ddsketch")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(
            f"{' and '.join(missing)} not installed in {sys.prefix}: "
            "pip install 'introspect-agent[demo]'"
        )


def program(name: str) -> str:
    """Return the path of a command of this Python's environment; ``DemoError`` without it."""
    beside_python = os.path.dirname(sys.executable)
    found = shutil.which(name, path=os.pathsep.join((beside_python, os.environ.get("PATH", ""))))
    if found is None:
        raise DemoError(
            f"there is no command {name} beside {sys.executable}: "
            "pip install 'introspect-agent[demo]'"
        )
    return found


def environment(**variables: str) -> dict[str, str]:
    """Return our environment without settings of ours and of others' agents, plus *variables*."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and name not in _FOREIGN_NAMES
    }
    return {**kept, "NO_PROXY": "*", **variables}


def wait_for(find: Callable[[], T], seconds: float) -> T:
    """Call *find* until it finds something, or so many *seconds* have passed; return its last."""
    deadline = time.monotonic() + seconds
    while True:
        found = find()
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def unpack_site(folder: str) -> None:
    """Copy the site into *folder*: where it is installed, it would pass for a part of the agent."""
    shutil.copytree(_SITE, _site_in(folder), ignore=shutil.ignore_patterns("__pycache__"))


def _site_in(folder: str) -> str:
    return os.path.join(folder, "site")


class Process:
    """A command in a process group of its own; it writes to `<name>.log` in *folder*."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        folder: str,
        cwd: str | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = os.path.join(folder, f"{name}.log")
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for us: we stop the others in order.
                start_new_session=True,
            )

    def output(self) -> str:
        """Return what it has written so far."""
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def check(self) -> None:
        """Raise ``DemoError`` with the end of its output if it has ended."""
        status = self.process.poll()
        if status is not None:
            raise DemoError(
                f"`{self.shown()}` ended with status {status}; it wrote:\n{self.tail()}"
            )

    def shown(self) -> str:
        """Return the command as one would type it."""
        return " ".join(os.path.basename(word) for word in self.command)

    def tail(self) -> str:
        """Return its last lines, indented."""
        return "\n".join(f"    {line}" for line in self.output().splitlines()[-_TAIL_LINES:])

    def stop(self) -> None:
        """End it by SIGTERM, then whatever is left of its group."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(SECONDS_TO_STOP)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def find(self, pattern: re.Pattern[str], what: str) -> tuple[str, ...]:
        """Wait until it has written *pattern*, and return its groups."""

        def look() -> re.Match[str] | None:
            found = pattern.search(self.output())
            if found is None:
                self.check()
            return found

        found = wait_for(look, SECONDS_TO_START)
        if found is None:
            raise DemoError(
                f"`{self.shown()}` does not say {what} within {SECONDS_TO_START:.0f} s; "
                f"it wrote:\n{self.tail()}"
            )
        return found.groups()


def gunicorn(service: str, env: Mapping[str, str], folder: str) -> Process:
    """Start one of the two services, on a free port of gunicorn's own finding."""
    return Process(
        service,
        [program("introspect-run"), program("gunicorn"), "--bind=127.0.0.1:0", f"{service}.wsgi"],
        _of_service(service, env),
        folder,
        cwd=_site_in(folder),
    )


def address(service: Process) -> str:
    """Return the URL at which gunicorn listens."""
    return service.find(_LISTENING, "where it listens")[0]


def console(env: Mapping[str, str], folder: str) -> Process:
    """Start the console on free ports, its file in *folder*."""
    ports = [f"--{kind}=0" for kind in ("port", "statsd-port", "log-port")]
    database = os.path.join(folder, "console.sqlite3")
    return Process(
        "console", [program("introspect"), "console", f"--db={database}", *ports], env, folder
    )


def console_address(process: Process) -> str:
    """Return the URL of the console's first page."""
    return process.find(_CONSOLE, "where its pages are")[0]


def console_inputs(process: Process) -> tuple[tuple[str, int], str]:
    """Return host and port that the console takes StatsD at, and the URL for JSON log lines."""
    host, port, log = process.find(_CONSOLE_INPUTS, "where it receives")
    return (host, int(port)), f"tcp://{log}"


def fill_databases(services: Iterable[str], env: Mapping[str, str]) -> None:
    """Make the database of each service, unmeasured: nobody wants to see that in a table."""
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(_manage, [], name, env, f"stock_{name}") for name in services]
        for one in done:
            one.result()


def manage(service: str, env: Mapping[str, str], *words: str) -> str:
    """Run a management command of a service to its end and return its output."""
    return _manage([program("introspect-run")], service, env, *words)


def _manage(launcher: list[str], service: str, env: Mapping[str, str], *words: str) -> str:
    done = subprocess.run(
        [*launcher, sys.executable, "manage.py", *words],
        cwd=_site_in(env["DEMO_FOLDER"]),
        env=_of_service(service, env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DemoError(
            f"`manage.py {' '.join(words)}` of {service} failed:\n{done.stdout}{done.stderr}"
        )
    return done.stdout.strip()


def _of_service(service: str, env: Mapping[str, str]) -> dict[str, str]:
    return {**env, "DJANGO_SETTINGS_MODULE": f"{service}.settings", "DEMO_SERVICE": service}
