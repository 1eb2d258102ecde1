"""A small HTTP server for the outgoing calls: origin, proxy and end of a tunnel in one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.helpers.ports import LOOPBACK


class Handler(BaseHTTPRequestHandler):
    """Answer by path: /status/N, /redirect/N, /to?URL, /slow, /drop, /stream, /flaky; all else with 200."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Answer a request, also one that is meant for somebody else."""
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path
        if path.startswith("http://"):
            self._answer(200, b"by proxy")
        elif path.startswith("/status/"):
            self._answer(int(path.rpartition("/")[2]), b"status")
        elif path.startswith("/redirect/"):
            left = int(path.rpartition("/")[2])
            self._answer(302, b"", Location=f"/redirect/{left - 1}" if left > 1 else "/")
        elif path.startswith("/to?"):
            self._answer(302, b"", Location=path.partition("?")[2])
        elif path == "/flaky":
            tries = sum(seen[1] == "/flaky" for seen in self.server.seen)
            self._answer(200 if tries == 3 else 503, b"flaky")
        elif path == "/slow":
            self.server.release.wait(10)
            self._answer(200, b"slow")
        elif path == "/drop":
            self.close_connection = True
        elif path == "/stream":
            self._stream()
        else:
            self._answer(200, b"hello")

    do_POST = do_GET  # noqa: N815  http.server's spelling

    def do_CONNECT(self) -> None:
        """Open a tunnel, and stand at its far end, too."""
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        if self.path.startswith("refused"):
            self._answer(403, b"")
            return
        self.send_response(200)
        self.end_headers()
        self.close_connection = False

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "30")
        self.end_headers()
        for _ in range(3):
            self.wfile.write(b"0123456789")
            self.wfile.flush()
            time.sleep(0.03)

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """The server; `seen` holds method, target and headers of each request, `release` ends /slow."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), Handler)
        self.host, self.port = LOOPBACK, self.server_address[1]
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.release = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent about clients that go away."""


@contextlib.contextmanager
def http_server() -> Iterator[Server]:
    """Run a server while the block lasts."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
