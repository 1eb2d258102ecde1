"""``introspect console``: receive, keep and show, with the server it is about if one is named."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from introspect.console.pipeline import Pipeline
from introspect.console.receive import BindError, bind_both, bind_udp
from introspect.console.say import Voice, print_line
from introspect.console.serve import TOKEN_VARIABLE
from introspect.console.store import Store, StoreError, default_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

STATSD_PORT: Final = 8125
PORT: Final = 8126
LOG_PORT: Final = 8127

FORWARDED: Final = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")

STOP_PATIENCE: Final = 10.0
"""Seconds that the pages get to end before they are killed."""

RESTART_AFTER: Final = 2.0
"""Seconds between two starts of the pages, should they end by themselves."""

_DURATION: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE: Final = {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


def main(argv: list[str]) -> int:
    """Run the console until it is told to stop or its command ends; return an exit status."""
    options = _parser().parse_args(argv)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    token = options.token or os.environ.get(TOKEN_VARIABLE) or None
    if not _is_loopback(options.bind) and token is None:
        print_line(
            f"--bind {options.bind} shows everything to whoever reaches that address: give a token,"
            f" for example --token {secrets.token_urlsafe(16)}"
        )
        return 2
    try:
        with ExitStack() as stack:
            return _run(stack, options, command, token)
    except (StoreError, BindError, PagesError) as error:
        print_line(str(error))
        return 1


class PagesError(Exception):
    """The pages did not start; why was said by their own process."""


def _run(
    stack: ExitStack, options: argparse.Namespace, command: list[str], token: str | None
) -> int:
    voice = Voice()
    stopping = threading.Event()
    child = Command()
    # From here on a signal ends things in order; those for the command reach it once it runs.
    stack.enter_context(_signals(child, stopping))
    statsd = stack.enter_context(bind_udp(options.receive, options.statsd_port, "--statsd-port"))
    log_udp, log_tcp = bind_both(options.receive, options.log_port, "--log-port")
    stack.enter_context(log_udp)
    stack.enter_context(log_tcp)
    store = Store(options.db, options.retention, options.max_size)
    stack.callback(store.close)
    pages = Pages(options.db, options.bind, options.port, token)
    stack.callback(pages.stop)
    address = pages.start()
    pipeline = Pipeline(store, statsd, log_udp, log_tcp, voice)
    pipeline.start()
    stack.callback(pipeline.stop)
    ports = {"statsd": statsd.getsockname()[1], "log": log_udp.getsockname()[1]}
    _announce(address, options, ports)
    if command and not stopping.is_set():
        child.start(command, _child_environment(options.receive, ports))
        if stopping.is_set():  # told to stop in the very moment of the start
            child.forward(signal.SIGTERM)
    while not stopping.wait(0.1):
        status = child.poll()
        if status is not None:
            return status
        pages.restart_if_ended(voice)
    return child.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="introspect console",
        usage="introspect console [OPTIONS] [COMMAND ARGUMENTS…]",
        description="Receive metrics and logs of applications under introspect-run, keep them in"
        " one SQLite file and show them on web pages.  With a command, run it under introspect-run"
        " pointed at this console, and stop with it: introspect console gunicorn mysite.wsgi",
    )
    add = parser.add_argument
    add("--db", type=Path, default=default_path(), help="the file (%(default)s)")
    add("--port", type=_port, default=PORT, help="of the pages (%(default)s; 0: any)")
    add("--statsd-port", type=_port, default=STATSD_PORT, help="UDP (%(default)s)")
    add("--log-port", type=_port, default=LOG_PORT, help="JSON lines, UDP and TCP (%(default)s)")
    add("--bind", default="127.0.0.1", help="address of the pages (%(default)s)")
    add("--receive", default="127.0.0.1", help="address for StatsD and logs (%(default)s)")
    add("--token", help=f"what a browser must present (or set {TOKEN_VARIABLE}, which ps hides)")
    add("--retention", type=read_duration, default="7d", help="what is older goes (%(default)s)")
    add("--max-size", type=read_size, default="4GB", help="beyond, the oldest goes (%(default)s)")
    add("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: write a number up to 65535")
    return int(text)


def read_duration(text: str) -> float:
    """Read ``90s``, ``30m``, ``12h``, ``7d`` or ``2w``; in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: write e.g. 12h, 7d, 2w")
    return float(match[1]) * _DURATION[match[2]]


