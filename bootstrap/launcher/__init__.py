"""What the installed commands call: finds our packages, whatever else is called ``introspect``.

An application's own package of that name on PYTHONPATH hides ours, which are a namespace, from
every Python, and the commands are Python programs, too. So they begin in a package with a name of
its own, ``introspect_run``, which knows where ours are in every kind of installation.
"""

from __future__ import annotations

import os
import sys

USAGE_ERROR = 2
NOT_FOUND = 127
NOT_EXECUTABLE = 126


def run() -> int:
    """Be ``introspect-run``; if that fails, the command runs all the same."""
    try:
        _find_ours()
        from introspect.bootstrap import run as introspect_run

        return introspect_run.main()
    except (Exception, SystemExit) as error:
        return _run_without_us(sys.argv[1:], error)


def introspect() -> int:
    """Be ``introspect``; a command behind its ``run`` runs whatever fails."""
    try:
        _find_ours()
        from introspect.bootstrap import cli

        return cli.main()
    except (Exception, SystemExit) as error:
        if sys.argv[1:2] != ["run"]:
            raise
        return _run_without_us(sys.argv[2:], error)


def _find_ours() -> None:
    """Let ``introspect`` be our namespace in this process: no path is searched for it.

    Installed from a wheel, it lies beside this package. The finder of an editable installation
    goes by full names, and needs no path.
    """
    namespace = type(sys)("introspect")
    here = os.path.dirname(os.path.abspath(__file__))
    namespace.__path__ = [os.path.join(os.path.dirname(here), "introspect")]
    sys.modules["introspect"] = namespace


# What follows needs nothing of ours: that is what has failed.


def _run_without_us(words: list[str], error: BaseException) -> int:
    """Say what failed, and exec the command in *words* with the environment that it would have."""
    failure = f"{type(error).__name__}: {error}"
    command = _command_in(words)
    if not command:
        _complain(failure)
        return USAGE_ERROR
    _complain(f"{failure}; running the command without the agent")
    _restore_signals()
    try:
        os.execvp(command[0], command)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a name may be empty
        lost = os.path.isfile(command[0])  # the interpreter in its first line is what is missing
        _complain(f"{command[0]}: {'No such file or directory' if lost else 'command not found'}")
        return NOT_FOUND
    except OSError as refusal:
        _complain(f"{command[0]}: {refusal.strerror}")
        return NOT_EXECUTABLE


def _command_in(words: list[str]) -> list[str]:
    """Return what follows our options; nothing behind one with which no command runs."""
    for index, word in enumerate(words):
        if word == "--":
            return words[index + 1 :]
        if word not in ("--debug", "--info"):
            return [] if word.startswith("-") else words[index:]
    return []


def _restore_signals() -> None:
    """Undo what Python did at its start: ignored signals stay ignored across exec."""
    try:
        import signal

        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
    except Exception:
        pass


def _complain(message: str) -> None:
    try:  # noqa: SIM105  contextlib would be imported for this line alone
        sys.stderr.write(f"introspect-run: {message}\n")
    except Exception:  # closed, full, or None
        pass
