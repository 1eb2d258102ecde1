"""``introspect check``: what would happen here, tried out, and said."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from introspect.agent import settings as settings_module
from introspect.agent.patching import ABSENT, APPLIED, INHERITED, WAITING
from introspect.agent.transport import transport_for
from introspect.bootstrap import run, tables

if TYPE_CHECKING:
    from introspect.agent.patching import Patch
    from introspect.agent.settings import Address

USAGE = """\
usage: introspect check

Prints the settings in force and where each comes from, whether somebody listens where metrics go,
and, from inside a process started as introspect-run starts one, what has been instrumented there.
Exits with 1 if nothing would arrive."""

# The lowest and the highest version that the tests have run against.
TESTED = {
    "Django": ("4.2", "6.1"),
    "wrapt": ("1.17", "2.5"),
    "statsd": ("3.3", "4.0"),
    "importlib-metadata": ("6", "10.2"),
    "psutil": ("5.9", "7.2"),
    "requests": ("2.28", "2.34"),
    "urllib3": ("1.26", "2.8"),
    "celery": ("5.3", "5.7"),
}

# Imports what there is of the instrumented libraries, and tells what became of each target.
PROBE = """
import importlib, json
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except Exception:
        pass
from introspect.agent import patching
print(json.dumps(patching.status()))
"""


def main(arguments: list[str]) -> int:
    """Print the report; 0 if measurements would arrive, else 1."""
    if arguments:
        print(USAGE)
        return 0 if arguments[0] in ("-h", "--help") else 2
    found, _mistakes = settings_module.read(os.environ)
    print(tables.settings_in_force(os.environ))
    print()
    print(versions_report())
    print()
    listening, sentence = somebody_listens(found.statsd)
    print(sentence)
    working, report = hooks_report()
    print(report)
    return 0 if found.enabled and listening and working else 1


def versions_report() -> str:
    """Return a line for each library that matters: its version, and whether tests cover it."""
    import importlib_metadata

    lines = [f"Python {sys.version.split()[0]} in {sys.prefix}"]
    for name, (lowest, highest) in TESTED.items():
        try:
            version = importlib_metadata.version(name)
        except importlib_metadata.PackageNotFoundError:
            lines.append(f"{name:<20} not installed")
            continue
        tested = _number(lowest) <= _number(version) and _is_at_most(version, highest)
        note = "" if tested else f"  (untested: {lowest} to {highest} are)"
        lines.append(f"{name:<20} {version}{note}")
    return "\n".join(lines)


def somebody_listens(address: Address) -> tuple[bool, str]:
    """Send a counter to StatsD; return whether somebody takes it, and a sentence on that."""
    transport = transport_for(address)
    if not transport.wanted:
        return False, "INTROSPECT_STATSD is off: no metric is sent"
    try:
        sent = transport.send(b"introspect.check:1|c")
        time.sleep(0.1)  # the answer that nobody listens comes with the next datagram
        sent = transport.send(b"introspect.check:1|c") and sent
    finally:
        transport.close()
    if sent and not transport.drops:
        unsure = " (UDP tells no more)" if address.scheme == "udp" else ""
        return True, f"StatsD at {address} takes what it is sent{unsure}"
    return False, (
        f"nobody takes metrics at {address}: {transport.trouble}. Start a StatsD server there "
        "(`introspect console` is one), or set INTROSPECT_STATSD"
    )


def hooks_report() -> tuple[bool, str]:
    """Start a process as introspect-run does; return whether requests would be measured there."""
    environ = dict(os.environ)
    run.prepare(environ, debug=False)
    environ.pop("_INTROSPECT_LAUNCH")  # its process id would be ours
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(modules=_modules())],
        env={**environ, "INTROSPECT_STATSD": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [f"  {line}" for line in done.stderr.splitlines()]
    try:
        status: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return False, "\n".join(["the agent does not start in a process of its own:", *complaints])
    newer = {patch.target for patch in _patches() if patch.optional}
    by_state: dict[str, list[str]] = {}
    for target, state in status.items():
        if state != ABSENT or target not in newer:
            by_state.setdefault(state, []).append(target)
    applied, waiting = by_state.pop(APPLIED, []), by_state.pop(WAITING, [])
    by_state.pop(INHERITED, None)  # measured where the parent class has it
    lines = [f"instrumented functions: {len(applied)}"]
    if waiting:
        lines.append(f"of libraries that are not installed: {len(waiting)}")
    lines += [
        f"  {target}: {'not there in the installed version' if state == ABSENT else state}"
        for state, targets in by_state.items()
        for target in targets
    ]
    working = any(target.startswith("django.core.handlers") for target in applied)
    if not working:
        lines.append("Django's handlers are not instrumented: is Django installed here?")
    return working, "\n".join(lines + complaints)


def _modules() -> list[str]:
    return ["django.core.handlers.wsgi", *sorted({patch.module for patch in _patches()})]


def _patches() -> list[Patch]:
    from introspect import instrumentations

    return [
        patch for name in instrumentations.names() for patch in instrumentations.load(name).PATCHES
    ]


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _is_at_most(version: str, highest: str) -> bool:
    """Compare as far as *highest* goes: 6.0.3 is at most 6.0."""
    limit = _number(highest)
    return _number(version)[: len(limit)] <= limit
