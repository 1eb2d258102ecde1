"""Where JSON lines go: each output on the real thing, in good days and bad ones."""

from __future__ import annotations

import contextlib
import http.server
import json
import math
import os
import re
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from introspect.agent import outputs, settings, work
from introspect.agent.outputs import Outputs
from tests.helpers.ports import LOOPBACK, free_port
from tests.helpers.processes import clean_environment, introspect_run, wait_until
from tests.helpers.shippers import end_shippers
from tests.helpers.statsd import StatsdListener
from tests.instrumentations.http_server import http_server

LINE = b'{"message":"a line"}\n'

# As they are, before a fixture replaces them.
BETWEEN_TRIES = outputs.SECONDS_BETWEEN_TRIES


def outputs_to(*addresses: str) -> Outputs:
    """Return the outputs that `INTROSPECT_LOG` names."""
    found, mistakes = settings.read({"INTROSPECT_LOG": ",".join(addresses)})
    assert not mistakes
    return Outputs(found.log)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let shippers of a test end with it, and keep their messages apart."""
    others = set(threading.enumerate())
    monkeypatch.setattr(outputs, "SECONDS_BETWEEN_TRIES", (0.05,))
    work.process().flush_at = math.inf  # what is counted stays there for the tests to see
    yield
    shippers = end_shippers()
    for thread in set(threading.enumerate()) - others:
        if thread.name == "introspect-log":  # what it says from now on another test would hear
            thread.join(20)
    outputs._own_threads.clear()  # whose numbers other threads will have
    for shipper in shippers:
        if isinstance(shipper._deliver, outputs.TcpDelivery):
            shipper._deliver._hang_up()


class TcpServer:
    """logstash's `json_lines` input: keeps the lines of every connection."""

    def __init__(self, port: int = 0) -> None:
        self.socket = socket.create_server((LOOPBACK, port))
        self.port: int = self.socket.getsockname()[1]
        self.address = f"tcp://{LOOPBACK}:{self.port}"
        self.connections: list[socket.socket] = []
        self.received: list[bytes] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def lines(self) -> list[bytes]:
        """All whole lines so far."""
        return [line + b"\n" for data in list(self.received) for line in data.split(b"\n")[:-1]]

    def _run(self) -> None:
        while not self._stopping:
            ready, _, _ = select.select([self.socket, *self.connections], [], [], 0.05)
            for readable in ready:
                if readable is self.socket:
                    self.connections.append(self.socket.accept()[0])
                    self.received.append(b"")
                    continue
                with contextlib.suppress(OSError):
                    data = readable.recv(1 << 20)
                    index = self.connections.index(readable)
                    self.received[index] += data
                    if not data:
                        time.sleep(0.01)

    def close(self) -> None:
        """Hang up and stop listening."""
        self._stopping = True
        self._thread.join()
        for connection in self.connections:
            connection.close()
        self.socket.close()


@pytest.fixture
def tcp() -> Iterator[TcpServer]:
    """A TCP server of the test's own."""
    with contextlib.closing(TcpServer()) as server:
        yield server