def read_size(text: str) -> int:
    """Read ``500MB`` or ``4GB``; in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]B)", text.upper())
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: write e.g. 500MB, 4GB")
    return int(float(match[1]) * _SIZE[match[2]])


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _announce(address: str, options: argparse.Namespace, ports: Mapping[str, int]) -> None:
    print(  # noqa: T201
        f"introspect console: {address}\n"
        f"  receiving StatsD at udp://{options.receive}:{ports['statsd']}, JSON lines at"
        f" tcp:// and udp://{options.receive}:{ports['log']}; keeping them in {options.db}",
        flush=True,
    )


def _child_environment(host: str, ports: Mapping[str, int]) -> dict[str, str]:
    if host in ("0.0.0.0", "::"):  # noqa: S104  listened on, not a place to send to
        host = "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    environment = dict(os.environ)
    environment.pop(TOKEN_VARIABLE, None)
    environment.update(
        INTROSPECT_STATSD=f"udp://{host}:{ports['statsd']}",
        INTROSPECT_LOG=f"tcp://{host}:{ports['log']}",
        INTROSPECT_LOG_FORMAT="json",
        INTROSPECT_DETAIL="all",
    )
    return environment


class Command:
    """The command that the console was started with, if any."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str], environment: Mapping[str, str]) -> None:
        """Run it under ``introspect-run``."""
        run = [sys.executable, "-m", "introspect_run", "--", *command]
        self._process = subprocess.Popen(run, env=environment)  # noqa: S603  as the user typed it

    def poll(self) -> int | None:
        """Return its exit status, or ``None`` while it runs."""
        return None if self._process is None else _status(self._process.poll())

    def forward(self, number: int) -> bool:
        """Pass a signal on; ``False`` if nothing is running."""
        if self._process is None or self._process.poll() is not None:
            return False
        if number != signal.SIGINT or not _is_terminal_ours():
            self._process.send_signal(number)
        return True

    def wait(self) -> int:
        """Wait for its end; return its exit status, 0 if there is no command."""
        return 0 if self._process is None else _status(self._process.wait()) or 0


def _status(code: int | None) -> int | None:
    """What a shell would report: 128 and the signal's number for a killed process."""
    return 128 - code if code is not None and code < 0 else code


def _is_terminal_ours() -> bool:
    """Whether Ctrl-C in our terminal reaches the command by itself."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


@contextmanager
def _signals(child: Command, stopping: threading.Event) -> Iterator[None]:
    """Pass signals on to the command; without one, they stop the console."""

    def receive(number: int, _: FrameType | None) -> None:
        if not child.forward(number) and number in ENDING:
            stopping.set()

    numbers = [getattr(signal, name) for name in FORWARDED]
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Pages:
    """The process that serves the pages."""

    def __init__(self, db: Path, host: str, port: int, token: str | None) -> None:
        self._db = db
        self._host = host
        self._port = port
        self._token = token
        self._process: subprocess.Popen[str] | None = None
        self._started = 0.0

    def start(self) -> str:
        """Start it and return the address to open."""
        environment = dict(os.environ)
        if self._token is not None:
            environment[TOKEN_VARIABLE] = self._token
        else:
            environment.pop(TOKEN_VARIABLE, None)
        self._started = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603  our own module
            [
                sys.executable,
                "-m",
                "introspect.console.serve",
                str(self._db),
                self._host,
                str(self._port),
            ],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us and the command; the pages end with us
        )
        assert self._process.stdout is not None
        address = self._process.stdout.readline().strip()
        if not address:
            raise PagesError("the pages did not start")
        # Started again, they are where they were, also if the system chose the port.
        self._port = urlsplit(address).port or self._port
        return address

    def restart_if_ended(self, voice: Voice) -> None:
        """Start the pages again if they ended by themselves."""
        if self._process is None or self._process.poll() is None:
            return
        if time.monotonic() - self._started < RESTART_AFTER:
            return
        voice.say("pages", f"the pages ended with status {self._process.returncode}: restarting")
        self.stop()
        try:
            self.start()
        except PagesError as error:
            voice.say("pages", str(error))

    def stop(self) -> None:
        """End it."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
