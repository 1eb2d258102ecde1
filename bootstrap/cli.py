"""``introspect …``: the commands that people type."""

from __future__ import annotations

import os
import signal
import sys

from introspect.bootstrap import run

USAGE = """\
usage: introspect COMMAND [ARGUMENTS…]

  demo      see it work: a small site under load, and what arrives at StatsD
  check     say what would be measured here, and whether somebody listens
  console   receive metrics and logs, and show them on web pages, with no infrastructure
  story     print all that one correlation ID left behind, in every service
  tables    print the tables of settings, metrics and instrumentations
  run       the same as introspect-run

`introspect COMMAND --help` explains a command."""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    run.print_on_any_terminal()
    try:
        status = _answer(sys.argv[1:] if argv is None else argv)
        print(end="", flush=True)  # at exit, nobody could catch it
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 128 + signal.SIGPIPE
    return status


def _answer(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    command, arguments = words[0], words[1:]
    if command in ("-V", "--version"):
        from introspect.agent import __version__

        print(f"introspect {__version__}")
        return 0
    handler = COMMANDS.get(command)
    if handler is None:
        print(f"introspect: there is no command {command!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    return handler(arguments)


def _run(arguments: list[str]) -> int:
    return run.main(arguments)


def _tables(arguments: list[str]) -> int:
    from introspect.bootstrap import tables

    sections = {
        "settings": tables.settings_table,
        "metrics": tables.metrics_table,
        "instrumentations": tables.instrumentations_table,
    }
    for name in arguments or sections:
        if name not in sections:
            print(
                f"introspect tables: there is no table {name!r}; there are {', '.join(sections)}",
                file=sys.stderr,
            )
            return 2
        print(f"{sections[name]()}\n")
    return 0


def _check(arguments: list[str]) -> int:
    from introspect.bootstrap import check

    return check.main(arguments)


def _demo(arguments: list[str]) -> int:
    from introspect.bootstrap import demo

    return demo.main(arguments)


def _console(arguments: list[str]) -> int:
    try:
        from introspect.console import main
    except ImportError as error:
        return _console_is_missing(error)
    return main.main(arguments)


def _story(arguments: list[str]) -> int:
    try:
        from introspect.console import story
    except ImportError as error:
        return _console_is_missing(error)
    return story.main(arguments)


def _console_is_missing(error: ImportError) -> int:
    print(
        f"introspect: the console needs {error.name}, which is not installed: "
        "pip install 'introspect-agent[console]'",
        file=sys.stderr,
    )
    return 1


COMMANDS = {
    "check": _check,
    "console": _console,
    "demo": _demo,
    "run": _run,
    "story": _story,
    "tables": _tables,
}

if __name__ == "__main__":
    sys.exit(main())
