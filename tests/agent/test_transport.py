"""The way to StatsD, over real sockets, and every way in which it can be barred."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from introspect.agent import emitter, transport
from introspect.agent.metrics import COUNTER, Metric
from introspect.agent.settings import Address, statsd_address
from introspect.agent.transport import DatagramTransport, StreamTransport, transport_for
from tests.helpers.ports import LOOPBACK, free_port
from tests.helpers.processes import clean_environment, wait_until
from tests.helpers.statsd import StatsdListener
from tests.helpers.threads import run_at_once


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first send wait for whoever opens, however busy the machine is."""
    monkeypatch.setattr(transport, "PATIENCE_SECONDS", 20.0)
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT_SECONDS", 20.0)


@contextlib.contextmanager
def listening(family: int, kind: int, address: object) -> Iterator[socket.socket]:
    """Give a bound socket, which listens if it takes connections."""
    with socket.socket(family, kind) as server:
        server.settimeout(10)
        server.bind(address)
        if kind == socket.SOCK_STREAM:
            server.listen()
        yield server


@contextlib.contextmanager
def opened(address: str | Address) -> Iterator[transport.Transport]:
    """Give a transport to *address*."""
    way = transport_for(statsd_address(address) if isinstance(address, str) else address)
    yield way
    way.close()


def received(connection: socket.socket, size: int) -> bytes:
    """Read `size` bytes, or until the other end closes."""
    data = b""
    while len(data) < size and (piece := connection.recv(size - len(data))):
        data += piece
    return data


def all_there_is(connection: socket.socket) -> bytes:
    """Read until nothing comes within the connection's timeout."""
    data = b""
    with contextlib.suppress(TimeoutError):
        while piece := connection.recv(1 << 20):
            data += piece
    return data


def sent_eventually(way: transport.Transport, payload: bytes) -> None:
    """Send until it is handed over, as the traffic of an application would."""
    wait_until(lambda: way.send(payload), what=way.trouble)


