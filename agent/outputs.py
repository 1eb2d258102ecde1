"""Where JSON lines go: standard streams, a file, UDP, TCP (logstash), Splunk's HTTP collector.

Nothing here raises or waits in the thread that logs. What goes over a connection waits in a bounded
queue for a thread, started by the first line in each process; what the queue cannot take is
dropped, counted, and said.
"""

from __future__ import annotations

import _thread
import os
import stat
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from introspect.agent import ending, guard, logs, outgoing, work
from introspect.agent.descriptors import Connection, Descriptor
from introspect.agent.emitter import LOG_DROPPED
from introspect.agent.settings import Address
from introspect.agent.transport import import_ahead, transport_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from introspect.agent.settings import Output

QUEUE_LINES = 10_000  # of up to 1 KiB, fewer of longer ones: 35 MB at the worst
BATCH_BYTES = 500_000
SECONDS_AT_EXIT = 2.0
SECONDS_BETWEEN_TRIES = (0.1, 0.5, 1.0, 5.0, 15.0)
SECONDS_BETWEEN_ROTATION_CHECKS = 1.0
CONNECT_TIMEOUT_SECONDS = 5.0
FIRST_REDIRECTION = 300


class Outputs:
    """All outputs of this process; each line goes to every one."""

    def __init__(self, outputs: Iterable[Output]) -> None:
        self._outputs = [(output, _writer(output)) for output in outputs]
        self.dropped = 0

    def write(self, line: bytes) -> None:
        """Write one line, its newline included."""
        for output, write in self._outputs:
            try:
                if write(line):
                    continue
            except OSError as error:
                guard.say(
                    f"log:{output}",
                    f"JSON log lines to {output} are lost: {error} (INTROSPECT_LOG)",
                )
            guard.say(f"log:{output}", f"JSON log lines to {output} are dropped (INTROSPECT_LOG)")
            self.dropped += 1
            work.count(LOG_DROPPED.of())


def _writer(output: Output) -> Callable[[bytes], bool]:
    if output.kind == "stdout":
        return StandardStream(1, sys.__stdout__).write
    if output.kind == "stderr":
        return StandardStream(2, sys.__stderr__).write
    if output.kind == "file":
        return File(output.path).write
    if output.kind == "udp":
        return Datagrams(output).write
    if output.kind == "tcp":
        return Shipper(output, TcpDelivery(output.host, output.port), ("encodings.idna",)).write
    return Shipper(output, SplunkDelivery(output), ("requests", "encodings.idna")).write


class StandardStream:
    """Standard output or error as it is at that moment: servers put log files in their place.

    A socket that was not there at the start is none of theirs: where the stream had been closed,
    the application's next connection has got its number.
    """

    def __init__(self, number: int, stream: Any) -> None:
        self._number = number
        self._first = _descriptor_of(number) if stream is not None else None
        self._is_torn = False

    def write(self, line: bytes) -> bool:
        """Write *line* whole; raises ``OSError`` where that is impossible."""
        first = self._first
        if first is None or not (first.is_ours() or self._is_redirected()):
            return False
        if self._is_torn:  # a pipe that does not wait was full in the middle of a line
            line = b"\n" + line
        written = os.write(self._number, line)
        self._is_torn = written < len(line)
        while written < len(line):  # a pipe that is nearly full
            written += os.write(self._number, line[written:])
        self._is_torn = False
        return True

    def _is_redirected(self) -> bool:
        return not stat.S_ISSOCK(os.fstat(self._number).st_mode)


def _descriptor_of(number: int) -> Descriptor | None:
    try:
        return Descriptor(number)
    except OSError:
        return None


# Without waiting: a named pipe that nobody reads would hold up whoever opens it.
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK


