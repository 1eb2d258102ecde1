"""What the measured processes talk to, in a process of its own: a StatsD server, a web service.

There are two StatsD sockets: one is waited at, as servers do, the other read when a block is done.
It prints their ports, answers every line on its standard input with the number of datagrams that
have come so far, and ends with its standard input.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys

LOOPBACK = "127.0.0.1"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
RECEIVE_BUFFER_BYTES = 8 << 20


class Loopback:
    """Both servers in one loop."""

    def __init__(self) -> None:
        self.datagrams = 0
        self.statsd = _listener()
        self.unwaited = _listener()
        self.web = socket.create_server((LOOPBACK, 0), backlog=1000)

    def run(self) -> None:
        """Serve until standard input ends."""
        ports = {
            name: getattr(self, name).getsockname()[1] for name in ("statsd", "unwaited", "web")
        }
        print(json.dumps(ports), flush=True)
        with selectors.DefaultSelector() as selector:
            for source in (self.statsd, self.web, sys.stdin):
                selector.register(source, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self.statsd:
                        self._drain(self.statsd)
                    elif key.fileobj is self.web:
                        client, _ = self.web.accept()
                        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        selector.register(client, selectors.EVENT_READ)
                    elif key.fileobj is not sys.stdin:
                        _answer(key.fileobj, selector)
                    elif not sys.stdin.readline():
                        return
                    else:
                        self._drain(self.statsd)
                        self._drain(self.unwaited)
                        print(self.datagrams, flush=True)

    def _drain(self, listener: socket.socket) -> None:
        while True:
            try:
                listener.recv(65_535)
            except BlockingIOError:
                return
            self.datagrams += 1


def _listener() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    listener.bind((LOOPBACK, 0))
    listener.setblocking(False)
    return listener


def _answer(client: socket.socket, selector: selectors.BaseSelector) -> None:
    try:
        asked = client.recv(65_535)  # a request of `requests` comes in one piece
    except ConnectionResetError:
        asked = b""
    if asked:
        client.sendall(ANSWER)
    else:
        selector.unregister(client)
        client.close()


if __name__ == "__main__":
    Loopback().run()
