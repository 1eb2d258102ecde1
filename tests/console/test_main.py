"""``introspect console`` as its users run it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from introspect.console.main import main, read_duration, read_size
from introspect.console.query import open_reader
from introspect.console.query_story import story
from tests.console.rows import record, request
from tests.helpers.ports import free_port, is_listening
from tests.helpers.processes import script, wait_until
from tests.helpers.site import Site

PATIENCE = 30
PROGRAM = [sys.executable, "-m", "introspect.bootstrap.cli", "console"]
FREE_PORTS = ["--port", "0", "--statsd-port", "0", "--log-port", "0"]


class Console:
    """A console in processes of its own, on free ports."""

    def __init__(self, db: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.db = db
        self.process = subprocess.Popen(
            [*PROGRAM, "--db", str(db), *FREE_PORTS, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        self.address = self.process.stdout.readline().removeprefix("introspect console: ").strip()
        ports = re.findall(r":(\d+)", self.process.stdout.readline())
        self.statsd, self.log = (int(port) for port in ports[:2])

    def pids(self) -> list[int]:
        """Every process that belongs to it."""
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    def wait(self, statement: str, expected: list[tuple]) -> None:
        """Wait until the file answers as expected."""
        until = time.monotonic() + PATIENCE
        with contextlib.closing(open_reader(self.db)) as connection:
            while (found := connection.execute(statement).fetchall()) != expected:
                assert time.monotonic() < until, found
                time.sleep(0.05)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def console(db: Path, *arguments: str, env: dict[str, str] | None = None) -> Iterator[Console]:
    """Run a console; whatever the test did, nothing of it is left."""
    running = Console(db, *arguments, env=env)
    children = running.pids()
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end()
        running.process.stdout.close()
        running.process.stderr.close()
        wait_for_end(children)


def wait_for_end(pids: list[int]) -> None:
    """Wait until none of these processes is alive."""
    until = time.monotonic() + PATIENCE
    while any(map(is_alive, pids)):
        assert time.monotonic() < until, [pid for pid in pids if is_alive(pid)]
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process still runs: one that nobody has waited for yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def line(fields: dict) -> bytes:
    """A line that was written just now."""
    fields.pop("timestamp")
    return json.dumps(fields).encode() + b"\n"


def test_receives_serves_and_ends_with_all_in_the_file(tmp_path: Path) -> None:
    """What is sent is served as pages and tables, and is in the file after SIGTERM."""
    with console(tmp_path / "c.db") as running:
        with socket.create_connection(("127.0.0.1", running.log)) as tcp:
            tcp.sendall(line(record()) + line(request()))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(b"front.request:12|ms", ("127.0.0.1", running.statsd))
        running.wait("SELECT count(*) FROM logs", [(1,)])
        with urllib.request.urlopen(running.address) as page:
            assert page.status == 200
        with urllib.request.urlopen(f"{running.address}introspect/logs.json?_shape=array") as table:
            assert json.load(table)[0]["message"] == "added an item"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(b"front.request:13|ms", ("127.0.0.1", running.statsd))

        assert running.end() == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "c.db")) as file:
        assert file.execute("SELECT sum(count) FROM points_10s").fetchone() == (2,)
        assert file.execute("SELECT count(*) FROM work").fetchone() == (1,)


def test_killed_console_leaves_no_process_and_loses_nothing_written(tmp_path: Path) -> None:
    """After SIGKILL what has been in the file still is, and the pages have ended too."""
    with console(tmp_path / "c.db") as running:
        children = running.pids()
        with socket.create_connection(("127.0.0.1", running.log)) as tcp:
            tcp.sendall(line(record()) * 10)
            running.wait("SELECT count(*) FROM logs", [(10,)])
            running.process.kill()
            running.process.wait(PATIENCE)
        wait_for_end(children)
    with contextlib.closing(sqlite3.connect(tmp_path / "c.db")) as file:
        assert file.execute("SELECT count(*) FROM logs").fetchone() == (10,)


COMMAND = textwrap.dedent("""
    import os, signal, sys, time
    names = ("INTROSPECT_STATSD", "INTROSPECT_LOG", "INTROSPECT_DETAIL", "INTROSPECT_LOG_FORMAT")
    print(*[os.environ[name] for name in names], flush=True)
    def tell(number, frame):
        print(signal.Signals(number).name, flush=True)
        if number == signal.SIGTERM:
            sys.exit(42)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, tell)
    print("ready", flush=True)
    while True:
        time.sleep(0.05)
""")


def test_command_runs_under_introspect_run_and_gets_our_signals(tmp_path: Path) -> None:
    """The command is pointed at the console, gets each signal, and its status is the console's."""
    with console(tmp_path / "c.db", sys.executable, "-c", COMMAND) as running:
        output = running.process.stdout
        assert output.readline().split() == [
            f"udp://127.0.0.1:{running.statsd}",
            f"tcp://127.0.0.1:{running.log}",
            "all",
            "json",
        ]
        assert output.readline() == "ready\n"
        for name in ("SIGHUP", "SIGUSR1", "SIGINT"):
            running.process.send_signal(getattr(signal, name))
            assert output.readline() == f"{name}\n"

        assert running.end() == 42
        assert output.read() == "SIGTERM\n"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["--", sys.executable, "-c", "raise SystemExit(3)"], 3),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], 128 + 9),
        (["no-such-program-anywhere"], 127),
    ],
)
def test_console_ends_with_its_command(tmp_path: Path, command: list[str], status: int) -> None:
    """When the command ends the console does, with what a shell would report."""
    with console(tmp_path / "c.db", *command) as running:
        assert running.process.wait(PATIENCE) == status


