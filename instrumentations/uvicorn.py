"""Let uvicorn send all that is held before it ends itself by the signal that stopped it."""

from __future__ import annotations

from typing import Any

from introspect.agent import ending
from introspect.agent.patching import noticed


def signal_raised(args: Any, _kwargs: Any) -> None:
    """Do what is left to do if the process will not survive *args*, the signal that it raises."""
    import signal

    ends = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    if args and args[0] in ends and signal.getsignal(args[0]) is signal.SIG_DFL:
        ending.run()


# Its last act, and no exit hook runs behind it. `Server.serve`, which calls it, is running already
# when we come: uvicorn imports the application from within.
PATCHES = (noticed("uvicorn.server:signal.raise_signal", signal_raised),)