class TestUdp:
    """Datagrams to a host and port."""

    def test_payload_is_one_datagram(self, statsd: StatsdListener) -> None:
        """What is sent in one go arrives as one datagram."""
        with opened(statsd.address) as way:
            assert way.send(b"a.b:1|c\na.c:2|ms")
        statsd.wait_for(lambda listener: listener.datagrams)

        assert statsd.datagrams == [b"a.b:1|c\na.c:2|ms"]

    def test_threads_that_send_first_at_once(self, statsd: StatsdListener) -> None:
        """Threads that send for the first time at the same moment lose nothing, and open one socket."""
        gc.collect()  # which may close what other tests have left
        before = set(os.listdir("/proc/self/fd"))
        for _ in range(50):
            with opened(statsd.address) as way:
                assert run_at_once(lambda way=way: way.send(b"a.b:1|c"), 8) == [True] * 8
                assert way.drops == 0
        statsd.wait_for_count("a.b", 400)

        assert set(os.listdir("/proc/self/fd")) == before

    def test_nothing_is_opened_before_the_first_send(self, statsd: StatsdListener) -> None:
        """A transport that sends nothing owns no descriptor."""
        gc.collect()
        before = set(os.listdir("/proc/self/fd"))
        with opened(statsd.address) as way:
            assert set(os.listdir("/proc/self/fd")) == before
            way.send(b"a.b:1|c")
            assert len(os.listdir("/proc/self/fd")) == len(before) + 1
        assert set(os.listdir("/proc/self/fd")) == before

    def test_descriptor_is_not_inherited_by_other_programs(self, statsd: StatsdListener) -> None:
        """A program that the application starts does not get our socket."""
        with opened(statsd.address) as way:
            way.send(b"a.b:1|c")

            assert not os.get_inheritable(way._descriptor.number)

    def test_localhost_is_ipv4(self, statsd: StatsdListener) -> None:
        """`localhost` is 127.0.0.1, where daemons listen, also where it resolves to ::1 first."""
        with opened(f"udp://localhost:{statsd.port}") as way:
            assert way.send(b"a.b:1|c")
        statsd.wait_for_count("a.b", 1)

    @pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 in this Python")
    def test_ipv6(self) -> None:
        """An address in brackets is reached by IPv6."""
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
            try:
                server.bind(("::1", 0))
            except OSError:
                pytest.skip("this machine has no IPv6 loopback address")
            with opened(f"udp://[::1]:{server.getsockname()[1]}") as way:
                assert way.send(b"a.b:1|c")
                assert server.recv(100) == b"a.b:1|c"

    def test_nobody_listens(self) -> None:
        """A closed port costs nothing but what was sent there, and each loss is counted."""
        with opened(f"udp://{LOOPBACK}:{free_port()}") as way:
            for _ in range(5):
                way.send(b"a.b:1|c")

            assert way.drops == 4  # the kernel tells of each at the next send
            assert "refused" in way.trouble

    def test_server_that_comes_back(self, statsd: StatsdListener) -> None:
        """A server that was away gets everything again from the moment it is back."""
        port = free_port()
        with opened(f"udp://{LOOPBACK}:{port}") as way:
            way.send(b"lost:1|c")
            way.send(b"lost:1|c")
            with listening(socket.AF_INET, socket.SOCK_DGRAM, (LOOPBACK, port)) as server:
                assert way.send(b"a.b:1|c")
                assert server.recv(100) == b"a.b:1|c"

    def test_drops_told_in_a_lost_datagram_are_told_again(self) -> None:
        """A datagram that told of drops and was lost itself leaves them to be told of."""
        port = free_port()
        with opened(f"udp://{LOOPBACK}:{port}") as way:
            for _ in range(10):
                told = way.drops
                if way.send(b"a.b:1|c"):
                    way.tell(told)
            with listening(socket.AF_INET, socket.SOCK_DGRAM, (LOOPBACK, port)):
                way.send(b"a.b:1|c")

                assert way.drops == 10

    def test_too_long_for_a_datagram(self, statsd: StatsdListener) -> None:
        """What the network does not take is one drop, and the next datagram goes."""
        with opened(statsd.address) as way:
            assert not way.send(b"x" * 70_000)
            assert way.drops == 1
            assert way.send(b"a.b:1|c")