def in_process(code: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter of its own to its end."""
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env=clean_environment(**environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


PREAMBLE = """
import os, sys, time
from introspect.agent import settings
from introspect.agent.outputs import Outputs
import introspect.agent.outputs as ours
ours.SECONDS_AT_EXIT = float(os.environ.get("SECONDS_AT_EXIT", 60))
outputs = Outputs(settings.log_outputs(sys.argv[1]))
def write(text):
    outputs.write(b'{"message":"' + text.encode() + b'"}\\n')
"""


def test_standard_streams() -> None:
    """A line goes to standard output and standard error as they are at that moment."""
    done = in_process(f"{PREAMBLE}\nwrite('one')", "stdout,stderr")

    assert done.stdout == done.stderr == '{"message":"one"}\n'


def test_a_standard_stream_that_has_been_redirected(tmp_path: Path) -> None:
    """Where a server has put a log file in the place of standard output, lines go there."""
    path = tmp_path / "log"
    code = f"{PREAMBLE}\nos.dup2(os.open({str(path)!r}, os.O_WRONLY | os.O_CREAT), 1)\nwrite('one')"

    assert in_process(code, "stdout").returncode == 0
    assert path.read_bytes() == b'{"message":"one"}\n'


@pytest.mark.parametrize(("number", "redirected"), [(1, "1>&-"), (2, "2>&-"), (1, "")])
def test_a_standard_stream_whose_number_has_become_the_databases(
    number: int, redirected: str
) -> None:
    """Where a stream is closed, before or after the start, the connection with its number gets no line."""
    code = (
        "import os, socket\n"
        f"if {redirected!r}: database, server = socket.socketpair()\n"
        f"{PREAMBLE}\n"
        f"if not {redirected!r}: os.close({number}); database, server = socket.socketpair()\n"
        f"database.send(b'query' if database.fileno() == {number} else b'no test'); write('one')\n"
        "os.write(int(sys.argv[2]), server.recv(1000) + b' %d' % outputs.dropped)"
    )
    words = [sys.executable, "-c", code, {1: "stdout", 2: "stderr"}[number], "9"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" 9>&1 {redirected}', "sh", *words],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert done.stdout == b"query 1", done.stderr


def test_a_full_standard_output_loses_a_line_and_no_more() -> None:
    """Where standard output takes nothing, that is counted and said, and nothing is raised."""
    code = (
        f"{PREAMBLE}\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\nwrite('one'); write('two')\n"
    )
    done = in_process(f"{code}print(outputs.dropped, file=sys.stderr)", "stdout")

    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "2"
    assert done.stderr.count("JSON log lines to stdout are lost") == 1


def test_a_full_pipe_still_gets_whole_lines() -> None:
    """A reader that is slower than the writer gets every line, and each whole."""
    code = f"{PREAMBLE}\nfor n in range(200): write(str(n) * 1000)\n"
    with subprocess.Popen(
        [sys.executable, "-c", code, "stdout"], env=clean_environment(), stdout=subprocess.PIPE
    ) as process:
        time.sleep(0.5)
        assert process.stdout is not None
        texts = [json.loads(line)["message"] for line in process.stdout]

    assert texts == [str(number) * 1000 for number in range(200)]


def test_a_pipe_of_several_processes() -> None:
    """Lines of at most 4096 bytes that processes write to one pipe at once arrive whole."""
    code = f"{PREAMBLE}\nfor n in range(200): write(sys.argv[2] * (4096 - 15))\n"
    read_end, write_end = os.pipe()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, "stdout", letter],
            env=clean_environment(),
            stdout=write_end,
        )
        for letter in "abcd"
    ]
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        found = [json.loads(line)["message"] for line in pipe]

    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    assert sorted(found) == sorted(letter * (4096 - 15) for letter in "abcd" for _ in range(200))


def test_a_line_torn_by_a_pipe_that_does_not_wait_spoils_no_other() -> None:
    """Where a full pipe that does not wait took half a line, that is lost, and the next one begins on a line of its own."""
    code = f"""{PREAMBLE}
read_end, write_end = os.pipe()
os.set_blocking(write_end, False)
standard_output = os.dup(1)
os.dup2(write_end, 1)
write('a' * 40_000); write('b' * 40_000)
came = os.read(read_end, 1 << 20)
write('c'); write('d')
came += os.read(read_end, 1 << 20)
assert outputs.dropped == 1
os.write(standard_output, came)
"""
    done = in_process(code, "stdout")

    assert done.returncode == 0, done.stderr
    first, torn, *others = done.stdout.splitlines()
    assert json.loads(first)["message"] == "a" * 40_000
    assert torn.startswith('{"message":"bb')
    assert [json.loads(line)["message"] for line in others] == ["c", "d"]
    assert "JSON log lines to stdout are lost" in done.stderr


def test_a_file_of_several_processes(tmp_path: Path) -> None:
    """Processes that append to one file never mix their lines, however long."""
    path = tmp_path / "log.json"
    code = f"{PREAMBLE}\nfor n in range(300): write(sys.argv[2] * 8000)\n"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"file://{path}", letter], env=clean_environment()
        )
        for letter in "abcd"
    ]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]

    texts = [json.loads(line)["message"] for line in path.read_text().splitlines()]

    assert sorted(texts) == sorted(letter * 8000 for letter in "abcd" for _ in range(300))


def test_logrotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is renamed or removed is made anew at the next look, a second apart, and nothing is lost meanwhile."""
    assert outputs.SECONDS_BETWEEN_ROTATION_CHECKS == 1
    monkeypatch.setattr(outputs, "SECONDS_BETWEEN_ROTATION_CHECKS", 1000.0)
    path = tmp_path / "log.json"
    out = outputs_to(f"file://{path}")
    [file] = [write.__self__ for _, write in out._outputs]  # type: ignore[attr-defined]
    out.write(b'{"n":1}\n')
    path.rename(tmp_path / "log.json.1")
    out.write(b'{"n":2}\n')
    file._next_check = 0.0
    out.write(b'{"n":3}\n')
    path.unlink()
    file._next_check = 0.0
    out.write(b'{"n":4}\n')

    assert (tmp_path / "log.json.1").read_bytes() == b'{"n":1}\n{"n":2}\n'
    assert path.read_bytes() == b'{"n":4}\n'
    assert out.dropped == 0


def test_copytruncate(tmp_path: Path) -> None:
    """A file that logrotate empties in place goes on from its start."""
    path = tmp_path / "log.json"
    out = outputs_to(f"file://{path}")
    out.write(LINE)
    os.truncate(path, 0)
    out.write(LINE)

    assert path.read_bytes() == LINE


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its folder a file's lines are counted, said once, and written as soon as it is there."""
    path = tmp_path / "later" / "log.json"
    out = outputs_to(f"file://{path}")
    out.write(LINE)
    out.write(LINE)

    assert out.dropped == 2
    assert work.process()._ready == 2 * [outputs.LOG_DROPPED.of(), 1]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(path) in said
    assert "INTROSPECT_LOG" in said

    path.parent.mkdir()
    out.write(LINE)
    assert path.read_bytes() == LINE


def test_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk costs the lines that it does not take, and nothing else."""
    out = outputs_to("file:///dev/full")
    out.write(LINE)
    out.write(LINE)

    assert out.dropped == 2
    assert "No space left" in capsys.readouterr().err


def test_a_line_torn_by_a_full_disk_spoils_no_other(tmp_path: Path) -> None:
    """Where the disk took half a line, the next one begins on a line of its own."""
    path = tmp_path / "log.json"
    code = f"""{PREAMBLE}
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
write('a' * 70); write('b' * 70)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write('c' * 70)
print(outputs.dropped)
"""
    done = in_process(code, f"file://{path}")

    assert done.stdout == "1\n", done.stderr
    first, torn, third = path.read_bytes().splitlines()
    assert json.loads(first)["message"] == "a" * 70
    assert torn.startswith(b'{"message":"bb')
    assert json.loads(third)["message"] == "c" * 70


def test_a_closed_descriptor_is_not_written_to(tmp_path: Path) -> None:
    """A descriptor that was closed behind our back, and given to another file, is left alone."""
    path, other = tmp_path / "log.json", tmp_path / "database"
    out = outputs_to(f"file://{path}")
    out.write(LINE)
    ours = next(
        number
        for number in map(int, os.listdir("/proc/self/fd"))
        if os.path.realpath(f"/proc/self/fd/{number}") == str(path)
    )
    database = os.open(other, os.O_WRONLY | os.O_CREAT)
    os.dup2(database, ours)
    out.write(LINE)
    os.close(ours)
    with contextlib.suppress(OSError):  # the same number, if the database got it at once
        os.close(database)

    assert other.read_bytes() == b""
    assert path.read_bytes() == LINE * 2


def test_a_pipe_without_a_reader_does_not_hold_anybody_up(tmp_path: Path) -> None:
    """A named pipe that nobody reads costs lines, never time."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    done = in_process(f"{PREAMBLE}\nwrite('one')\nprint(outputs.dropped)", f"file://{path}")

    assert done.stdout == "1\n", done.stderr


def test_udp() -> None:
    """By UDP a line is a datagram, without its newline."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((LOOPBACK, 0))
        server.settimeout(10)
        out = outputs_to(f"udp://{LOOPBACK}:{server.getsockname()[1]}")
        out.write(LINE)
        out.write(b"x" * 32_767 + b"\n")

        assert server.recv(65_535) == LINE.rstrip()
        assert server.recv(65_535) == b"x" * 32_767
        assert out.dropped == 0


def test_udp_without_a_listener(capsys: pytest.CaptureFixture[str]) -> None:
    """Datagrams that nobody takes are counted and said."""
    out = outputs_to(f"udp://{LOOPBACK}:{free_port()}")
    for _ in range(4):
        out.write(LINE)
        time.sleep(0.02)

    assert out.dropped > 0
    assert capsys.readouterr().err.count("JSON log lines to udp://") == 1


def test_tcp(tcp: TcpServer) -> None:
    """Over TCP, lines come in order, on one connection, and without delay."""
    out = outputs_to(tcp.address)
    for number in range(10):
        out.write(b'{"n":%d}\n' % number)
        wait_until(lambda count=number + 1: len(tcp.lines) == count)

    assert [json.loads(line)["n"] for line in tcp.lines] == list(range(10))
    assert len(tcp.connections) == 1
    assert out.dropped == 0


def test_tcp_of_many_threads(tcp: TcpServer) -> None:
    """Threads that write at once, the first lines of the process included, lose none and double none."""
    out = outputs_to(tcp.address)
    start = threading.Barrier(8)

    def write(letter: str) -> None:
        start.wait()
        for number in range(200):
            out.write(f'{{"n":"{letter}{number}"}}\n'.encode())

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    wait_until(lambda: len(tcp.lines) >= 1600)
    texts = [json.loads(line)["n"] for line in tcp.lines]
    assert sorted(texts) == sorted(f"{letter}{n}" for letter in "abcdefgh" for n in range(200))
    assert len(tcp.connections) == 1


def test_tcp_reconnects() -> None:
    """Lines wait for a server that is not there yet, and for one that comes back."""
    port = free_port()
    out = outputs_to(f"tcp://{LOOPBACK}:{port}")
    out.write(b'{"n":1}\n')
    time.sleep(0.2)
    with contextlib.closing(TcpServer(port)) as first:
        wait_until(lambda: first.lines == [b'{"n":1}\n'])
    time.sleep(0.1)
    out.write(b'{"n":2}\n')
    with contextlib.closing(TcpServer(port)) as second:
        wait_until(lambda: second.lines == [b'{"n":2}\n'])

    assert out.dropped == 0


def test_a_delivery_that_fails_in_any_way_is_tried_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever delivering raises, the thread goes on, says so, and no line is lost or doubled."""
    errors: list[Exception] = [RuntimeError("nobody foresaw this"), ValueError("nor this")]
    delivered: list[bytes] = []

    def deliver(lines: Sequence[bytes]) -> None:
        if errors:
            raise errors.pop(0)
        delivered.extend(lines)

    shipper = outputs.Shipper(settings.Output("tcp", LOOPBACK, 1), deliver)  # type: ignore[arg-type]
    for number in range(3):
        assert shipper.write(b"%d\n" % number)
    wait_until(lambda: len(delivered) == 3)

    assert delivered == [b"0\n", b"1\n", b"2\n"]
    assert "RuntimeError: nobody foresaw this" in capsys.readouterr().err


def test_the_pauses_between_tries_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failure makes the next pause longer, up to the last, which repeats; a success starts afresh."""
    documented = [0.1, 0.5, 1.0, 5.0, 15.0]
    clock = _Clock()
    monkeypatch.setattr(outputs, "SECONDS_BETWEEN_TRIES", BETWEEN_TRIES)
    monkeypatch.setattr(outputs, "time", clock)
    outcomes = [False] * 8 + [True] + [False] * 2 + [True]
    delivered: list[bytes] = []

    def deliver(lines: Sequence[bytes]) -> None:
        clock.thread = threading.get_ident()
        if not outcomes.pop(0):
            raise ConnectionRefusedError("nobody there")
        delivered.extend(lines)

    shipper = outputs.Shipper(settings.Output("tcp", LOOPBACK, 1), deliver)  # type: ignore[arg-type]
    for number in (1, 2):
        shipper.write(b"%d\n" % number)
        wait_until(lambda count=number: len(delivered) == count)

    assert clock.pauses == [*documented, 15.0, 15.0, 15.0, 0.1, 0.5]
    assert delivered == [b"1\n", b"2\n"]


class _Clock:
    """The module `time`, but for the pauses of one thread, which are noted and not made."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.thread = 0

    def sleep(self, seconds: float) -> None:
        """Pause, in any other thread: another test's may not have ended yet."""
        if threading.get_ident() == self.thread:
            self.pauses.append(seconds)
        else:
            time.sleep(seconds)


def test_a_full_queue_drops_and_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A queue that nobody empties takes so many lines; the rest are dropped at once, counted, and said."""
    monkeypatch.setattr(outputs, "QUEUE_LINES", 100)
    out = outputs_to(f"tcp://{LOOPBACK}:{free_port()}")
    started = time.monotonic()
    for _ in range(150):
        out.write(LINE)

    assert time.monotonic() - started < 10
    assert 40 <= out.dropped <= 50
    assert work.process()._ready == out.dropped * [outputs.LOG_DROPPED.of(), 1]
    said = capsys.readouterr().err
    assert said.count("are dropped") == 1


def test_a_queue_of_long_lines_takes_fewer() -> None:
    """However long its lines are, a queue that nobody empties holds some tens of megabytes at most."""
    out = outputs_to(f"tcp://{LOOPBACK}:{free_port()}")
    for size in (32, 16, 8, 4, 2, 1):
        line = b"x" * (size * 1024 - 1) + b"\n"
        for _ in range(outputs.QUEUE_LINES):
            out.write(line)

    [shipper] = [write.__self__ for _, write in out._outputs]  # type: ignore[attr-defined]
    assert sum(map(len, shipper._queue.lines)) < 40_000_000
    assert len(shipper._queue.lines) >= outputs.QUEUE_LINES * 0.9


def test_a_server_that_reads_nothing_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and then hangs costs lines, never time in the thread that logs."""
    monkeypatch.setattr(outputs, "QUEUE_LINES", 200)
    with socket.create_server((LOOPBACK, 0)) as hanging:
        out = outputs_to(f"tcp://{LOOPBACK}:{hanging.getsockname()[1]}")
        started = time.monotonic()
        for _ in range(3000):
            out.write(b"x" * 32_000 + b"\n")

        assert time.monotonic() - started < 20
        assert out.dropped > 0


def test_what_is_queued_at_exit_is_sent(tcp: TcpServer) -> None:
    """A process that ends right after its last line has sent it."""
    done = in_process(f"{PREAMBLE}\nfor n in range(500): write(str(n))", tcp.address)

    assert done.returncode == 0
    wait_until(lambda: len(tcp.lines) == 500)


def test_exit_waits_a_bounded_time() -> None:
    """A process whose lines nobody takes ends all the same, in a little over two seconds, and says how many are lost."""
    address = f"tcp://{LOOPBACK}:{free_port()}"
    started = time.monotonic()
    done = in_process(f"{PREAMBLE}\nfor n in range(3): write(str(n))", address, SECONDS_AT_EXIT="2")

    assert done.returncode == 0
    assert outputs.SECONDS_AT_EXIT == 2
    assert time.monotonic() - started < 30
    assert f"JSON log lines to {address} are lost: 3 could not be delivered" in done.stderr


def test_what_a_server_has_not_taken_at_exit_is_said() -> None:
    """Of a server that accepts and then hangs, the lines that did not reach it are said, with their number, once."""
    with socket.socket() as hanging:
        hanging.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        hanging.bind((LOOPBACK, 0))
        hanging.listen()
        address = f"tcp://{LOOPBACK}:{hanging.getsockname()[1]}"
        done = in_process(
            f"{PREAMBLE}\nfor n in range(300): write('x' * 30_000)", address, SECONDS_AT_EXIT="2"
        )

    assert done.returncode == 0
    [lost] = re.findall(r"are lost: (\d+) could not be delivered before", done.stderr)
    assert 100 < int(lost) <= 300


def test_what_is_lost_at_exit_is_counted(statsd: StatsdListener) -> None:
    """What the queue still holds when its time at exit is over counts as dropped, along with the rest of the last second."""
    code = (
        "import logging\n"
        "from introspect.bootstrap.start import start\n"
        "start()\n"
        "for number in range(5): logging.warning('line %d', number)"
    )
    done = in_process(
        code,
        INTROSPECT_LOG=f"tcp://{LOOPBACK}:{free_port()}",
        INTROSPECT_STATSD=statsd.address,
        INTROSPECT_SERVICE="shop",
    )

    assert done.returncode == 0
    assert "are lost: 5 could not be delivered" in done.stderr
    statsd.wait_for_count("shop.introspect.log_dropped", 5)
    statsd.wait_for_count("shop.log.warning", 5)
    assert statsd.count("shop.introspect.log_dropped") == 5


def test_lines_behind_the_first_end(tcp: TcpServer) -> None:
    """A process that has done what is left to do, and goes on, sends its later lines as well."""
    code = (
        f"{PREAMBLE}\nfrom introspect.agent import ending\nwrite('one'); ending.run(); write('two')"
    )
    done = in_process(code, tcp.address)

    assert (done.returncode, done.stderr) == (0, "")
    wait_until(lambda: [json.loads(line)["message"] for line in tcp.lines] == ["one", "two"])


def test_the_time_at_exit_is_given_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ends of a process that come one after the other wait as long as one does, and tell each lost line once."""
    monkeypatch.setattr(outputs, "SECONDS_AT_EXIT", 3.0)
    out = outputs_to(f"tcp://{LOOPBACK}:{free_port()}")
    out.write(LINE)
    out.write(LINE)
    [shipper] = [write.__self__ for _, write in out._outputs]  # type: ignore[attr-defined]
    waited = []
    for _ in range(3):
        started = time.monotonic()
        shipper._flush_at_exit()
        waited.append(time.monotonic() - started)
    out.write(LINE)
    shipper._flush_at_exit()

    assert waited[0] >= 3
    assert max(waited[1:]) < 2
    assert work.process()._ready == [outputs.LOG_DROPPED.of(), 2, outputs.LOG_DROPPED.of(), 1]
    assert capsys.readouterr().err.count("are lost: 2 could not") == 1


@pytest.mark.parametrize("imported", ["before us", "after us"])
@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise ValueError('no harm')"])
def test_a_child_of_multiprocessing_sends_what_is_queued(
    imported: str, end: str, tcp: TcpServer
) -> None:
    """A process that multiprocessing has forked, and that ends right after its last line, has sent it; so have its own children."""
    lines = [PREAMBLE, "write('parent')"]
    lines.insert(0 if imported == "before us" else 2, "import multiprocessing")
    code = (
        "\n".join(lines)
        + f"""
context = multiprocessing.get_context('fork')
def child(name, generations):
    if generations:
        other = context.Process(target=child, args=(name + name, generations - 1))
        other.start(); other.join(30)
    for n in range(100): write(f'{{name}} {{n}}')
    {end}
children = [context.Process(target=child, args=(name, 1)) for name in 'ab']
for each in children: each.start()
for each in children: each.join(30)
print([each.exitcode for each in children])
"""
    )
    done = in_process(code, tcp.address)

    status = {"": 0, "sys.exit(3)": 3}.get(end, 1)
    assert done.stdout == f"{[status, status]}\n", done.stderr
    expected = ["parent", *(f"{name} {n}" for name in ("a", "aa", "b", "bb") for n in range(100))]
    wait_until(lambda: len(tcp.lines) >= len(expected))
    assert sorted(json.loads(line)["message"] for line in tcp.lines) == sorted(expected)


def test_a_child_of_multiprocessing_waits_for_no_server_that_is_gone() -> None:
    """A child that somebody joins ends once its lines are refused, and says so, however long a process may take at exit."""
    code = f"""
import multiprocessing
import introspect.agent.outputs as ours
ours.SECONDS_AT_EXIT = 600
{PREAMBLE}
child = multiprocessing.get_context('fork').Process(target=write, args=('lost',))
child.start(); child.join(60)
print(child.exitcode)
"""
    done = in_process(code, f"tcp://{LOOPBACK}:{free_port()}")

    assert done.stdout == "0\n"
    assert "are lost: 1 could not be delivered" in done.stderr


def test_a_forked_process_ships_its_own_lines(tcp: TcpServer) -> None:
    """After a fork, parent and child each send their own lines, once."""
    code = f"""{PREAMBLE}
import atexit
write('before'); time.sleep(0.3)
children = []
for child in range(3):
    pid = os.fork()
    if not pid:
        for n in range(50): write(f'child {{child}} {{n}}')
        sys.exit()
    children.append(pid)
for n in range(50): write(f'parent {{n}}')
for pid in children: os.waitpid(pid, 0)
"""
    done = in_process(code, tcp.address)
    assert done.returncode == 0, done.stderr

    wait_until(lambda: len(tcp.lines) >= 201)
    texts = [json.loads(line)["message"] for line in tcp.lines]
    expected = ["before", *(f"parent {n}" for n in range(50))]
    expected += [f"child {child} {n}" for child in range(3) for n in range(50)]
    assert sorted(texts) == sorted(expected)


def test_what_is_queued_before_a_fork_is_the_parents(tmp_path: Path) -> None:
    """Lines that still wait for a server when their process forks arrive once, and not from the children."""
    port, forked = free_port(), tmp_path / "forked"
    code = f"""{PREAMBLE}
from introspect.agent import outputs as module
module.SECONDS_BETWEEN_TRIES = (0.05,)
module.SECONDS_AT_EXIT = 30.0
for n in range(50): write(f'before {{n}}')
time.sleep(0.2)
children = []
for child in range(3):
    pid = os.fork()
    if not pid:
        for n in range(50): write(f'child {{child}} {{n}}')
        sys.exit()
    children.append(pid)
open(sys.argv[2], 'w').close()
for n in range(50): write(f'parent {{n}}')
for pid in children: os.waitpid(pid, 0)
"""
    words = [sys.executable, "-c", code, f"tcp://{LOOPBACK}:{port}", str(forked)]
    with subprocess.Popen(words, env=clean_environment()) as process:
        wait_until(forked.exists)
        with contextlib.closing(TcpServer(port)) as server:
            assert process.wait(60) == 0
            wait_until(lambda: len(server.lines) >= 250)
            time.sleep(0.2)  # for what would come twice
            texts = [json.loads(line)["message"] for line in server.lines]

    expected = [f"{name} {n}" for name in ("before", "parent") for n in range(50)]
    expected += [f"child {child} {n}" for child in range(3) for n in range(50)]
    assert sorted(texts) == sorted(expected)


def test_a_child_with_the_parents_thread_ids_is_not_taken_for_the_shipper(tcp: TcpServer) -> None:
    """In a forked child, a thread that got the number of the parent's shipper is one of the application's."""
    code = f"""{PREAMBLE}
import threading
from introspect.agent import outputs as module
write('before'); time.sleep(0.3)
assert not module.is_own_thread()
if not os.fork():
    found = []
    for _ in range(50):
        threads = [threading.Thread(target=lambda: (time.sleep(.001), found.append(module.is_own_thread()))) for _ in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
    os._exit(any(found))
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert in_process(code, tcp.address).returncode == 0


def test_gevent(tcp: TcpServer) -> None:
    """Under gevent's patches the thread is a greenlet, and delivers without holding up the others."""
    pytest.importorskip("gevent")
    code = f"""
from gevent import monkey; monkey.patch_all()
import gevent
{PREAMBLE}
ticks = []
def tick():
    for _ in range(20):
        ticks.append(time.monotonic()); gevent.sleep(0.01)
def spam(letter):
    for n in range(50):
        write(f'{{letter}}{{n}}'); gevent.sleep(0)
gevent.joinall([gevent.spawn(tick), *(gevent.spawn(spam, letter) for letter in 'abcd')])
gaps = [b - a for a, b in zip(ticks, ticks[1:])]
assert max(gaps) < 4, gaps
"""
    done = in_process(code, tcp.address)
    assert done.returncode == 0, done.stderr

    wait_until(lambda: len(tcp.lines) == 200)


class Collector(http.server.ThreadingHTTPServer):
    """Splunk's HTTP Event Collector, as far as its protocol goes."""

    daemon_threads = True

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.posts: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.location = ""
        self.port = self.server_address[1]
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def events(self) -> list[Any]:
        """The events of every post that was accepted, as Splunk would take them from its body."""
        found = []
        for _path, _headers, body in list(self.posts):
            decoder, text, at = json.JSONDecoder(), body.decode(), 0
            while at < len(text):
                event, at = decoder.raw_decode(text, at)
                found.append(event)
        return found

    def stop(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Collector

    def do_POST(self) -> None:
        """Take a batch, or refuse it with the next of the prepared answers."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.answers.pop(0) if self.server.answers else 200
        if status == 200:
            self.server.posts.append((self.path, dict(self.headers), body))
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture
def splunk() -> Iterator[Collector]:
    """A Splunk of the test's own."""
    server = Collector()
    yield server
    server.stop()


CERTIFICATE = Path(__file__).with_name("localhost.pem")


@pytest.fixture
def encrypted_splunk() -> Iterator[Collector]:
    """One that is spoken to by HTTPS, and that nobody trusts who has not been told of `CERTIFICATE`."""
    server = Collector(CERTIFICATE)
    yield server
    server.stop()


class Tunnel:
    """A proxy that opens a tunnel to wherever its client wants, and keeps what the client sends."""

    def __init__(self) -> None:
        self.socket = socket.create_server((LOOPBACK, 0))
        self.url = f"http://{LOOPBACK}:{self.socket.getsockname()[1]}"
        self.seen = b""
        self._clients: set[socket.socket] = set()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            for readable in select.select([self.socket, *self._peers], [], [], 0.05)[0]:
                if readable is self.socket:
                    self._open(self.socket.accept()[0])
                elif readable in self._peers and not self._passed_on(readable):
                    for end in (readable, self._peers[readable]):
                        del self._peers[end]
                        end.close()

    def _passed_on(self, readable: socket.socket) -> bytes:
        with contextlib.suppress(OSError):
            data = readable.recv(1 << 16)
            if readable in self._clients:
                self.seen += data
            self._peers[readable].sendall(data)
            return data
        return b""

    def _open(self, client: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        self.seen += head
        host, _, port = head.split()[1].decode().partition(":")
        far_end = socket.create_connection((host, int(port)), 10)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        self._clients.add(client)
        self._peers.update({client: far_end, far_end: client})

    def close(self) -> None:
        """Hang up and stop listening."""
        self._stopping = True
        self._thread.join()
        for each in (self.socket, *self._peers):
            each.close()


def test_splunk(splunk: Collector) -> None:
    """Splunk gets batches of events at its collector's address, with the token."""
    out = outputs_to(f"splunk+http://SECRET-TOKEN@{LOOPBACK}:{splunk.port}")
    for number in range(300):
        out.write(b'{"n":%d}\n' % number)
    wait_until(lambda: len(splunk.events) == 300)

    assert [event["event"]["n"] for event in splunk.events] == list(range(300))
    assert {event["sourcetype"] for event in splunk.events} == {"_json"}
    path, headers, _body = splunk.posts[0]
    assert path == "/services/collector/event"
    assert headers["Authorization"] == "Splunk SECRET-TOKEN"
    assert len(splunk.posts) < 300


def test_splunk_takes_a_line_for_what_it_was_and_not_for_when_it_came(splunk: Collector) -> None:
    """In any format an event has the moment of its line, to the microsecond, also where that has waited for a second try."""
    splunk.answers = [503]
    out = outputs_to(f"splunk+http://SECRET-TOKEN@{LOOPBACK}:{splunk.port}")
    for beginning in (b'{"', b'{"@', b'{"ecs.version":"8.11.0","@'):
        out.write(beginning + b'timestamp":"2023-11-14T22:13:20.250001Z","message":"a line"}\n')
    out.write(b'{"message":"\\"timestamp\\":\\"2023-11-14T22:13:20.250001Z\\""}\n')
    wait_until(lambda: len(splunk.events) == 4)

    assert [event.get("time") for event in splunk.events] == 3 * [1_700_000_000.250001] + [None]
    assert [set(event["event"]) & {"time"} for event in splunk.events] == 4 * [set()]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_splunk_is_asked_again(
    splunk: Collector, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """What Splunk could not take is sent again, in order; no message shows the token."""
    splunk.answers = [status, status]
    out = outputs_to(f"splunk+http://SECRET-TOKEN@{LOOPBACK}:{splunk.port}")
    out.write(b'{"n":1}\n')
    out.write(b'{"n":2}\n')
    wait_until(lambda: len(splunk.events) == 2)

    assert [event["event"]["n"] for event in splunk.events] == [1, 2]
    said = capsys.readouterr().err
    assert str(status) in said
    assert "SECRET-TOKEN" not in said


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without proxies, and with a netrc that has a password for this host."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {LOOPBACK} login bob password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    return monkeypatch


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_splunk_redirects_are_not_followed(
    splunk: Collector,
    status: int,
    surroundings: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where Splunk redirects to, neither token nor line arrives: that is a refusal, is said, and the line waits."""
    with http_server() as elsewhere:
        splunk.answers, splunk.location = [status], f"{elsewhere.url}/services/collector/event"
        out = outputs_to(f"splunk+http://SECRET-TOKEN@{LOOPBACK}:{splunk.port}")
        out.write(b'{"n":1}\n')
        wait_until(lambda: splunk.events or elsewhere.seen)

        assert elsewhere.seen == []
    assert [event["event"]["n"] for event in splunk.events] == [1]
    said = capsys.readouterr().err
    assert f"{status} " in said
    assert "SECRET-TOKEN" not in said


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_splunk_is_reached_without_a_proxy_where_one_could_read_the_token(
    splunk: Collector, variable: str, surroundings: pytest.MonkeyPatch
) -> None:
    """Over plain HTTP nothing at all goes to the environment's proxy, and netrc counts for nothing: Splunk gets the token."""
    with http_server() as proxy:
        surroundings.setenv(variable, proxy.url)
        out = outputs_to(f"splunk+http://SECRET-TOKEN@{LOOPBACK}:{splunk.port}")
        out.write(LINE)
        wait_until(lambda: splunk.posts or proxy.seen)

        assert proxy.seen == []
    assert splunk.posts[0][1]["Authorization"] == "Splunk SECRET-TOKEN"


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY"])
def test_splunk_behind_a_tunnel(
    encrypted_splunk: Collector, variable: str, surroundings: pytest.MonkeyPatch
) -> None:
    """Over HTTPS the environment's proxy is told host and port, and passes on what it cannot read; netrc counts for nothing."""
    with contextlib.closing(Tunnel()) as proxy:
        surroundings.setenv(variable, proxy.url)
        surroundings.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
        out = outputs_to(f"splunk+https://SECRET-TOKEN@{LOOPBACK}:{encrypted_splunk.port}")
        out.write(LINE)
        wait_until(lambda: encrypted_splunk.posts)

    assert encrypted_splunk.posts[0][1]["Authorization"] == "Splunk SECRET-TOKEN"
    if variable != "HTTP_PROXY":
        assert proxy.seen.startswith(b"CONNECT %s:%d " % (LOOPBACK.encode(), encrypted_splunk.port))
        assert len(proxy.seen) > 500
    for secret in (b"SECRET-TOKEN", b"Splunk", b"a line", b"hunter2", b"uthorization"):
        assert secret not in proxy.seen


def test_splunk_whose_certificate_nobody_vouches_for(
    encrypted_splunk: Collector, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever stands in for Splunk, a proxy that opens what is encrypted among them, gets no token: the lines wait."""
    out = outputs_to(f"splunk+https://SECRET-TOKEN@{LOOPBACK}:{encrypted_splunk.port}")
    out.write(LINE)
    said = wait_until(lambda: capsys.readouterr().err)

    assert "SSLError" in said
    assert encrypted_splunk.posts == []


REUSED = f"""{PREAMBLE}
import json, socket
def number_of_connection():
    for name in os.listdir('/proc/self/fd'):
        try:
            with socket.socket(fileno=os.dup(int(name))) as copy:
                if copy.getpeername()[1] == int(sys.argv[2]):
                    return int(name)
        except (OSError, TypeError):
            pass
write('one')
while not (number := number_of_connection()):
    time.sleep(0.01)
shipper = outputs._outputs[0][1].__self__
while shipper._queue.lines:
    time.sleep(0.01)
if sys.argv[3] == 'child' and os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
database, server = socket.socketpair()
os.dup2(database.fileno(), number)
write('two'); write('three')
time.sleep(0.5)
server.setblocking(False)
os.write(number, b'query')
print(json.dumps([server.recv(1000).decode(), os.get_blocking(number)]))
"""


@pytest.mark.parametrize("where", ["same process", "child"])
@pytest.mark.parametrize("kind", ["tcp", "splunk"])
def test_a_connection_whose_number_has_become_the_databases(
    kind: str, where: str, tcp: TcpServer, splunk: Collector
) -> None:
    """Where a daemoniser has closed our connection and another got its number, that one is left alone."""
    port, address = {
        "tcp": (tcp.port, tcp.address),
        "splunk": (splunk.port, f"splunk+http://SECRET-TOKEN@{LOOPBACK}:{splunk.port}"),
    }[kind]
    done = in_process(REUSED, address, str(port), where)

    assert done.stdout == '["query", true]\n', done.stdout + done.stderr
    assert done.returncode == 0
    expected = ["one", "two", "three"]
    if kind == "tcp":
        wait_until(lambda: [json.loads(line)["message"] for line in tcp.lines] == expected)
    else:
        wait_until(lambda: [event["event"]["message"] for event in splunk.events] == expected)


@pytest.mark.parametrize("kind", ["tcp", "splunk"])
def test_the_thread_imports_nothing(kind: str, tcp: TcpServer, splunk: Collector) -> None:
    """A child that is forked while the thread delivers has no half module, which it would wait for whenever it imports that."""
    address = {
        "tcp": tcp.address,
        "splunk": f"splunk+http://SECRET-TOKEN@{LOOPBACK}:{splunk.port}",
    }[kind]
    code = f"""
import sys, threading
main, found = threading.get_ident(), []
def noted(event, args):
    if event == "import" and threading.get_ident() != main: found.append(args[0])
sys.addaudithook(noted)
{PREAMBLE}
from introspect.agent import ending
write('one')
ending.run()
print(found)
"""
    done = in_process(code, address)

    assert (done.stdout, done.stderr) == ("[]\n", "")
    wait_until(lambda: tcp.lines or splunk.posts)


def test_nothing_is_imported_before_there_is_a_line() -> None:
    """An application that has gevent patch the standard library behind its first use of Django calls by HTTPS as ever."""
    code = """
import django.conf
django.conf.settings.configure()
from gevent import monkey
monkey.patch_all()
import ssl, urllib3.util.ssl_
print(urllib3.util.ssl_.create_urllib3_context().__class__ is ssl.SSLContext)
"""
    done = subprocess.run(
        [*introspect_run(), sys.executable, "-c", code],
        env=clean_environment(INTROSPECT_LOG=f"splunk+https://token@{LOOPBACK}:1"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_thread_that_cannot_be_started_yet(
    tcp: TcpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no thread is to be had, nothing is raised, and the lines wait for the next one's try."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    out = outputs_to(tcp.address)
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", refuse)
        out.write(b'{"n":1}\n')
        out.write(b'{"n":2}\n')
    out.write(b'{"n":3}\n')

    wait_until(lambda: [json.loads(line)["n"] for line in tcp.lines] == [1, 2, 3])
    assert out.dropped == 0


def test_an_exit_without_a_thread_does_not_wait_for_one(tcp: TcpServer) -> None:
    """A process that gets no thread for its first line, as at its exit from Python 3.12 on, ends at once and says what is lost."""
    code = f"""{PREAMBLE}
import threading
def refuse(self):
    raise RuntimeError("can't create new thread at interpreter shutdown")
threading.Thread.start = refuse
write('one')
"""
    started = time.monotonic()
    done = in_process(code, tcp.address)

    assert done.returncode == 0
    assert time.monotonic() - started < 30  # half of what it would wait
    assert done.stderr.count("\n") == 1
    assert "are lost: 1 could not be delivered" in done.stderr


def test_a_first_line_at_exit(tcp: TcpServer) -> None:
    """A line that an exit hook of the application's writes is sent, or said to be lost where there are no threads any more."""
    code = f"{PREAMBLE}\nimport atexit; atexit.register(write, 'one')"
    done = in_process(code, tcp.address)

    assert done.returncode == 0
    is_lost = "are lost: 1 could not be delivered" in done.stderr
    if is_lost:
        assert sys.version_info >= (3, 12)
    else:
        assert done.stderr == ""
        wait_until(lambda: len(tcp.lines) == 1)


def test_each_line_goes_to_every_output(tcp: TcpServer, tmp_path: Path) -> None:
    """Several outputs get each line; trouble with one does not keep it from the others."""
    path = tmp_path / "log.json"
    out = outputs_to("file:///nowhere/at/all", f"file://{path}", tcp.address)
    out.write(LINE)
    wait_until(lambda: tcp.lines)

    assert path.read_bytes() == LINE
    assert tcp.lines == [LINE]
    assert out.dropped == 1


def test_nothing_is_opened_before_the_first_line(tcp: TcpServer, tmp_path: Path) -> None:
    """Outputs that are configured open nothing and start no thread until there is a line."""
    path = tmp_path / "log.json"
    threads = threading.active_count()
    outputs_to(tcp.address, f"file://{path}")

    assert threading.active_count() <= threads  # others may end
    assert not path.exists()
    time.sleep(0.1)
    assert not tcp.connections
