"""Let a child process inherit the correlation ID of the unit of work that starts it.

The child's environment alone has the ID, never this process's own, which is every thread's: but at
an ``execv``, with which all threads end.
"""

from __future__ import annotations

import os
from typing import Any

from introspect.agent import correlation, work
from introspect.agent.patching import rewriting, timed
from introspect.agent.wrappers import PASS

# Popen(args, bufsize, executable, stdin, stdout, stderr, preexec_fn, close_fds, shell, cwd, env …)
_ENV_POSITION = 11

# Left by introspect-run: an environment with it was made from ours.
_MARK = "_INTROSPECT_LAUNCH"

# Linux takes no longer word on a command line than 128 KiB, with the zero at its end.
LONGEST_WORD = 128 * 1024 - 1


def process_starts(args: Any, kwargs: Any) -> Any:
    """Add the ID to the environment of ``Popen``'s child."""
    environ = _with_id(kwargs.get("env"), _of_unit()) if len(args) <= _ENV_POSITION else None
    return (args, kwargs) if environ is None else (args, {**kwargs, "env": environ})


def uvloop_starts(args: Any, kwargs: Any) -> Any:
    """Add the ID to the environment of the child of uvloop's ``subprocess_exec(…, env=…)``."""
    given = kwargs.get("env")
    if given is not None and type(given) is not dict:
        return args, kwargs  # it refuses such an environment; a copy of ours it would take
    environ = _with_id(given, _of_unit())
    return (args, kwargs) if environ is None else (args, {**kwargs, "env": environ})


def process_spawns(args: Any, kwargs: Any) -> Any:
    """Add the ID to the environment of ``posix_spawn(path, argv, env, …)``."""
    environ = _with_id(args[2], _of_unit()) if len(args) > 2 else None  # noqa: PLR2004
    return (args, kwargs) if environ is None else ((*args[:2], environ, *args[3:]), kwargs)


def process_becomes(args: Any, kwargs: Any) -> Any:
    """Add the ID to the environment of ``execve(path, argv, env)``.

    This is what ``os.spawn*`` call as well, in the child that they have forked.
    """
    environ = _with_id(args[2], _of_fork()) if len(args) > 2 else None  # noqa: PLR2004
    return (args, kwargs) if environ is None else ((*args[:2], environ, *args[3:]), kwargs)


def process_is_to_become(_args: Any, _kwargs: Any) -> Any:
    """Add the ID to this process's own environment, which is what ``execv`` hands on.

    Not to a copy, for an ``execve``: C libraries may have added to it what Python does not know.
    """
    correlation_id = _of_fork()
    if correlation_id is None:
        return PASS
    before = os.environ.get(correlation.CHILD_VARIABLE)
    os.environ[correlation.CHILD_VARIABLE] = correlation_id
    return (before,)


def process_stays(token: Any, *_outcome: Any) -> None:
    """Take it out again, since ``execv`` has failed."""
    (before,) = token
    if before is None:
        os.environ.pop(correlation.CHILD_VARIABLE, None)
    else:
        os.environ[correlation.CHILD_VARIABLE] = before


def shell_runs(args: Any, kwargs: Any) -> Any:
    """Let the shell of ``os.system(command)`` export the ID, and become one that runs *command*.

    There is no environment to be given. The second shell has the place of the first, with the same
    process ID, name, text and exit status, which a prefix to the command itself would not leave as
    they are.
    """
    unit = work.active()
    if unit is None or len(args) != 1 or kwargs or type(args[0]) not in (str, bytes):
        return args, kwargs
    text = os.fsencode(args[0])
    if text.startswith((b"-", b"+")):  # which older C libraries let the shell take for options
        return args, kwargs
    quoted = text.replace(b"'", b"'\\''")
    export = f"export {correlation.CHILD_VARIABLE}={unit.correlation_id}".encode("ascii")
    rewritten = b"%b; exec /bin/sh -c '%b' sh" % (export, quoted)
    return (args if len(rewritten) > LONGEST_WORD else (rewritten,)), kwargs


def _of_unit() -> str | None:
    unit = work.active()
    return None if unit is None else unit.correlation_id


def _of_fork() -> str | None:
    # A unit ends at a fork in the child, since it goes on in the parent.
    return _of_unit() or work.forked_within()


def _with_id(environ: Any, correlation_id: str | None) -> dict[str, str] | None:
    """Return *environ* with the ID; ``None`` if there is none, or if *environ* is another one."""
    if correlation_id is None:
        return None
    if environ is None:
        environ = os.environ
    elif not _is_made_from_ours(environ):
        return None
    return {**environ, correlation.CHILD_VARIABLE: correlation_id}


def _is_made_from_ours(environ: Any) -> bool:
    try:
        return _MARK in environ
    except TypeError:  # os.environb, or nothing that can be an environment
        return False


PATCHES = (
    rewriting("subprocess:Popen.__init__", process_starts),
    # uvloop starts children by itself. The class of C below this one cannot be patched.
    rewriting("uvloop:Loop.subprocess_exec", uvloop_starts),
    rewriting("uvloop:Loop.subprocess_shell", uvloop_starts),
    rewriting("os:posix_spawn", process_spawns),
    rewriting("os:posix_spawnp", process_spawns),
    rewriting("os:execve", process_becomes),
    timed("os:execv", before=process_is_to_become, after=process_stays),
    rewriting("os:system", shell_runs),
)
