"""The pages' own process: Datasette over the file, for as long as the console lives.

Apart from the receiving process, so that a heavy page does not keep datagrams waiting.  Run as
``python -m introspect.console.serve DB HOST PORT`` with the token, if any, in the environment,
where other users cannot read it as they can a command line.  It prints one line, the address to
open, and ends when its standard input does: with whoever started it, however that died.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN_VARIABLE = "INTROSPECT_CONSOLE_TOKEN"  # noqa: S105  the variable's name, not a token


def main(argv: list[str]) -> int:
    """Serve until standard input ends; return an exit status."""
    from introspect.console.web import app

    path, host, port = argv
    try:
        app.serve(path, host, int(port), os.environ.pop(TOKEN_VARIABLE, None), _ready)
    except app.ConsoleError as error:
        sys.stderr.write(f"introspect console: {error}\n")
        return 1
    return 0


def _ready(address: str, stop: Callable[[], None]) -> None:
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
    threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()


def _stop_at_end_of_input(stop: Callable[[], None]) -> None:
    # Not sys.stdin: a thread waiting in its lock would make the interpreter's end fail.
    while os.read(0, 1024):
        pass
    stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
