"""A server command on a free port: started, waited for, always ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.helpers.ports import LOOPBACK, free_port, is_listening
from tests.helpers.processes import EndedEarlyError, Running, running, wait_until


class Server(Running):
    """A server that accepts connections at `base_url` (without a slash at the end)."""

    def __init__(self, started: Running, port: int) -> None:
        super().__init__(started.process, started.folder)
        self.host, self.port = LOOPBACK, port
        self.base_url = f"http://{LOOPBACK}:{port}"


@contextlib.contextmanager
def serve(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    patience: float = 60.0,
) -> Iterator[Server]:
    """Run a server while the block lasts, from when it accepts connections; afterwards nothing of it is left.

    `{host}` and `{port}` in the command's words stand for the loopback address and a free port.  The server is asked
    whether it accepts a TCP connection, never for a page, so that it serves only the requests of the test.

    Raises:
        EndedEarlyError: The command ended, or did not accept a connection within `patience` seconds.
    """
    port = free_port()
    words = [word.replace("{host}", LOOPBACK).replace("{port}", str(port)) for word in command]
    with running(words, env, cwd) as started:
        _wait_for_connection(started, port, patience)
        yield Server(started, port)


def _wait_for_connection(started: Running, port: int, patience: float) -> None:
    def accepts_or_ended() -> bool:
        return started.returncode is not None or is_listening(LOOPBACK, port)

    try:
        wait_until(accepts_or_ended, patience)
    except AssertionError:
        raise EndedEarlyError(f"no connection within {patience} s\n{started.report()}") from None
    if started.returncode is not None:
        raise EndedEarlyError(started.report())