def test_one_command_is_the_whole_setup(site: Site, tmp_path: Path) -> None:
    """`introspect console gunicorn shop.wsgi`: what one request did is in metrics, search, story."""
    port = free_port()
    gunicorn = [script("gunicorn"), "shop.wsgi", "-b", f"127.0.0.1:{port}", "-w", "2"]
    with console(tmp_path / "c.db", *gunicorn, env=site.environment()) as running:
        wait_until(lambda: is_listening("127.0.0.1", port), PATIENCE)
        for path in ("queries/3/", "log/", "value-error/"):
            asked = urllib.request.Request(
                f"http://127.0.0.1:{port}/{path}", headers={"X-Request-ID": f"id-of-{path[:3]}"}
            )
            try:
                urllib.request.urlopen(asked).close()
            except urllib.error.HTTPError as refusal:
                refusal.close()
        running.wait("SELECT count(*) FROM work", [(3,)])
        running.wait(
            "SELECT sum(count) FROM points_1m JOIN series ON series.id = series_id"
            " WHERE metric = 'request' AND service = 'shop'",
            [(3,)],
        )
        with contextlib.closing(open_reader(running.db)) as reader:
            queries = story(reader, "id-of-que").chapters[0]
            failed = story(reader, "id-of-val").chapters[0]
            logged = story(reader, "id-of-log")

        assert (queries.title, queries.status) == ("GET /queries/3/", 200)
        statements = [event.statement for event in queries.events if event.statement]
        assert [statement.split()[0] for statement in statements] == ["SELECT"] * 3
        assert failed.status == 500
        assert failed.exception.startswith("ValueError")
        assert logged.chapters[0].logs
        assert running.end() == 0


def test_other_address_demands_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pages on an address that others reach are not served without a token."""
    assert main(["--db", str(tmp_path / "c.db"), "--bind", "0.0.0.0"]) == 2

    assert "--bind 0.0.0.0 shows everything" in capsys.readouterr().err
    assert not (tmp_path / "c.db").exists()


def test_token_is_asked_for_and_hidden_from_ps(tmp_path: Path) -> None:
    """With a token pages answer only those who have it, and no command line shows it."""
    secret = "7f3a9c2e51d84b60"
    with console(
        tmp_path / "c.db", "--bind", "0.0.0.0", env={"INTROSPECT_CONSOLE_TOKEN": secret}
    ) as running:
        port = running.address.split("?")[0].rstrip("/").rpartition(":")[2]
        with pytest.raises(urllib.error.HTTPError, match=r"401|403") as refusal:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/")
        refusal.value.close()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/", headers={"Authorization": f"Bearer {secret}"}
        )
        with urllib.request.urlopen(asked) as page:
            assert page.status == 200
        for pid in (running.process.pid, *running.pids()):
            assert secret not in " ".join(psutil.Process(pid).cmdline())


def test_pages_are_started_again(tmp_path: Path) -> None:
    """If the process of the pages dies the console says so and starts it again."""
    with console(tmp_path / "c.db") as running:
        (pages,) = running.pids()
        time.sleep(2.1)  # pages that die at once are not started over and over
        psutil.Process(pages).kill()
        until = time.monotonic() + PATIENCE
        while True:  # at the same address as before
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(running.address) as page:
                    assert page.status == 200
                break
            assert time.monotonic() < until
            time.sleep(0.05)

        assert running.end() == 0
        assert "the pages ended with status -9: restarting" in running.process.stderr.read()


def test_port_in_use_is_said_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second console on the same ports names the port and the option, and ends."""
    with console(tmp_path / "c.db") as running:
        status = main(
            ["--db", str(tmp_path / "d.db"), *FREE_PORTS, "--statsd-port", str(running.statsd)]
        )

    assert status == 1
    assert f"UDP port {running.statsd} of 127.0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--retention", "forever", "write e.g. 12h, 7d, 2w"),
        ("--retention", "0d", "write e.g. 12h, 7d, 2w"),
        ("--max-size", "much", "write e.g. 500MB, 4GB"),
        ("--port", "80000", "write a number up to 65535"),
        ("--log-port", "-1", "write a number up to 65535"),
    ],
)
def test_bad_option_is_answered_with_an_example(
    capsys: pytest.CaptureFixture[str], option: str, value: str, expected: str
) -> None:
    """A value that makes no sense is quoted, and the answer shows one that does."""
    with pytest.raises(SystemExit, match="2"):
        main([f"{option}={value}"])

    said = capsys.readouterr().err
    assert repr(value) in said
    assert expected in said


def test_durations_and_sizes_have_units() -> None:
    """Units mean what they say."""
    assert [read_duration(text) for text in ("90s", "1.5m", "12h", "7d", "2w")] == [
        90,
        90,
        43200,
        604800,
        1209600,
    ]
    assert [read_size(text) for text in ("500MB", "1gb")] == [500 << 20, 1 << 30]
