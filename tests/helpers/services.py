"""PostgreSQL, MariaDB, Redis and Etsy's statsd: the running one, or a private one for as long as it is needed.

Standard library only, so that `python3 -m tests` can start what is missing before anything is installed.  An address
in the environment (`TEST_POSTGRESQL=127.0.0.1:5432`, see `Service.variable`) goes before all else: that is how one run
lends its services to another, in a chroot say.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.ports import LOOPBACK, free_port, is_listening
from tests.helpers.processes import REPOSITORY, running, wait_until
from tests.helpers.statsd import send_mark

STATSD_PACKAGE = REPOSITORY / ".cache" / "node" / "node_modules" / "statsd"


class UnavailableError(RuntimeError):
    """A service neither runs nor can be started here; the message says what to install."""


@dataclass(frozen=True)
class Service:
    """Where to find a kind of server, and how to start one of our own."""

    name: str
    standard_port: int
    start_private: Callable[[], contextlib.AbstractContextManager[int]]

    @property
    def variable(self) -> str:
        """The environment variable that lends a running server's `host:port`."""
        return f"TEST_{self.name.upper()}"

    @contextlib.contextmanager
    def address(
        self, usable: Callable[[str, int], bool] = is_listening
    ) -> Iterator[tuple[str, int]]:
        """Give host and port of a server that is `usable`: a lent one, the one on the standard port, or a private one.

        Raises:
            UnavailableError: There is none, and the programs to start one are not installed.
        """
        if lent := os.environ.get(self.variable):
            host, _, port = lent.rpartition(":")
            yield host, int(port)
        elif usable(LOOPBACK, self.standard_port):
            yield LOOPBACK, self.standard_port
        else:
            with self.start_private() as port:
                yield LOOPBACK, port


@contextlib.contextmanager
def private_postgresql() -> Iterator[int]:
    """Start a PostgreSQL without a password for its user `postgres`, and give its port."""
    initdb, postgres = _postgresql_program("initdb"), _postgresql_program("postgres")
    port = free_port()
    with _data_folder("postgres") as (folder, user):
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        _run([initdb, "-D", str(folder / "data"), *options], user)
        settings = (
            f"port={port}",
            f"listen_addresses={LOOPBACK}",
            "unix_socket_directories=",
            "fsync=off",
        )
        words = [
            postgres,
            "-D",
            str(folder / "data"),
            *(word for value in settings for word in ("-c", value)),
        ]
        with running(words, cwd=folder, user=user) as server:
            wait_until(lambda: is_listening(LOOPBACK, port), 60, "PostgreSQL")
            yield port
            # "Fast" shutdown; SIGTERM would wait for clients, and its children are in sessions of their own.
            server.signal(signal.SIGINT)
            server.wait()


@contextlib.contextmanager
def private_mariadb() -> Iterator[int]:
    """Start a MariaDB without a password for its user `root`, and give its port."""
    install, daemon = (
        _program("mariadb-install-db", "mariadb-server"),
        _program("mariadbd", "mariadb-server"),
    )
    port = free_port()
    with _data_folder("mysql") as (folder, user):
        data = f"--datadir={folder / 'data'}"
        options = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        _run([install, "--no-defaults", data, *options], user)
        words = [daemon, "--no-defaults", data, f"--port={port}", f"--bind-address={LOOPBACK}"]
        words += [f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}"]
        with running(words, cwd=folder, user=user):
            wait_until(lambda: is_listening(LOOPBACK, port), 60, "MariaDB")
            yield port


@contextlib.contextmanager
def private_redis() -> Iterator[int]:
    """Start a Redis that keeps nothing, and give its port."""
    port = free_port()
    words = [
        _program("redis-server", "redis-server"),
        "--port",
        str(port),
        "--bind",
        LOOPBACK,
        "--save",
        "",
    ]
    with running(words, cwd=tempfile.gettempdir()):
        wait_until(lambda: is_listening(LOOPBACK, port), 30, "Redis")
        yield port