class File:
    """A file that several processes append to and that logrotate may rename.

    Each line is one ``write`` to a descriptor opened with ``O_APPEND``, so lines never mix.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: Descriptor | None = None
        self._next_check = 0.0
        self._is_torn = False

    def write(self, line: bytes) -> bool:
        """Append *line*; raises ``OSError`` if the file cannot be opened or the disk is full."""
        descriptor = self._descriptor
        now = time.monotonic()
        if descriptor is None or now >= self._next_check or not descriptor.is_ours():
            descriptor = self._checked(now)
        if self._is_torn:  # the disk was full in the middle of a line
            line = b"\n" + line
        written = os.write(descriptor.number, line)
        is_whole = written == len(line)
        self._is_torn = not is_whole
        return is_whole

    def _checked(self, now: float) -> Descriptor:
        self._next_check = now + SECONDS_BETWEEN_ROTATION_CHECKS
        descriptor = self._descriptor
        if descriptor is not None and descriptor.is_ours() and descriptor.is_file(self._path):
            return descriptor
        # A fork's copy shares the open file, which is as good as its own.
        self._descriptor = None
        if descriptor is not None:
            descriptor.close()
        number = os.open(self._path, _APPEND, 0o640)
        self._descriptor = descriptor = Descriptor(number)
        return descriptor


class Datagrams:
    """UDP: one line a datagram; a longer line than a datagram holds does not exist."""

    def __init__(self, output: Output) -> None:
        self._transport = transport_for(Address("udp", output.host, output.port))

    def write(self, line: bytes) -> bool:
        """Send *line* without its newline; ``False`` if it or the one before is lost."""
        drops = self._transport.drops
        return self._transport.send(line.rstrip(b"\n")) and self._transport.drops == drops


class _Queue:
    """The lines that wait in one process until they are delivered, and its thread's state."""

    def __init__(self) -> None:
        import threading

        self.pid = os.getpid()
        self.lines: deque[bytes] = deque()
        self.wake = threading.Event()
        self.unstarted = [True]  # whoever pops it starts the thread: a list's pop is atomic
        self.running = True
        self.failures = 0  # of the latest deliveries, one behind the other
        self.seconds_at_exit = SECONDS_AT_EXIT
        self.lost = 0  # of the lines, as far as that has been told

    def next_batch(self) -> list[bytes]:
        """Return the lines at the front, about ``BATCH_BYTES`` of them; they stay there."""
        batch: list[bytes] = []
        size = 0
        for index in range(len(self.lines)):  # an iterator would not survive a line that comes
            if size >= BATCH_BYTES:
                break
            batch.append(self.lines[index])
            size += len(batch[-1])
        return batch

    def drop(self, count: int) -> None:
        """Forget so many lines at the front."""
        for _ in range(count):
            self.lines.popleft()


class Shipper:
    """A bounded queue, and a thread that delivers what is in it, in each process that writes."""

    def __init__(
        self,
        output: Output,
        deliver: TcpDelivery | SplunkDelivery,
        imports: tuple[str, ...] = (),
    ) -> None:
        """*imports* are the modules that *deliver* needs: see ``import_ahead``."""
        self._output = output
        self._deliver = deliver
        self._imports = imports
        self._queues: dict[int, _Queue] = {}
        self._queue: _Queue | None = None
        ending.before_end(ending.LINES, self._flush_at_exit)

    def write(self, line: bytes) -> bool:
        """Queue *line*; ``False`` if the queue is full."""
        queue = self._queue
        if queue is None or queue.pid != os.getpid():
            queue = self._new_queue()
        # By the line's own length: a sum of all lengths could not be kept without a lock.
        if len(queue.lines) * (len(line) >> 10 or 1) >= QUEUE_LINES:
            return False
        queue.lines.append(line)  # a deque's append is atomic, and never waits
        if queue.unstarted:
            self._start_thread(queue)
        elif not queue.wake.is_set():
            queue.wake.set()
        return True

    def _new_queue(self) -> _Queue:
        """In a new process: what is queued is the parent's to deliver, its thread is not here.

        Threads that come here at once get the same queue: ``setdefault`` is atomic, and a lock
        might have been held when this process was forked.
        """
        pid = os.getpid()
        self._queue = queue = self._queues.setdefault(pid, _Queue())
        for other in [known for known in self._queues if known != pid]:
            self._queues.pop(other, None)
        return queue

    def _start_thread(self, queue: _Queue) -> None:
        import threading

        try:
            queue.unstarted.pop()
        except IndexError:  # another thread has
            return
        # Not before there is a line: gevent, for one, must have patched the standard library.
        import_ahead(*self._imports)
        queue.running = True
        try:
            threading.Thread(
                target=self._run, args=(queue,), name="introspect-log", daemon=True
            ).start()
        except RuntimeError:  # too many threads now, or, at exit, never again: the next line tries
            queue.running = False
            queue.unstarted.append(True)

    def _run(self, queue: _Queue) -> None:
        # Our own traffic and log lines are not the application's.
        outgoing.is_in_call.set(True)
        work.leave()
        _own_threads.add((queue.pid, _thread.get_ident()))
        while queue.running:
            batch = queue.next_batch()
            if not batch:
                queue.wake.wait(1.0)
                queue.wake.clear()
                continue
            try:
                self._deliver(batch)
                queue.drop(len(batch))
                queue.failures = 0
            except Exception as error:
                guard.say(
                    f"wait:{self._output}",
                    f"JSON log lines to {self._output} wait: {type(error).__name__}: {error} "
                    "(INTROSPECT_LOG)",
                )
                pause = min(queue.failures, len(SECONDS_BETWEEN_TRIES) - 1)
                queue.failures += 1
                time.sleep(SECONDS_BETWEEN_TRIES[pause])

    def _flush_at_exit(self) -> None:
        """Wait for the queue as long as it has time left, then tell what is lost.

        A child of multiprocessing, which a request may be waiting for, waits for no server that has
        refused its lines.
        """
        queue = self._queue
        if queue is None or queue.pid != os.getpid():
            return
        deadline = time.monotonic() + queue.seconds_at_exit
        queue.wake.set()
        while queue.lines and queue.running and time.monotonic() < deadline:
            if queue.failures and ending.is_child_of_multiprocessing():
                break
            time.sleep(0.01)
        queue.seconds_at_exit = max(0.0, deadline - time.monotonic())
        lost = len(queue.lines) - queue.lost
        if lost > 0:
            queue.lost += lost
            work.process().count(LOG_DROPPED.of(), lost)
            guard.say(
                f"exit:{self._output}",
                f"JSON log lines to {self._output} are lost: {lost} could not be delivered before "
                "this process ended (INTROSPECT_LOG)",
            )


