"""Put the agent together: settings → emitter → instrumentations. Knows all, is run once."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from introspect.agent import correlation, emitter, guard, metrics, patching, settings, work

if TYPE_CHECKING:
    from introspect.agent.settings import Settings

_started_in_pid = 0


def start() -> None:
    """Start the agent unless it is off, dormant, or started already. Never raises.

    It starts no process (which would start the agent in turn) and no thread, installs no signal
    handler (servers have theirs), and reads no setting of Django's (they are not complete yet).
    """
    global _started_in_pid
    if _started_in_pid:
        return
    _started_in_pid = os.getpid()
    try:
        _start(os.environ)
    except Exception:
        guard.swallow(start)


def stop() -> None:
    """Restore everything that was patched; what was measured so far is sent. For tests."""
    global _started_in_pid
    work.process().flush()
    patching.undo_all()
    emitter.configure(None)
    work.configure(None)
    work.ride_along(None)
    _started_in_pid = 0


def _start(environ: os._Environ[str]) -> None:
    if _is_reloader(sys.argv, environ):
        return
    found, mistakes = settings.read(environ)
    guard.configure(debug=found.debug, on_error=work.count_error)
    for mistake in mistakes:
        guard.say(mistake, mistake)
    if not found.enabled:
        return
    metrics.configure(found)
    emitter.configure(found.statsd)
    correlation.configure(found)
    work.configure(None)
    if found.log:
        _ship_logs(found)
    fault = environ.get("INTROSPECT_TEST_FAULT")
    patching.inject_faults(fault in ("1", "after"), behind_alone=fault == "after")
    if fault == "end":
        work.configure(_fail)
    install(found)
    guard.debug(f"started in process {os.getpid()}: metrics go to {found.statsd}")


def _fail(*_args: object) -> None:
    """Raise, in the place of what writes a unit's line at its end: for tests only."""
    raise RuntimeError("INTROSPECT_TEST_FAULT is set")


def _ship_logs(found: Settings) -> None:
    from introspect.agent import canonical, logs
    from introspect.instrumentations import logging

    logs.configure(found)
    work.configure(canonical.Writer(found, logging.write).ended)


def install(found: Settings) -> None:
    """Apply the patches of every instrumentation, each on its own: one failure leaves the rest."""
    from introspect import instrumentations

    unknown = set(found.disable) - set(instrumentations.names())
    for name in sorted(unknown):
        guard.say(
            name,
            f"INTROSPECT_DISABLE names {name!r}, which is no instrumentation; "
            f"there are {', '.join(instrumentations.names())}",
        )
    for name in instrumentations.names():
        if name not in found.disable:
            try:
                module = instrumentations.load(name)
                if hasattr(module, "configure"):
                    module.configure(found)
                wanted = module.patches(found) if hasattr(module, "patches") else module.PATCHES
                patching.apply(wanted)
            except Exception:
                guard.swallow(f"instrumentations.{name}")


def _is_reloader(argv: list[str], environ: os._Environ[str]) -> bool:
    """Tell whether this is the parent of ``runserver``, which only watches files.

    Its child, started with ``RUN_MAIN`` (werkzeug's with ``WERKZEUG_RUN_MAIN``), serves.
    """
    return (
        len(argv) > 1
        and argv[1] in ("runserver", "runserver_plus")
        and "--noreload" not in argv
        and environ.get("RUN_MAIN") != "true"
        and environ.get("WERKZEUG_RUN_MAIN") != "true"
    )
