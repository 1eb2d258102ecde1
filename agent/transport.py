"""The way to StatsD: UDP, TCP or a Unix socket, opened when first needed and again after trouble.

The ``statsd`` package opens the connection. The descriptor is then ours and written to without
waiting, because its own clients resolve host names in the caller, raise in the constructor, block
on a full TCP buffer and tell nobody what was lost.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import importlib
import os
import sys
from collections import deque
from os import getpid, write
from time import monotonic
from typing import TYPE_CHECKING, Any

from introspect.agent.descriptors import Descriptor

if TYPE_CHECKING:
    from introspect.agent.settings import Address

SECONDS_BETWEEN_LOOKUPS = 60.0
SECONDS_BETWEEN_TRIES = (1.0, 2.0, 5.0, 15.0, 60.0)
CONNECT_TIMEOUT_SECONDS = 1.0

# How long the first send waits for a host name, so that a short command loses nothing when the
# name server answers at once, as it does in a container network. It has an end because the caller
# may hold an import's lock that the opening thread needs, and because uWSGI without
# --enable-threads runs that thread only while somebody waits.
PATIENCE_SECONDS = 0.05


def import_ahead(*names: str) -> None:
    """Import what a thread of ours will need, in the thread that is about to start it.

    A child that is forked while another thread imports something has half a module, and whoever
    imports it there, be it the application, waits for ever, or finds the half.
    """
    for name in names:
        if name not in sys.modules:
            with contextlib.suppress(Exception):  # our thread will meet it as well, and say so
                importlib.import_module(name)


class Transport:
    """A way to StatsD that goes nowhere (``INTROSPECT_STATSD=off``), and the base of the others."""

    wanted = False

    def __init__(self, address: Address | None = None) -> None:
        self.address = address
        self.trouble = "no answer yet"
        self.drops = 0
        """Datagrams that are lost, and not told of yet."""
        self.told = 0
        """Those that the latest payload has told of."""

    def send(self, _payload: bytes) -> bool:
        """Hand *payload*, whole lines, to the network without waiting; ``False`` if it is lost."""
        return False

    def open_ahead(self) -> None:
        """Begin to open, in a thread, what may take long to open."""

    def tell(self, drops: int) -> None:
        """Take note that the latest payload, which was handed over, has told of *drops*."""
        self.drops -= drops
        self.told = drops

    def close(self) -> None:
        """Let go of the descriptor, if it is still ours."""

    def __str__(self) -> str:
        return str(self.address or "off")


def transport_for(address: Address | None) -> Transport:
    """Make the transport to *address*, opening nothing yet."""
    if address is None or address.scheme == "off":
        return Transport(address)
    if address.scheme == "udp":
        return DatagramTransport(address)
    return StreamTransport(address)


class SocketTransport(Transport):
    """What all sockets share: when to open, how to survive a fork or a closed descriptor."""

    wanted = True

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self.address: Address = address
        self._descriptor: Descriptor | None = None
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self.drops = self.told = 0
        self._opening = False
        self._opener = 0
        self._failures = 0
        self._next_try = 0.0
        self._next_lookup = 0.0
        self._opened = _thread.allocate_lock()

    def send(self, payload: bytes) -> bool:
        """See ``Transport.send``. Opens the socket first where that is due."""
        found = self._descriptor
        if not (
            # What is so nearly always, in few steps: see `_is_ours`.
            found is not None
            and not self._next_lookup
            and self._pid == getpid()
            and found.is_ours()
        ):
            found = self._opened_anew()
            if found is None:
                self.drops += 1
                return False
        return self._write(found.number, payload)

    def _opened_anew(self) -> Descriptor | None:
        if not self._is_ours():
            self._reopen()
        elif self._next_lookup and monotonic() >= self._next_lookup:
            self._open_in_thread()
        return self._descriptor

    def open_ahead(self) -> None:
        """See ``Transport.open_ahead``: at exit it is too late, Python 3.12 starts no thread."""
        if not self._is_ours() and self._may_block():
            self._open_in_thread()

    def close(self) -> None:
        """See ``Transport.close``."""
        found, self._descriptor = self._descriptor, None
        if found is not None:
            found.close()

    def _is_ours(self) -> bool:
        """Tell whether there is a socket, opened by this process and not closed by anybody."""
        if self._pid != os.getpid():
            # A fork's copy of the parent's socket, and of what the parent knows about it. By the
            # process ID, since uWSGI by default runs no hooks at a fork.
            self.close()
            self._start_afresh()
        found = self._descriptor
        if found is None:
            return False
        if not found.is_ours():
            if self._descriptor is found:
                self._descriptor = None  # closed, or somebody else's by now: not ours to close
            return False
        return True

    def _reopen(self) -> None:
        if self._opening or monotonic() < self._next_try:
            return
        if self._may_block():
            first = self._failures == 0
            self._open_in_thread()
            if first and self._opened.acquire(timeout=PATIENCE_SECONDS):
                self._opened.release()
        else:
            self._open_once()

    def _open_once(self) -> None:
        """Open, and let other threads that send for the first time wait for that: it is short.

        Did each open a socket, one would put its own in another's place, and a third find neither.
        """
        # The garbage collector may send something in the midst of this, in the same thread.
        if self._opener == _thread.get_ident():
            return
        if not self._opened.acquire(timeout=CONNECT_TIMEOUT_SECONDS):
            return
        self._opener = _thread.get_ident()
        try:
            if self._descriptor is None:
                self._open()
        finally:
            self._opener = 0
            self._opened.release()

    def _may_block(self) -> bool:
        """Opening may take long: a name must be looked up, or a TCP connection made."""
        return self.address.scheme == "tcp" or not _is_numeric(self.address.host)

    def _open_in_thread(self) -> None:
        """Open in a thread that ends when it is done: the only thread of the agent's core."""
        import_ahead("statsd", "encodings.idna")
        if self._opening or not self._opened.acquire(blocking=False):
            return
        self._opening = True
        try:
            _thread.start_new_thread(self._open_and_release, (self._opened,))
        except RuntimeError as error:  # the interpreter is shutting down
            self._opening = False
            self._opened.release()
            self._failed(error)

    def _open_and_release(self, opened: _thread.LockType) -> None:
        try:
            self._open()
        finally:
            self._opening = False
            opened.release()

    def _open(self) -> None:
        try:
            sock = self._connected()
            sock.setblocking(False)
            # Detached from its object: nothing then warns of an unclosed socket at exit.
            opened = Descriptor(sock.detach())
        except Exception as error:
            if self._is_ours():  # the name cannot be looked up now: its last address may do
                self._next_lookup = monotonic() + SECONDS_BETWEEN_LOOKUPS
            else:
                self._failed(error)
            return
        if self._is_ours():
            opened = self._moved(opened)
        self._descriptor = opened
        self._failures = 0
        if self.address.scheme == "udp" and not _is_numeric(self.address.host):
            self._next_lookup = monotonic() + SECONDS_BETWEEN_LOOKUPS

    def _moved(self, opened: Descriptor) -> Descriptor:
        """Put *opened* in the place of the present socket, whose number is never free meanwhile.

        Another thread may be about to write to that number.
        """
        assert self._descriptor is not None
        number = self._descriptor.number
        os.dup2(opened.number, number, inheritable=False)
        opened.close()
        return Descriptor(number)

    def _failed(self, error: BaseException) -> None:
        self.trouble = str(error) or type(error).__name__
        self._next_lookup = 0.0
        self._next_try = (
            monotonic() + SECONDS_BETWEEN_TRIES[min(self._failures, len(SECONDS_BETWEEN_TRIES) - 1)]
        )
        self._failures += 1
        self.close()

    def _connected(self) -> Any:
        """Return a connected socket object; may raise anything."""
        raise NotImplementedError

    def _write(self, number: int, payload: bytes) -> bool:
        """Write to the descriptor *number*; ``False`` if *payload* is lost. Never raises."""
        raise NotImplementedError


