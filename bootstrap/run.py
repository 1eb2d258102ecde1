"""``introspect-run CMD ARGS…``: become the command, with the agent in its Python."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

USAGE = """\
usage: introspect-run [--debug] [--info] [--version] [--] COMMAND [ARGUMENTS…]

Runs COMMAND, say `gunicorn mysite.wsgi`, and measures what Django does in it.
Metrics go to StatsD at udp://127.0.0.1:8125 unless INTROSPECT_STATSD says otherwise.

  --debug    the agent explains itself on stderr (INTROSPECT_DEBUG=1)
  --info     print the settings in force and where each comes from, then run COMMAND if there is one
  --version  print the version

All settings are environment variables: `introspect tables` lists them."""

_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGES = os.path.dirname(_HERE)
STARTUP = os.path.join(_HERE, "startup")

NOT_FOUND = 127
NOT_EXECUTABLE = 126


def main(argv: list[str] | None = None) -> int:
    """Replace this process by the command; returns an exit status only if that is impossible."""
    _guarded(print_on_any_terminal)
    options, command = split(sys.argv[1:] if argv is None else argv)
    for option in options:
        if option not in ("--debug", "--info", "--version", "--help", "-h"):
            _complain(f"unknown option {option}\n{USAGE}")
            return 2
    if "--help" in options or "-h" in options or not (command or options):
        print(USAGE)
        return 0 if options else 2
    if "--version" in options:
        from introspect.agent import __version__

        print(f"introspect-run {__version__}")
        return 0
    if "--info" in options:
        _guarded(_print_info)
    if not command:
        return 0
    return run(command, debug="--debug" in options)


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split our options from the command, which starts at the first word without a dash."""
    for index, word in enumerate(argv):
        if word == "--":
            return argv[:index], argv[index + 1 :]
        if not word.startswith("-"):
            return argv[:index], argv[index:]
    return argv, []


def run(command: list[str], *, debug: bool = False) -> int:
    """Exec *command*. Whatever fails of ours is said, and the command runs all the same."""
    environ = dict(os.environ)
    program = find_program(command[0], environ.get("PATH", os.defpath))
    if program is None:
        _complain(f"{command[0]}: command not found{_hint(command[0], None)}")
        return NOT_FOUND
    _guarded(lambda: _add_agent(environ, program, command, debug=debug))
    _guarded(_restore_signals)
    try:
        os.execve(program, command, environ)
    except OSError as error:
        _complain(f"{program}: {error.strerror}{_hint(program, error.errno)}")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE


def _add_agent(environ: dict[str, str], program: str, command: list[str], *, debug: bool) -> None:
    package = package_in_the_way()
    if package is not None:
        _complain(
            f"{package} is in the way of our own package `introspect`: the command runs without "
            "the agent. Rename that package, or leave its folder out of PYTHONPATH"
        )
        return
    prepare(environ, debug=debug)
    _guarded(lambda: _name_obstacles(program, command))


def package_in_the_way() -> str | None:
    """Return the file of another ``introspect`` that Python finds in the place of ours."""
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("introspect")
    file = spec.origin if spec is not None else None
    if file is None or os.path.realpath(os.path.dirname(file)) == os.path.realpath(_PACKAGES):
        return None
    return file


def _restore_signals() -> None:
    """Undo what Python did at its start: ignored signals stay ignored across exec."""
    import signal

    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def _name_obstacles(program: str, command: list[str]) -> None:
    from introspect.bootstrap import obstacles

    for sentence in obstacles.found_in(program, command):
        _complain(sentence)


def prepare(environ: dict[str, str], *, debug: bool) -> None:
    """Put the start-up folder first on PYTHONPATH, and say who we are."""
    environ["PYTHONPATH"] = python_path(environ.get("PYTHONPATH", ""))
    environ["_INTROSPECT_LAUNCH"] = "|".join(
        (str(os.getpid()), f"{sys.version_info[0]}.{sys.version_info[1]}", sys.prefix)
    )
    if debug:
        environ["INTROSPECT_DEBUG"] = "1"


def python_path(present: str) -> str:
    """Return PYTHONPATH with our folder first, whatever was there behind it, nothing twice.

    An empty component stands for the current directory: a user's is written out, so that none is
    left that somebody might take for ours.
    """
    if not present:
        return STARTUP
    entries = {_normalized(STARTUP): STARTUP}
    for entry in present.split(os.pathsep):
        if os.path.realpath(entry) != os.path.realpath(STARTUP):  # as it is in a nested launch
            # As site does when it makes sys.path of it: two names of one folder both stay.
            entries.setdefault(_normalized(entry), entry or os.curdir)
    return os.pathsep.join(entries.values())


def _normalized(entry: str) -> str:
    # A relative one stays relative: it is another folder to a child with another current one.
    return os.path.abspath(entry) if os.path.isabs(entry) else os.path.normpath(entry)


def find_program(name: str, path: str) -> str | None:
    """Return the file that a shell would run for *name*, or else one that it may not execute."""
    if os.sep in name:
        return name if os.path.lexists(name) else None
    forbidden = None
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder or ".", name)
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            forbidden = forbidden or candidate
    return forbidden


def _hint(program: str, error: int | None) -> str:
    """Say what to do about *program*, which was not found (``None``) or failed to run."""
    if not os.path.isfile(program):
        return ""
    if error == errno.ENOENT:
        return "; the interpreter named in its first line does not exist"
    if program.endswith(".py"):
        return f"; did you mean `introspect-run python {program}`?"
    if error == errno.ENOEXEC:
        return f"; did you mean `introspect-run sh {program}`?"
    return f"; did you mean `introspect-run ./{program}`?" if error is None else ""


def print_on_any_terminal() -> None:
    """Let standard output show a ``?`` for what its encoding lacks, where it would fail."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _print_info() -> None:
    from introspect.bootstrap import tables

    print(tables.settings_in_force(os.environ), flush=True)  # exec drops what is buffered


def _guarded(action: Callable[[], None]) -> None:
    try:
        action()
    except Exception as error:
        _complain(f"{type(error).__name__}: {error}; running the command without what this was for")


def _complain(message: str) -> None:
    try:  # noqa: SIM105  contextlib would be imported for this line alone
        sys.stderr.write(f"introspect-run: {message}\n")
    except Exception:  # closed, full, or None
        pass
