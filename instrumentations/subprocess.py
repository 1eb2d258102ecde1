"""Let a child process inherit the correlation ID of the unit of work that starts it."""

from __future__ import annotations

import os
from typing import Any

from introspect.agent import correlation, work
from introspect.agent.patching import rewriting

# Popen(args, bufsize, executable, stdin, stdout, stderr, preexec_fn, close_fds, shell, cwd, env …)
_ENV_POSITION = 11

# Left by introspect-run: an environment with it was made from ours.
_MARK = "_INTROSPECT_LAUNCH"


def process_starts(args: Any, kwargs: Any) -> Any:
    """Add the ID to the child's environment, unless that is one of the application's own making."""
    unit = work.active()
    if unit is None or len(args) > _ENV_POSITION:
        return args, kwargs
    environ = kwargs.get("env")
    if environ is None:
        environ = os.environ
    elif _MARK not in environ:
        return args, kwargs
    return args, {**kwargs, "env": {**environ, correlation.CHILD_VARIABLE: unit.correlation_id}}


PATCHES = (rewriting("subprocess:Popen.__init__", process_starts),)