class DatagramTransport(SocketTransport):
    """UDP, connected: the kernel then tells us when nobody listens, one send later."""

    def _connected(self) -> Any:
        import statsd

        host = _numeric(self.address.host)
        client = statsd.StatsClient(host, self.address.port, ipv6=":" in host)
        client._sock.connect(client._addr)  # noqa: SLF001  the client offers no other way
        return client._sock  # noqa: SLF001

    def _write(self, number: int, payload: bytes) -> bool:
        try:
            write(number, payload)
        except ConnectionRefusedError as error:
            # Nobody listened to the datagram before this one, with whatever drops it told of. This
            # one has not been sent yet.
            self.trouble = str(error)
            self.drops += 1 + self.told
            self.told = 0
            try:
                write(number, payload)
            except OSError:
                self.drops += 1
                return False
        except OSError as error:
            # A full buffer (EAGAIN, ENOBUFS), no route: of no consequence for the socket.
            self.trouble = str(error)
            self.drops += 1
            return False
        return True


class StreamTransport(SocketTransport):
    """TCP or a Unix socket; the latter may turn out to take datagrams, as Datadog's does."""

    def _start_afresh(self) -> None:
        super()._start_afresh()
        self._is_datagram = False
        self._unsent = b""
        self._waiting: deque[bytes] = deque()
        self._writing = _thread.allocate_lock()

    def _may_block(self) -> bool:
        return self.address.scheme == "tcp"

    def _connected(self) -> Any:
        import socket

        import statsd

        self._unsent = b""
        if self.address.scheme == "tcp":
            # The client asks for addresses of one family only: it gets the one that we have found.
            host = _numeric(self.address.host)
            client = statsd.TCPStatsClient(
                host,
                self.address.port,
                timeout=CONNECT_TIMEOUT_SECONDS,
                ipv6=":" in host,
            )
        else:
            client = statsd.UnixSocketStatsClient(self.address.path, timeout=PATIENCE_SECONDS)
        try:
            client.connect()
        except OSError as error:
            client.close()
            if error.errno != errno.EPROTOTYPE:
                raise
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                sock.connect(self.address.path)
            except OSError:
                sock.close()
                raise
            self._is_datagram = True
            return sock
        self._is_datagram = False
        return client._sock  # noqa: SLF001

    def _write(self, _number: int, payload: bytes) -> bool:
        drops = self.drops
        self._waiting.append(payload if self._is_datagram else payload + b"\n")
        # One thread writes, the others leave theirs to it: no line may end up inside another.
        # Never by waiting: the garbage collector may run an event inside this loop.
        while self._waiting and self._writing.acquire(blocking=False):
            try:
                self._write_waiting()
            finally:
                self._writing.release()
        return self.drops == drops

    def _write_waiting(self) -> None:
        while self._waiting:
            # Another thread may have met the end of the connection since this one looked.
            found = self._descriptor if self._is_ours() else None
            try:
                if found is None:
                    self._lose(self.trouble)
                elif self._is_datagram:
                    os.write(found.number, self._waiting[0])
                    self._waiting.popleft()
                elif not self._write_stream(found.number):
                    self._lose("it does not read what it is sent")
            except BlockingIOError as error:  # a Unix datagram socket's queue is full
                self._lose(str(error))
            except OSError as error:
                self._lose(str(error))
                self._failed(error)

    def _write_stream(self, number: int) -> bool:
        """Write what is left of the payload before, and as much as fits of the next one."""
        if self._unsent:
            self._unsent = self._unsent[_send_without_signal(number, self._unsent) :]
        if self._unsent:
            return False
        data = self._waiting[0]
        sent = _send_without_signal(number, data)
        if sent:
            self._waiting.popleft()
            self._unsent = data[sent:]
        return bool(sent)

    def _lose(self, trouble: str) -> None:
        self.trouble = trouble
        self.drops += len(self._waiting)
        self._waiting.clear()


def _send_without_signal(number: int, data: bytes) -> int:
    """Send what fits and return how much that was.

    By ``os.write``, a connection that the other end has closed would raise SIGPIPE, which ends a
    process that has set it back to its default, as command-line programs do.
    """
    import socket

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=number)
    sock.settimeout(0)  # under gevent, a send would otherwise wait for the other end
    try:
        return sock.send(data, socket.MSG_NOSIGNAL)
    except BlockingIOError:
        return 0
    finally:
        sock.detach()


def _is_numeric(host: str) -> bool:
    return host == "localhost" or ":" in host or host.replace(".", "").isdecimal()


def _numeric(host: str) -> str:
    """Return *host* as an address; raises ``OSError`` if the name is not known.

    ``localhost`` is 127.0.0.1: where it resolves to ::1 first, a daemon that listens on IPv4 only
    would get nothing. Of a name's addresses, IPv4 goes first for the same reason.
    """
    if host == "localhost":
        return "127.0.0.1"
    if _is_numeric(host):
        return host
    import socket

    found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])
