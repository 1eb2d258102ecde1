"""``introspect demo``: two small services under load, and what the agent says about them.

- ``demo_site/``       the two services, a Django site like many
- ``demo_services``    their processes, and the console's
- ``demo_signals``     Ctrl-C and its like
- ``demo_traffic``     their visitors
- ``demo_statsd``      the StatsD server that hears the agent
- ``demo_table``       what it heard, as a table
- ``demo_story``       what one request left behind, and who sees what when a view fails
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from introspect.bootstrap.demo_signals import Interrupted, Signals

if TYPE_CHECKING:
    from collections.abc import Callable

    from introspect.bootstrap.demo_services import Process
    from introspect.bootstrap.demo_statsd import Listener

USAGE = """\
usage: introspect demo [--once]

Starts a small site of two Django services with `introspect-run gunicorn …`, sends a few dozen
requests through it, and prints what arrived at StatsD and what one request left in logs and
databases. Then leaves the site and a console with its data running until Ctrl-C.

  --once   end when everything is printed

It uses free ports of the loopback address and a temporary folder, and leaves nothing behind."""

SERVICES = ("front", "back")
SECONDS_TO_ARRIVE = 5.0
SECONDS_BETWEEN_LOOKS = 0.5


def main(argv: list[str]) -> int:
    """Run the demonstration; returns an exit status, 130 or so after a signal before its end."""
    if "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    unknown = [word for word in argv if word != "--once"]
    if unknown:
        print(f"introspect demo: unknown option {unknown[0]}\n\n{USAGE}", file=sys.stderr)
        return 2
    from introspect.bootstrap.demo_services import DemoError

    try:
        with Signals() as signals:
            _demonstrate(signals, once="--once" in argv)
    except DemoError as error:
        print(f"introspect demo: {error}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        return 128 + interrupted.signal
    return 0


def _demonstrate(signals: Signals, *, once: bool) -> None:
    from introspect.bootstrap import demo_services, demo_statsd
    from introspect.bootstrap.demo_story import SUPERUSER

    demo_services.check_requirements()
    _say("Two small Django services, measured from outside: not a line of theirs is changed.\n")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="introspect-demo-"))
        services: list[Process] = []

        def start(process: Callable[..., Process], *arguments: Any) -> Process:
            with signals.held():
                started = process(*arguments)
                stack.callback(started.stop)
            return started

        try:
            password = secrets.token_urlsafe(6)
            env = demo_services.environment(
                DEMO_FOLDER=folder, DEMO_SECRET=secrets.token_urlsafe(), DEMO_PASSWORD=password
            )
            console = start(demo_services.console, env, folder)
            _say("  two databases and a console are being made …")
            demo_services.unpack_site(folder)
            demo_services.fill_databases(SERVICES, env)
            statsd, log = demo_services.console_inputs(console)
            listener = demo_statsd.Listener(SERVICES, forward=statsd)
            stack.callback(listener.close)
            env |= {
                "INTROSPECT_STATSD": listener.address,
                "INTROSPECT_LOG": log,
                "INTROSPECT_DETAIL": "all",
                "INTROSPECT_SQL_COMMENT": "path,id",
                "INTROSPECT_SUPERUSER_ERRORS": "1",
            }
            for service, variable in (("back", "DEMO_BACK"), ("front", "DEMO_FRONT")):
                services.append(start(demo_services.gunicorn, service, env, folder))
                env[variable] = demo_services.address(services[-1])
                _say(f"  introspect-run gunicorn {service}.wsgi".ljust(40) + env[variable])
            slowest = _load(env, listener)
            _tell(env, services, listener)
            _say(_links(demo_services.console_address(console), slowest))
            if not once:
                _say(
                    f"Browse {env['DEMO_FRONT']}/ and {env['DEMO_BACK']}/ (log in as {SUPERUSER}, "
                    f"password {password}). Ctrl-C ends everything."
                )
                _wait_until_interrupted([console, *services])
        finally:
            signals.ignore()
            for one in services:  # together; each is then waited for, and the console goes last
                one.process.terminate()


def _load(env: dict[str, str], listener: Listener) -> str:
    """Visit the site and run a command; return the ID of the slowest request."""
    from introspect.bootstrap import demo_services
    from introspect.bootstrap.demo_story import COMMAND
    from introspect.bootstrap.demo_traffic import VISITS, drive

    slowest = drive(env["DEMO_FRONT"], VISITS, _Progress("requests", len(VISITS)).show)
    answer = demo_services.manage("front", env, *COMMAND)
    _say(f"  introspect-run python manage.py {' '.join(COMMAND)}: {answer}\n")
    _wait_for_requests(len(VISITS), listener)
    return slowest


def _tell(env: dict[str, str], services: list[Process], listener: Listener) -> None:
    """Print what arrived, and what one request, a command and an error left behind."""
    from introspect.bootstrap import demo_story, demo_table

    front, folder = env["DEMO_FRONT"], env["DEMO_FOLDER"]
    _say(f"What {listener.datagrams} datagrams brought to StatsD:\n")
    _say(demo_table.report(listener) + "\n")
    listener.forget()
    _say(demo_story.of_one_request(front, services, folder) + "\n")
    _say(demo_story.of_the_command(folder) + "\n")
    _say(demo_story.of_an_error(front, env["DEMO_PASSWORD"]) + "\n")


def _links(console: str, slowest: str) -> str:
    return (
        f"The console has all of it:\n"
        f"  overview                     {console}\n"
        f"  story of the slowest request {console}story/{slowest}\n"
        f"  search for an error          {console}logs?q=ValueError\n"
    )


def _wait_for_requests(number: int, listener: Listener) -> None:
    """Wait until the last request's datagram is here; ``DemoError`` if some never come."""
    from introspect.bootstrap.demo_services import DemoError, wait_for

    def counted() -> int:
        return sum(
            one.service == "front" and one.metric == "request" for one in listener.measurements()
        )

    wait_for(lambda: counted() >= number, SECONDS_TO_ARRIVE)
    if counted() != number:
        raise DemoError(
            f"of {number} requests, {counted()} were reported to StatsD at {listener.address}"
        )


def _wait_until_interrupted(started: list[Process]) -> None:
    """Wait for Ctrl-C; ``DemoError`` if one of the services ends by itself."""
    try:
        while True:
            for one in started:
                one.check()
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except Interrupted as interrupted:
        if interrupted.signal != signal.SIGINT:
            raise
        _say("")


class _Progress:
    """One line that counts up on a terminal, and is written once elsewhere."""

    def __init__(self, what: str, number: int) -> None:
        self._what = what
        self._number = number
        self._is_terminal = sys.stdout.isatty()

    def show(self, done: int) -> None:
        """Say that so many are done."""
        is_last = done == self._number
        if self._is_terminal or is_last:
            start = "\r" if self._is_terminal else ""
            end = "\n" if is_last else ""
            print(f"{start}  {done} of {self._number} {self._what}", end=end, flush=True)


def _say(text: str) -> None:
    print(text, flush=True)