@pytest.fixture(params=["udp", "tcp"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Each way to a host and port in turn."""
    name: str = request.param
    return name


KINDS = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}
UNIX_KINDS = {"datagram": socket.SOCK_DGRAM, "stream": socket.SOCK_STREAM}


def first_line(server: socket.socket) -> bytes:
    """Return the first line that arrives, be it in a datagram or over a connection."""
    if server.type == socket.SOCK_DGRAM:
        return server.recv(100)
    connection, _ = server.accept()
    with connection:
        connection.settimeout(10)
        return received(connection, len(b"a.b:1|c\n")).removesuffix(b"\n")


class TestHostNames:
    """A name is looked up in a thread that ends: at the first send, and by UDP every minute."""

    @pytest.fixture
    def names(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, str | float]:
        """A table of names, for the resolver of this process: an address, or seconds of silence."""
        table: dict[str, str | float] = {}
        real = socket.getaddrinfo

        def getaddrinfo(host: str, *args: object, **kwargs: object) -> object:
            found = table.get(host, host) if host != "unknown.test" else table.get(host, 0.0)
            if isinstance(found, float):
                time.sleep(found)
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return real(found, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return table

    @pytest.fixture
    def server(self, scheme: str) -> Iterator[socket.socket]:
        """A server that is reached by this scheme."""
        with listening(socket.AF_INET, KINDS[scheme], (LOOPBACK, 0)) as made:
            yield made

    @pytest.fixture
    def port(self, server: socket.socket) -> int:
        """The server's port."""
        number: int = server.getsockname()[1]
        return number

    def test_first_send(
        self, scheme: str, server: socket.socket, port: int, names: dict[str, str | float]
    ) -> None:
        """Where the name server answers at once, the first payload is not lost."""
        names["stats.test"] = LOOPBACK
        with opened(f"{scheme}://stats.test:{port}") as way:
            assert way.send(b"a.b:1|c")
            assert first_line(server) == b"a.b:1|c"

    @pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 in this Python")
    def test_ipv6_alone(self, scheme: str, names: dict[str, str | float]) -> None:
        """A name that has an IPv6 address and no other is reached by that."""
        names["six.test"] = "::1"
        with contextlib.ExitStack() as stack:
            try:
                server = stack.enter_context(listening(socket.AF_INET6, KINDS[scheme], ("::1", 0)))
            except OSError:
                pytest.skip("this machine has no IPv6 loopback address")
            way = stack.enter_context(opened(f"{scheme}://six.test:{server.getsockname()[1]}"))

            assert way.send(b"a.b:1|c"), way.trouble
            assert first_line(server) == b"a.b:1|c"

    def test_ipv4_goes_first(
        self, scheme: str, server: socket.socket, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a name that has addresses of both kinds, the one is taken that daemons listen on."""
        real = socket.getaddrinfo

        def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
            if host != "both.test":
                return real(host, *args, **kwargs)
            return [*real("::1", *args, **kwargs), *real(LOOPBACK, *args, **kwargs)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with opened(f"{scheme}://both.test:{port}") as way:
            assert way.send(b"a.b:1|c")
            assert first_line(server) == b"a.b:1|c"

    def test_threads_of_the_application_look_nothing_up(
        self, scheme: str, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever sends does not ask the resolver, be it for a name or for an address."""
        real = socket.getaddrinfo
        asked: list[tuple[str, int]] = []

        def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
            asked.append((host, threading.get_ident()))
            return real(LOOPBACK, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with opened(f"{scheme}://stats.test:{port}") as way:
            sent_eventually(way, b"a.b:1|c")

        assert "stats.test" in {host for host, _ in asked}
        assert threading.get_ident() not in {thread for _, thread in asked}

    def test_unknown(self, scheme: str, names: dict[str, str | float]) -> None:
        """An unknown name costs the measurements, which are counted, and is not asked for each time."""
        with opened(f"{scheme}://unknown.test:8125") as way:
            for _ in range(20):
                assert not way.send(b"a.b:1|c")

            assert way.drops == 20
            assert "not known" in way.trouble
            assert way._failures == 1

    def test_known_later(
        self,
        scheme: str,
        server: socket.socket,
        port: int,
        names: dict[str, str | float],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A name that becomes known is found without a restart."""
        monkeypatch.setattr(transport, "SECONDS_BETWEEN_TRIES", (0.05,))
        with opened(f"{scheme}://unknown.test:{port}") as way:
            assert not way.send(b"a.b:1|c")
            names["unknown.test"] = LOOPBACK
            sent_eventually(way, b"a.b:1|c")
            assert first_line(server) == b"a.b:1|c"

    def test_slow_name_server(
        self, scheme: str, names: dict[str, str | float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name server that does not answer holds the first send for a moment, and no other."""
        monkeypatch.setattr(transport, "PATIENCE_SECONDS", 0.05)
        names["unknown.test"] = 5.0
        with opened(f"{scheme}://unknown.test:8125") as way:
            started = time.perf_counter()
            for _ in range(50):
                way.send(b"a.b:1|c")

            assert time.perf_counter() - started < 2.5  # 50 times as long, if each send waited
            assert way.trouble == "no answer yet"
            wait_until(lambda: not way._opening)

    def test_address_that_changes(
        self,
        statsd: StatsdListener,
        names: dict[str, str | float],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The name is looked up again, and a new address is used under the same descriptor number."""
        monkeypatch.setattr(transport, "SECONDS_BETWEEN_LOOKUPS", 0.05)
        names["stats.test"] = LOOPBACK
        with (
            listening(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.2", statsd.port)) as other,
            opened(f"udp://stats.test:{statsd.port}") as way,
        ):
            assert way.send(b"a.b:1|c")
            number = way._descriptor.number
            names["stats.test"] = "127.0.0.2"
            other.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: way.send(b"a.b:1|c") and _has_data(other))

            assert other.recv(100) == b"a.b:1|c"
            wait_until(lambda: not way._opening)
            assert way._descriptor.number == number

    def test_name_server_that_fails_later(
        self,
        statsd: StatsdListener,
        names: dict[str, str | float],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """When the name cannot be looked up again, its last address stays in use."""
        monkeypatch.setattr(transport, "SECONDS_BETWEEN_LOOKUPS", 0.01)
        names["unknown.test"] = LOOPBACK
        with opened(f"udp://unknown.test:{statsd.port}") as way:
            assert way.send(b"a.b:1|c")
            names["unknown.test"] = 0.0
            for _ in range(20):
                time.sleep(0.02)
                assert way.send(b"a.b:1|c")
            wait_until(lambda: not way._opening)

            assert way.drops == 0

    def test_address_that_changes_behind_a_connection(
        self, names: dict[str, str | float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A connection that has ended is made anew to the address that the name has by then."""
        monkeypatch.setattr(transport, "SECONDS_BETWEEN_TRIES", (0.05,))
        names["stats.test"] = LOOPBACK
        port = free_port()
        with (
            listening(socket.AF_INET, socket.SOCK_STREAM, (LOOPBACK, port)) as server,
            listening(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.2", port)) as other,
            opened(f"tcp://stats.test:{port}") as way,
        ):
            sent_eventually(way, b"a.b:1|c")
            names["stats.test"] = "127.0.0.2"
            server.accept()[0].close()
            wait_until(lambda: not way.send(b"a.b:1|c"))
            sent_eventually(way, b"a.c:1|c")

            assert first_line(other) == b"a.c:1|c"

    def test_opened_ahead(
        self, scheme: str, server: socket.socket, port: int, names: dict[str, str | float]
    ) -> None:
        """A process that will send at its exit looks the name up before."""
        names["stats.test"] = LOOPBACK
        with opened(f"{scheme}://stats.test:{port}") as way:
            way.open_ahead()
            wait_until(lambda: way._descriptor is not None)

            assert way.send(b"a.b:1|c")
            assert first_line(server) == b"a.b:1|c"

    def test_thread_ends(self, scheme: str, port: int, names: dict[str, str | float]) -> None:
        """No thread of ours is left once the name is known."""
        names["stats.test"] = LOOPBACK
        before = set(os.listdir("/proc/self/task"))
        with opened(f"{scheme}://stats.test:{port}") as way:
            sent_eventually(way, b"a.b:1|c")
            wait_until(lambda: before.issuperset(os.listdir("/proc/self/task")))


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Be nobody for a while, if this is root, who may do everything."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


def _has_data(sock: socket.socket) -> bool:
    import select

    return bool(select.select([sock], [], [], 0.05)[0])


class TestTcp:
    """A connection to a host and port."""

    def test_lines_are_ended(self) -> None:
        """Each payload ends in a newline, as lines in a stream need it."""
        with (
            listening(socket.AF_INET, socket.SOCK_STREAM, (LOOPBACK, 0)) as server,
            opened(f"tcp://{LOOPBACK}:{server.getsockname()[1]}") as way,
        ):
            sent_eventually(way, b"a.b:1|c\na.c:2|ms")
            assert way.send(b"a.d:3|ms")
            connection, _ = server.accept()
            with connection:
                assert received(connection, 26) == b"a.b:1|c\na.c:2|ms\na.d:3|ms\n"

    def test_nobody_listens(self) -> None:
        """A refused connection costs the measurements, and is not tried for each."""
        with opened(f"tcp://{LOOPBACK}:{free_port()}") as way:
            for _ in range(20):
                assert not way.send(b"a.b:1|c")

            assert way.drops == 20
            assert "refused" in way.trouble

    def test_server_that_does_not_read(self) -> None:
        """A full buffer never blocks, what does not fit is counted, and no line is ever torn."""
        with (
            listening(socket.AF_INET, socket.SOCK_STREAM, (LOOPBACK, 0)) as server,
            opened(f"tcp://{LOOPBACK}:{server.getsockname()[1]}") as way,
        ):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sent_eventually(way, b"first.line:1|c")
            connection, _ = server.accept()
            payload = b"\n".join(b"a.name.of.some.length.%d:1|c" % n for n in range(40))
            started = time.perf_counter()
            handed_over = 0
            while way.drops < 20 and time.perf_counter() - started < 20:
                handed_over += way.send(payload)

            assert way.drops >= 20
            assert "does not read" in way.trouble
            with connection:
                connection.settimeout(0.3)
                data = all_there_is(connection)
                assert way.send(b"the.last:1|c")
                data += all_there_is(connection)
            lines = data.split(b"\n")
            expected = {*payload.split(b"\n"), b"first.line:1|c", b"the.last:1|c"}
            assert set(lines[:-1]) <= expected
            assert data.count(payload + b"\n") == handed_over
            assert data.endswith(b"\nthe.last:1|c\n")

    def test_many_threads(self) -> None:
        """What several threads send at once arrives whole and complete, though the reader is slow."""
        sender_count, payload_count = 8, 300
        with (
            listening(socket.AF_INET, socket.SOCK_STREAM, (LOOPBACK, 0)) as server,
            opened(f"tcp://{LOOPBACK}:{server.getsockname()[1]}") as way,
        ):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sent_eventually(way, b"first:1|c")
            connection, _ = server.accept()
            data = bytearray()

            def read() -> None:
                while piece := connection.recv(5000):
                    data.extend(piece)

            def send(sender: int) -> None:
                for number in range(payload_count):
                    way.send(b"sender.%d.%d:1|c\n" % (sender, number) + b"x.%d:1|c" % sender * 20)

            reader = threading.Thread(target=read)
            senders = [threading.Thread(target=send, args=(n,)) for n in range(sender_count)]
            for thread in (reader, *senders):
                thread.start()
            for thread in senders:
                thread.join()
            wait_until(lambda: way.send(b"the.end:1|c") and not way._unsent)
            way.close()
            reader.join()
            connection.close()
        lines = bytes(data).split(b"\n")
        heads = [line for line in lines if line.startswith(b"sender.")]
        bodies = {b"x.%d:1|c" % sender * 20 for sender in range(sender_count)}

        assert set(lines) - set(heads) == {*bodies, b"first:1|c", b"the.end:1|c", b""}
        assert len(heads) == len(set(heads)) == sender_count * payload_count - (way.drops)

    def test_server_that_hangs_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A closed connection is opened again a little later."""
        monkeypatch.setattr(transport, "SECONDS_BETWEEN_TRIES", (0.05,))
        with (
            listening(socket.AF_INET, socket.SOCK_STREAM, (LOOPBACK, 0)) as server,
            opened(f"tcp://{LOOPBACK}:{server.getsockname()[1]}") as way,
        ):
            sent_eventually(way, b"a.b:1|c")
            server.accept()[0].close()
            wait_until(lambda: not way.send(b"a.b:1|c"))
            assert way.drops == 1
            sent_eventually(way, b"a.c:1|c")
            connection, _ = server.accept()
            with connection:
                assert received(connection, 8) == b"a.c:1|c\n"

    def test_no_sigpipe(self) -> None:
        """In a process that has given SIGPIPE its default back, a closed connection kills nobody."""
        code = (
            "import signal, socket, time, sys; signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
            "from introspect.agent.transport import transport_for\n"
            "from introspect.agent.settings import statsd_address\n"
            "server = socket.create_server(('127.0.0.1', 0))\n"
            "way = transport_for(statsd_address('tcp://127.0.0.1:%d' % server.getsockname()[1]))\n"
            "while not way.send(b'a.b:1|c'): time.sleep(0.01)\n"
            "server.accept()[0].close(); server.close()\n"
            "for _ in range(20): way.send(b'a.b:1|c'); time.sleep(0.01)\n"
            "print('alive')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=clean_environment(), capture_output=True, check=False
        )

        assert done.returncode != -signal.SIGPIPE
        assert done.stdout == b"alive\n", done.stderr

    def test_events_inside_a_send(self) -> None:
        """A garbage collection inside a send may send itself: nothing deadlocks, nothing is lost."""
        with (
            listening(socket.AF_INET, socket.SOCK_STREAM, (LOOPBACK, 0)) as server,
            opened(f"tcp://{LOOPBACK}:{server.getsockname()[1]}") as way,
        ):
            sent_eventually(way, b"a.b:1|c")
            assert isinstance(way, StreamTransport)
            with way._writing:  # as in the middle of a send of this thread
                way.send(b"from.a.destructor:1|c")
            assert way.send(b"a.c:1|c")
            connection, _ = server.accept()
            with connection:
                expected = b"a.b:1|c\nfrom.a.destructor:1|c\na.c:1|c\n"
                assert received(connection, len(expected)) == expected


class TestThreads:
    """The thread that opens, and what may be in its way."""

    def test_send_in_the_midst_of_an_import(self, tmp_path: Path) -> None:
        """A send by a module whose import the opening thread has to wait for does not wait for that thread."""
        (tmp_path / "statsd.py").write_text(
            "import builtins, time\n"
            "started = time.perf_counter(); builtins.way.send(b'a.b:1|c')\n"
            "print(time.perf_counter() - started < 15)\n"
        )
        code = (
            "import builtins, sys\n"
            "from introspect.agent.transport import transport_for\n"
            "from introspect.agent.settings import statsd_address\n"
            f"builtins.way = transport_for(statsd_address('tcp://{LOOPBACK}:9'))\n"
            f"sys.path.insert(0, {str(tmp_path)!r}); import statsd"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=clean_environment(),
            capture_output=True,
            timeout=20,
            check=False,
        )

        assert (done.stdout, done.returncode) == (b"True\n", 0), done.stderr

    @pytest.mark.parametrize("scheme", ["udp", "tcp"])
    def test_the_opening_thread_imports_nothing(self, scheme: str) -> None:
        """A child that is forked while that thread opens has no half module, which it would wait for whenever it looks up a name."""
        code = """
import socket, sys, threading, time
real = socket.getaddrinfo
def getaddrinfo(host, *args, **kwargs):
    host.encode("idna")  # as the real one does
    return real("127.0.0.1", *args, **kwargs)
socket.getaddrinfo = getaddrinfo
main, found = threading.get_ident(), []
def noted(event, args):
    if event == "import" and threading.get_ident() != main: found.append(args[0])
sys.addaudithook(noted)
from introspect.agent.settings import statsd_address
from introspect.agent.transport import transport_for
way = transport_for(statsd_address(sys.argv[1]))
while not way.send(b"a.b:1|c"): time.sleep(0.01)
print(found)
"""
        kind = socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM
        with listening(socket.AF_INET, kind, (LOOPBACK, 0)) as server:
            address = f"{scheme}://stats.test:{server.getsockname()[1]}"
            done = subprocess.run(
                [sys.executable, "-c", code, address],
                env=clean_environment(),
                capture_output=True,
                timeout=20,
                check=False,
            )

        assert (done.stdout, done.returncode) == (b"[]\n", 0), done.stderr

    def test_no_thread_to_be_had(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where no thread can be started, as at exit from Python 3.12 on, a send is a drop and raises nothing."""

        def refuse(*_args: object) -> int:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(transport, "SECONDS_BETWEEN_TRIES", (0.0,))
        with (
            listening(socket.AF_INET, socket.SOCK_STREAM, (LOOPBACK, 0)) as server,
            opened(f"tcp://{LOOPBACK}:{server.getsockname()[1]}") as way,
        ):
            with monkeypatch.context() as exhausted:
                exhausted.setattr(transport._thread, "start_new_thread", refuse)
                way.open_ahead()
                assert not way.send(b"a.b:1|c")
                assert not way.send(b"a.b:1|c")
            assert way.drops == 2
            assert "can't start new thread" in way.trouble

            sent_eventually(way, b"a.b:1|c")

    def test_first_send_at_exit(self) -> None:
        """A process whose first send is at its exit ends as it would have ended."""
        code = (
            "import atexit\n"
            "from introspect.agent.transport import transport_for\n"
            "from introspect.agent.settings import statsd_address\n"
            f"way = transport_for(statsd_address('tcp://{LOOPBACK}:9'))\n"
            "atexit.register(lambda: print(way.send(b'a.b:1|c')))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=clean_environment(), capture_output=True, check=False
        )

        assert (done.stdout, done.stderr, done.returncode) == (b"False\n", b"", 0)


class TestUnixSockets:
    """A path, behind which is a stream or a datagram socket."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        """A path for a socket."""
        return str(tmp_path / "statsd.sock")

    def test_datagram(self, path: str) -> None:
        """A datagram socket gets datagrams, without a newline at the end."""
        with (
            listening(socket.AF_UNIX, socket.SOCK_DGRAM, path) as server,
            opened(f"unix://{path}") as way,
        ):
            assert way.send(b"a.b:1|c\na.c:2|ms")
            assert server.recv(100) == b"a.b:1|c\na.c:2|ms"

    def test_stream(self, path: str) -> None:
        """A stream socket gets lines."""
        with (
            listening(socket.AF_UNIX, socket.SOCK_STREAM, path) as server,
            opened(f"unix://{path}") as way,
        ):
            assert way.send(b"a.b:1|c")
            assert way.send(b"a.c:1|c")
            connection, _ = server.accept()
            with connection:
                assert received(connection, 16) == b"a.b:1|c\na.c:1|c\n"

    def test_missing(self, path: str) -> None:
        """A path that does not exist costs the measurements."""
        with opened(f"unix://{path}") as way:
            assert not way.send(b"a.b:1|c")
            assert way.drops == 1
            assert "No such file" in way.trouble

    def test_may_not_be_written_to(
        self, path: str, declare: Callable[..., Metric], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A socket of somebody else's costs the measurements, and the one line about it says why."""
        with listening(socket.AF_UNIX, socket.SOCK_DGRAM, path):
            os.chmod(path, 0o400)
            emitter.configure(statsd_address(f"unix://{path}"))
            series = declare("thing", COUNTER).of()
            with without_privileges():
                for _ in range(5):
                    emitter.send([series, 1])

        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"StatsD at unix://{path} cannot be reached" in said
        assert "Permission denied" in said

    def test_no_socket(self, path: str) -> None:
        """A path that is no socket costs the measurements."""
        Path(path).write_text("")
        with opened(f"unix://{path}") as way:
            assert not way.send(b"a.b:1|c")
            assert "refused" in way.trouble

    def test_full_queue(self, path: str) -> None:
        """A server that does not read its datagrams costs those alone: the next one goes when it does."""
        with (
            listening(socket.AF_UNIX, socket.SOCK_DGRAM, path) as server,
            opened(f"unix://{path}") as way,
        ):
            handed_over = 0
            while way.send(b"a.b:1|c"):
                handed_over += 1
            assert way.drops == 1
            for _ in range(handed_over):
                server.recv(100)

            assert way.send(b"a.c:1|c")
            assert server.recv(100) == b"a.c:1|c"

    def test_server_that_restarts(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A new server under the same path is found, be it of the other kind."""
        monkeypatch.setattr(transport, "SECONDS_BETWEEN_TRIES", (0.05,))
        with opened(f"unix://{path}") as way:
            with listening(socket.AF_UNIX, socket.SOCK_DGRAM, path):
                assert way.send(b"a.b:1|c")
            os.unlink(path)
            assert not way.send(b"a.b:1|c")
            with listening(socket.AF_UNIX, socket.SOCK_STREAM, path) as server:
                sent_eventually(way, b"a.c:1|c")
                connection, _ = server.accept()
                with connection:
                    assert received(connection, 8) == b"a.c:1|c\n"


class TestDescriptors:
    """What others do to our descriptor, and what we never do to theirs."""

    @pytest.fixture(params=["udp", "tcp", "unix datagram", "unix stream"])
    def way(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[transport.Transport]:
        """A transport that has sent once, to a server that keeps all it gets."""
        scheme, _, form = request.param.partition(" ")
        kind = UNIX_KINDS[form] if form else KINDS[scheme]
        with contextlib.ExitStack() as stack:
            if scheme == "unix":
                target = str(tmp_path / "statsd.sock")
                stack.enter_context(listening(socket.AF_UNIX, kind, target))
            else:
                server = stack.enter_context(listening(socket.AF_INET, kind, (LOOPBACK, 0)))
                target = f"{LOOPBACK}:{server.getsockname()[1]}"
            way = stack.enter_context(opened(f"{scheme}://{target}"))
            sent_eventually(way, b"a.b:1|c")
            yield way

    def test_closed_by_somebody(self, way: transport.Transport) -> None:
        """A descriptor that a daemoniser has closed is opened anew."""
        os.close(way._descriptor.number)

        sent_eventually(way, b"a.c:1|c")

    def test_reused_by_somebody(self, way: transport.Transport) -> None:
        """Not a byte arrives on a connection that has got our number, and it stays open."""
        number = way._descriptor.number
        ours, theirs = socket.socketpair()
        with ours, theirs:
            os.dup2(ours.fileno(), number)
            sent_eventually(way, b"a.c:1|c")
            assert way._descriptor.number != number
            way.close()

            theirs.setblocking(False)
            with pytest.raises(BlockingIOError):
                theirs.recv(100)
            os.write(number, b"still open")
            assert theirs.recv(100) == b"still open"
            os.close(number)

    def test_reused_by_a_file(self, way: transport.Transport, tmp_path: Path) -> None:
        """Nor in a file."""
        number = way._descriptor.number
        with (tmp_path / "file").open("wb") as file:
            os.dup2(file.fileno(), number)
        sent_eventually(way, b"a.c:1|c")
        os.close(number)

        assert (tmp_path / "file").read_bytes() == b""

    @pytest.mark.parametrize("changed", ["st_dev", "st_ino"])
    def test_device_and_inode_both_count(
        self, way: transport.Transport, changed: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a number that stands for the same inode of another device, or for another inode, nothing of ours is left."""
        number, real = way._descriptor.number, os.fstat
        index = {"st_ino": 1, "st_dev": 2}[changed]

        def fstat(asked: int) -> os.stat_result:
            found = list(real(asked))
            if asked == number:
                found[index] += 1
            return os.stat_result(found)

        monkeypatch.setattr(os, "fstat", fstat)
        sent_eventually(way, b"a.c:1|c")

        assert way._descriptor.number != number
        real(number)  # not closed: it is somebody else's
        os.close(number)

    def test_fork(self, way: transport.Transport) -> None:
        """A child opens a socket of its own, and does not tell of its parent's drops."""
        way.drops = 7
        number, parent_socket = way._descriptor.number, os.fstat(way._descriptor.number).st_ino
        pid = os.fork()
        if pid == 0:
            status = 1
            with contextlib.suppress(BaseException):
                deadline = time.monotonic() + 5
                while not way.send(b"a.c:1|c") and time.monotonic() < deadline:
                    way.drops = 0
                own = os.fstat(way._descriptor.number).st_ino
                copies = [_inode(name) for name in os.listdir("/proc/self/fd")].count(parent_socket)
                status = int(not (own != parent_socket and copies == 0 and way.drops == 0))
            os._exit(status)

        assert os.waitpid(pid, 0)[1] == 0
        assert way.drops == 7
        assert os.fstat(number).st_ino == parent_socket


def _inode(name: str) -> int:
    with contextlib.suppress(OSError):
        return os.fstat(int(name)).st_ino
    return 0


def test_off() -> None:
    """`off` opens and counts nothing."""
    way = transport_for(Address("off"))

    assert not way.wanted
    assert not way.send(b"a.b:1|c")
    assert way.drops == 0
    assert str(way) == "off"


def test_kinds() -> None:
    """Each scheme has its transport, which prints as its address."""
    for text, kind in (
        ("udp://h:1", DatagramTransport),
        ("tcp://h:1", StreamTransport),
        ("unix:///p", StreamTransport),
    ):
        way = transport_for(statsd_address(text))

        assert type(way) is kind
        assert str(way) == text
