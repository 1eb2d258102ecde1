"""The sockets: StatsD by UDP, JSON lines by UDP and TCP; each reading thread fills batches.

Nothing here waits for the file: what was read is put into an ``Inbox`` several times a second, from
which the writer takes it.  A socket's own buffer is as large as the kernel allows, and what the
kernel drops in front of it all the same is asked for and counted.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from introspect.console.batch import MAX_BYTES, MAX_ROWS, Batch
from introspect.console.lines import LONGEST_LINE, BadLineError, Work, read_line
from introspect.console.statsd import Aggregate, Series

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from introspect.console.say import Voice

HANDOVER: Final = 0.2
"""Seconds that what was read stays with the reading thread."""

HANDOVER_ROWS: Final = 200
"""Or as soon as so many lines were read: of a flood of long ones the inbox must know early."""

DRAIN: Final = 2.0
"""Seconds at most that the end waits for what has already arrived."""

RECEIVE_BUFFER: Final = 16 << 20
LARGEST_PACKET: Final = 65_536
TCP_CHUNK: Final = 1 << 18
MAX_CONNECTIONS: Final = 256

# Linux, of which the standard library has no names: force a buffer beyond rmem_max (root only),
# and ask for the socket's memory figures, the ninth of which is how many packets were dropped.
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_DROPS: Final = 8


class BindError(Exception):
    """An address cannot be listened on; the text says which and what would help."""


class Inbox:
    """Where the reading threads leave what they read, until the writer takes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batch = Batch()
        self._bytes = 0

    def put(self, batch: Batch) -> None:
        """Leave a batch; it must not be touched afterwards."""
        size = sum(row.size for row in batch.works) + sum(row.size for row in batch.logs)
        with self._lock:
            self._batch.add(batch)
            self._bytes += size

    def is_full(self) -> bool:
        """Whether lines had better wait with the kernel and the senders: the writer is behind."""
        with self._lock:
            rows = max(len(self._batch.works), len(self._batch.logs))
            return rows > MAX_ROWS // 4 or self._bytes > MAX_BYTES // 4

    def take(self) -> Batch:
        """Return all that was left since last asked."""
        with self._lock:
            taken, self._batch = self._batch, Batch()
            self._bytes = 0
        return taken


class Drops:
    """How many packets the kernel dropped in front of a socket since last asked."""

    def __init__(self, udp: socket.socket) -> None:
        self._udp = udp
        self._before = 0

    def new(self) -> int:
        """Return the number since the last call; 0 where the kernel does not say."""
        try:
            figures = self._udp.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
            dropped = struct.unpack("9I", figures)[_DROPS]
        except (OSError, struct.error):
            return 0
        new = (dropped - self._before) % (1 << 32)
        self._before = dropped
        return int(new)


def bind_udp(host: str, port: int, option: str) -> socket.socket:
    """Listen for datagrams; ``option`` is what to name if that cannot be done."""
    udp = _bind(host, port, socket.SOCK_DGRAM, option)
    for choice in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
        with contextlib.suppress(OSError):
            udp.setsockopt(socket.SOL_SOCKET, choice, RECEIVE_BUFFER)
            break
    return udp


def bind_tcp(host: str, port: int, option: str) -> socket.socket:
    """Listen for connections; ``option`` is what to name if that cannot be done."""
    tcp = _bind(host, port, socket.SOCK_STREAM, option)
    tcp.listen(128)
    return tcp


def bind_both(host: str, port: int, option: str) -> tuple[socket.socket, socket.socket]:
    """Listen for datagrams and connections on the same port (chosen by the system if 0)."""
    for attempt in range(20):
        tcp = bind_tcp(host, port, option)
        try:
            return bind_udp(host, tcp.getsockname()[1], option), tcp
        except BindError:
            tcp.close()
            if port or attempt == 19:  # noqa: PLR2004
                raise
    raise AssertionError


def _bind(host: str, port: int, kind: socket.SocketKind, option: str) -> socket.socket:
    try:
        family, kind_, protocol, _, address = socket.getaddrinfo(host, port, type=kind)[0]
        bound = socket.socket(family, kind_, protocol)
    except OSError as error:
        raise BindError(f"{host} is not an address of this machine ({error})") from error
    try:
        if kind == socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        name = "TCP" if kind == socket.SOCK_STREAM else "UDP"
        raise BindError(
            f"{name} port {port} of {host} cannot be listened on ({error.strerror}): is another"
            f" console or daemon running?  Choose another port with {option}"
        ) from error
    return bound