class TcpDelivery:
    """logstash's ``json_lines``: lines over one connection, made again when it breaks."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._connection: Connection | None = None

    def __call__(self, lines: Sequence[bytes]) -> None:
        """Send *lines*; raises ``OSError`` if they did not get out."""
        try:
            self._connected().sendall(b"".join(lines))
        except OSError:
            self._hang_up()
            raise

    def _connected(self) -> Any:
        import socket

        found = self._connection
        if found is not None and (not found.is_ours() or _is_closed_by_peer(found.socket)):
            self._hang_up()
        if self._connection is None:
            sock = socket.create_connection(self._address, CONNECT_TIMEOUT_SECONDS)
            self._connection = Connection(sock)
        return self._connection.socket

    def _hang_up(self) -> None:
        found, self._connection = self._connection, None
        if found is not None:
            found.close()


def _is_closed_by_peer(sock: Any) -> bool:
    """Tell whether the other end has hung up: a first send would still seem to succeed."""
    import socket

    sock.settimeout(0)  # with any other, Python waits for something to read, whatever the flags
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        sock.settimeout(CONNECT_TIMEOUT_SECONDS)


class SplunkDelivery:
    """Splunk's HTTP Event Collector: a batch is one POST of events.

    The token is for Splunk alone. Where a redirect leads, nothing is sent.
    """

    def __init__(self, output: Output) -> None:
        scheme = output.kind.removeprefix("splunk+")
        self._url = f"{scheme}://{output.host}:{output.port}/services/collector/event"
        self._authorization = f"Splunk {output.token}"
        self._session: Any = None
        self._connection: Connection | None = None

    def __call__(self, lines: Sequence[bytes]) -> None:
        """Post *lines*; raises ``OSError`` (those of ``requests`` are) if not all is taken."""
        with self._usable_session().post(
            self._url,
            data=b"".join(map(_event, lines)),
            timeout=CONNECT_TIMEOUT_SECONDS,
            stream=True,
            allow_redirects=False,
        ) as answer:
            # What the session keeps open for the next batch; gone if the other end closes it.
            sock = getattr(answer.raw.connection, "sock", None)
            self._connection = Connection(sock) if sock is not None else None
            answer.content  # noqa: B018  read to its end, or the connection is not used again
            answer.raise_for_status()
            if answer.status_code >= FIRST_REDIRECTION:
                raise OSError(f"{answer.status_code} {answer.reason}: redirects are not followed")

    def _usable_session(self) -> Any:
        import requests

        found = self._connection
        if found is not None and not found.is_ours():
            found.close()  # first: a session that is freed closes its sockets by their numbers
            self._connection = self._session = None
        if self._session is None:
            self._session = requests.Session()
            # A proxy of the environment's would read what is not encrypted, the token included.
            self._session.trust_env = self._url.startswith("https:")
            self._session.auth = self._authorize  # a header would give way to the user's netrc
        return self._session

    def _authorize(self, request: Any) -> Any:
        request.headers["Authorization"] = self._authorization
        return request


def _event(line: bytes) -> bytes:
    """Return *line* as Splunk takes it, at the moment that it tells and not that of its arrival."""
    moment = logs.moment_of(line)
    dated = b'"time":%.6f,' % moment if moment else b""
    return b'{%b"sourcetype":"_json","event":%b}' % (dated, line.rstrip(b"\n"))


# Process and thread: a forked child may give a thread of its own the number of our parent's.
_own_threads: set[tuple[int, int]] = set()


def is_own_thread() -> bool:
    """Tell whether this thread is one of ours, whose log records nobody wants."""
    return bool(_own_threads) and (os.getpid(), _thread.get_ident()) in _own_threads
