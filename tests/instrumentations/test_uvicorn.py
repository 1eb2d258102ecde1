"""uvicorn ends itself by the signal that stopped it: no exit hook runs, and nothing may be lost for that."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.test_outputs import TcpServer, in_process
from tests.helpers import rawhttp
from tests.helpers.processes import wait_until
from tests.helpers.site import Site
from tests.helpers.statsd import StatsdListener
from tests.instrumentations.story_site import story

# What uvicorn.server does behind its last line, from version 0.29 on.
ENDING = """
import logging, os, signal, sys
from introspect.bootstrap.start import start
start()
import uvicorn.server
for number in range(2000):
    logging.warning("line %d", number)
"""
RAISE = "uvicorn.server.signal.raise_signal(int(sys.argv[1]))"


@pytest.fixture
def tcp() -> Iterator[TcpServer]:
    """A server that takes JSON lines."""
    server = TcpServer()
    yield server
    server.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_held_is_sent(tcp: TcpServer, statsd: StatsdListener, number: int) -> None:
    """Every line that is queued has left, and every measurement, before the signal ends the process."""
    done = in_process(
        ENDING + RAISE, str(number), INTROSPECT_LOG=tcp.address, INTROSPECT_STATSD=statsd.address,
        INTROSPECT_SERVICE="ending",
    )  # fmt: skip

    assert done.returncode in (-number, 1)
    wait_until(lambda: len(tcp.lines) == 2000)
    statsd.wait_for_count("ending.log.warning", 2000)


def test_a_signal_that_somebody_handles(tcp: TcpServer) -> None:
    """A handler of the application's is called as ever, and afterwards lines go on being sent."""
    handled = """
signal.signal(signal.SIGTERM, lambda number, frame: print("handled", number))
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
    assert uvicorn.server.signal.raise_signal(number) is None
try:
    uvicorn.server.signal.raise_signal("no number")
except TypeError as error:
    print(error)
logging.warning("and on")
"""
    done = in_process(ENDING + handled, INTROSPECT_LOG=tcp.address, INTROSPECT_STATSD="off")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "handled 15"
    assert "interpreted as an integer" in done.stdout.splitlines()[1]
    wait_until(lambda: len(tcp.lines) == 2001)


@pytest.mark.parametrize("path", ["/async-slow/", "/slow/"])
def test_requests_that_are_cut_off(
    stocked_site: Site, tmp_path: Path, tcp: TcpServer, path: str
) -> None:
    """A request that outlives the time for a graceful stop has its line, and uvicorn's last line leaves as well."""
    outputs = f"file://{tmp_path / 'log'},{tcp.address}"
    options = ["--timeout-graceful-shutdown=1"]
    with story("uvicorn", stocked_site, tmp_path / "log", *options, LOG=outputs) as running:
        rawhttp.get(f"{running.url}/own/", {"X-Request-ID": "warm-up-0001"})
        with socket.create_connection(("127.0.0.1", running.server.port), 10) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: cut-off-0001\r\n\r\n".encode()
            )
            running.wait_for_begin("cut-off-0001")
            running.server.signal(signal.SIGTERM)
            assert running.server.process.wait(20) in (0, -signal.SIGTERM)
        line = running.request("cut-off-0001")
        in_file = running.lines()

    assert line["status"] is None
    assert line["path"] == path
    assert "aborted" in line["message"]
    assert any(line["message"].startswith("Finished server process") for line in in_file)
    wait_until(lambda: len(tcp.lines) == len(in_file))