class Receiver(threading.Thread):
    """A reading thread, which outlives whatever is sent to it."""

    def __init__(self, name: str, inbox: Inbox, voice: Voice) -> None:
        super().__init__(name=name, daemon=True)
        self._inbox = inbox
        self._voice = voice
        self._batch = Batch()
        self._due = 0.0
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ask the thread to read what has already arrived, and end."""
        self._stopping.set()

    def run(self) -> None:
        """Read until asked to stop."""
        while not self._stopping.is_set():
            self._guarded(self._read)
        self._guarded(self._drain)
        self._guarded(self._hand_over)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:
            self._batch.count("receiver.errors", 1)
            self._voice.say(self.name, f"{self.name}: {type(error).__name__}: {error} (went on)")
            time.sleep(0.01)

    def _hand_over_if_due(self, now: float) -> None:
        if now >= self._due or now < self._due - 2 * HANDOVER:  # the clock may be set back
            self._due = now + HANDOVER
            self._hand_over()

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, Batch()
        if batch:
            self._inbox.put(batch)

    def _read(self) -> None:
        """Read for about ``HANDOVER`` seconds at most, then return."""
        raise NotImplementedError

    def _drain(self) -> None:
        """Read what is there without waiting."""
        raise NotImplementedError


class StatsdReceiver(Receiver):
    """Reads StatsD datagrams."""

    def __init__(
        self, udp: socket.socket, inbox: Inbox, voice: Voice, gauges: Mapping[Series, float]
    ) -> None:
        super().__init__("statsd receiver", inbox, voice)
        self._udp = udp
        self._drops = Drops(udp)
        self._aggregate = Aggregate(gauges)

    def _read(self) -> None:
        self._udp.settimeout(HANDOVER)
        receive, feed, clock = self._udp.recv, self._aggregate.feed, time.time
        until = clock() + HANDOVER
        with contextlib.suppress(TimeoutError):
            while (now := clock()) < until:
                feed(receive(LARGEST_PACKET), now)
        self._hand_over()

    def _drain(self) -> None:
        self._udp.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            until = time.time() + DRAIN
            while time.time() < until:
                self._aggregate.feed(self._udp.recv(LARGEST_PACKET), time.time())

    def _hand_over(self) -> None:
        self._batch.add_taken(self._aggregate.take(time.time()))
        self._batch.count("statsd.kernel_drops", self._drops.new())
        super()._hand_over()


class LogReceiver(Receiver):
    """Reads JSON lines: datagrams of one or more, and connections."""

    def __init__(
        self,
        udp: socket.socket,
        tcp: socket.socket,
        inbox: Inbox,
        voice: Voice,
        retention: float,
    ) -> None:
        super().__init__("log receiver", inbox, voice)
        self._udp = udp
        self._drops = Drops(udp)
        self._retention = retention
        self._moment = 0.0
        self._connections: dict[socket.socket, bytearray] = {}
        self._selector = selectors.DefaultSelector()
        for listening in (udp, tcp):
            listening.setblocking(False)
        self._selector.register(udp, selectors.EVENT_READ, self._read_udp)
        self._selector.register(tcp, selectors.EVENT_READ, self._accept)

    def run(self) -> None:
        """Read until asked to stop, then close the connections."""
        super().run()
        for connection in list(self._connections):
            self._close(connection)
        self._selector.close()

    def _read(self) -> None:
        if self._inbox.is_full():
            time.sleep(HANDOVER)
            return
        self._read_ready(HANDOVER)
        if len(self._batch.works) + len(self._batch.logs) >= HANDOVER_ROWS:
            self._hand_over()
        self._hand_over_if_due(time.time())

    def _drain(self) -> None:
        until = time.time() + DRAIN
        while time.time() < until and self._read_ready(0):
            pass

    def _read_ready(self, patience: float) -> bool:
        ready = self._selector.select(patience)
        for key, _ in ready:
            action: Callable[[Any], None] = key.data
            action(key.fileobj)
        return bool(ready)

    def _hand_over(self) -> None:
        self._batch.count("log.kernel_drops", self._drops.new())
        super()._hand_over()

    def _read_udp(self, udp: socket.socket) -> None:
        now = time.time()
        with contextlib.suppress(BlockingIOError):
            for _ in range(200):
                for line in udp.recv(LARGEST_PACKET).split(b"\n"):
                    self._line(line, now)

    def _accept(self, tcp: socket.socket) -> None:
        try:
            connection, _ = tcp.accept()
        except BlockingIOError:
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            connection.close()
            self._batch.count("log.refused_connections", 1)
            self._voice.say(
                "connections", f"more than {MAX_CONNECTIONS} log connections: refused one"
            )
            return
        connection.setblocking(False)
        self._connections[connection] = bytearray()
        self._selector.register(connection, selectors.EVENT_READ, self._read_tcp)

    def _read_tcp(self, connection: socket.socket) -> None:
        try:
            chunk = connection.recv(TCP_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        now = time.time()
        unfinished = self._connections[connection]
        if not chunk:
            self._line(bytes(unfinished), now)
            self._close(connection)
            return
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = bytes(unfinished) + lines[0]
            unfinished.clear()
            for line in lines:
                self._line(line, now)
        # Of a line that is too long the beginning is kept: enough to refuse it when it ends.
        unfinished += rest[: LONGEST_LINE + 1 - len(unfinished)]

    def _close(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._connections[connection]
        connection.close()

    def _line(self, line: bytes, now: float) -> None:
        line = line.strip()
        if not line:
            return
        self._batch.count("log.lines", 1)
        # Lines that do not say when they were written keep their order, a microsecond apart.
        if self._moment < now + 1:  # else our clock was set back
            now = max(now, self._moment + 2e-6)
        self._moment = now
        try:
            read = read_line(line, now, now - self._retention)
        except BadLineError as reason:
            self._batch.refuse("log", str(reason), line)
            return
        if isinstance(read, Work):
            self._batch.works.append(read)
        else:
            self._batch.logs.append(read)