@contextlib.contextmanager
def private_etsy_statsd(tcp_port: int = 0) -> Iterator[int]:
    """Start Etsy's statsd, which receives on a UDP port and tells what it received on the same TCP port; give that.

    With `tcp_port` it receives there, by TCP, as well.
    """
    if not STATSD_PACKAGE.exists():
        raise UnavailableError("Etsy's statsd is not installed; `python3 -m tests` does that")
    node, port = _program("node", "nodejs"), free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.js")
        servers = [f'{{server: "./servers/udp", port: {port}, address: "{LOOPBACK}"}}']
        if tcp_port:
            servers += [f'{{server: "./servers/tcp", port: {tcp_port}, address: "{LOOPBACK}"}}']
        # An interval that no test outlives: nothing is flushed, so everything can still be asked for.
        config.write_text(
            f'{{servers: [{", ".join(servers)}], mgmt_port: {port}, mgmt_address: "{LOOPBACK}",'
            " flushInterval: 86400000, backends: [], title: false, automaticConfigReload: false}"
        )
        with running([node, str(STATSD_PACKAGE / "stats.js"), str(config)], cwd=folder):
            wait_until(lambda: is_listening(LOOPBACK, port), 30, "Etsy's statsd")
            yield port


POSTGRESQL = Service("postgresql", 5432, private_postgresql)
MARIADB = Service("mariadb", 3306, private_mariadb)
REDIS = Service("redis", 6379, private_redis)
# 0: never somebody else's statsd, whose counters hold somebody else's lines.
ETSY_STATSD = Service("etsy_statsd", 0, private_etsy_statsd)
SERVICES = (POSTGRESQL, MARIADB, REDIS, ETSY_STATSD)


class EtsyStatsd:
    """A running statsd of Etsy's: where to send to, and what it says of what it received."""

    def __init__(self, host: str, port: int, address: str = "") -> None:
        self.host, self.port = host, port
        self.address = address or f"udp://{host}:{port}"

    def catch_up(self) -> None:
        """Return once it has read all that has been sent to it by now."""
        name = send_mark((self.host, self.port))
        wait_until(lambda: name in self.counters(), what="what Etsy's statsd is sent")

    def wait_for_count(self, beginning: str, expected: float) -> None:
        """Wait until `count(beginning)` is `expected` or more, and all that has been sent beside it has been read."""
        wait_until(lambda: self.count(beginning) >= expected, what=f"{expected} of {beginning}")
        self.catch_up()

    def bad_lines(self) -> int:
        """Return how many lines it has refused since it started."""
        match = re.search(r"messages\.bad_lines_seen: (\d+)", self._ask("stats"))
        assert match is not None
        return int(match[1])

    def counters(self) -> dict[str, float]:
        """Return its counters (those it keeps of itself, `statsd.…`, included; tags as `name;tag=value`) with their sums."""
        pairs = re.findall(r"[{,]\s*'?([\w.;=-]+)'?: (-?[\d.]+)", self._ask("counters"))
        return {name: float(value) for name, value in pairs}

    def count(self, beginning: str) -> float:
        """Return the sum of all counters whose name starts with `beginning`."""
        return sum(value for name, value in self.counters().items() if name.startswith(beginning))

    def timers(self) -> set[str]:
        """Return the names of its timers."""
        return set(re.findall(r"[{,]\s*'?([\w.;=-]+)'?: \[", self._ask("timers")))

    def _ask(self, question: str) -> str:
        with socket.create_connection((self.host, self.port), timeout=10) as connection:
            connection.sendall(question.encode() + b"\n")
            answer = b""
            while not answer.endswith(b"END\n\n"):
                answer += connection.recv(65_536)
        return answer.decode()


@contextlib.contextmanager
def _data_folder(user: str) -> Iterator[tuple[Path, str | None]]:
    """Give an empty folder and whom to run a server as: these servers refuse to be root's."""
    with tempfile.TemporaryDirectory(prefix="introspect-test-") as name:
        owner = _existing_user(user) if os.geteuid() == 0 else None
        if owner:
            shutil.chown(name, owner)
        yield Path(name), owner


def _existing_user(user: str) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(user).pw_name
    return "nobody"


def _program(name: str, package: str) -> str:
    found = shutil.which(
        name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
    )
    if found is None:
        raise UnavailableError(f"`{name}` is not installed; Debian's package is `{package}`")
    return found


def _postgresql_program(name: str) -> str:
    installed = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4])
    )
    return str(installed[-1]) if installed else _program(name, "postgresql")


def _run(command: list[str], user: str | None) -> None:
    done = subprocess.run(
        command, user=user, cwd=tempfile.gettempdir(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UnavailableError(f"{command} failed:\n{done.stdout}{done.stderr}")
