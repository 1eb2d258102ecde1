"""An HTTP/1.1 client that shows a response as the bytes that came, for comparisons byte by byte."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import urlsplit

# What differs between two runs of the same server with the same application.
VOLATILE_HEADERS = frozenset({"date", "x-request-id"})


@dataclass(frozen=True)
class RawResponse:
    """One response: its status line, header lines and body as sent, and the body with any chunk framing taken off."""

    status_line: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    raw_body: bytes
    body: bytes

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.status_line.split()[1])

    def header(self, name: str) -> str | None:
        """Return the value of the first header called `name`, whatever its case; None if there is none."""
        return next(iter(self.all_headers(name)), None)

    def all_headers(self, name: str) -> list[str]:
        """Return the values of all headers called `name`, in the order in which they came."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == wanted]

    def comparable(
        self, ignored: frozenset[str] = VOLATILE_HEADERS
    ) -> tuple[bytes, tuple[bytes, ...], bytes]:
        """Return status line, header lines in their order and case but for the `ignored` ones, and body, chunks and all."""
        kept = (
            key + b": " + value
            for key, value in self.headers
            if key.decode().lower() not in ignored
        )
        return self.status_line, tuple(kept), self.raw_body


def get(url: str, headers: dict[str, str] | None = None, timeout: float = 30.0) -> RawResponse:
    """Fetch `url` with GET on a connection of its own."""
    return request("GET", url, headers=headers, timeout=timeout)


def request(
    method: str,
    url: str,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    timeout: float = 30.0,
) -> RawResponse:
    """Send one request on a connection of its own and read the response to its end.

    No header is added but `Host`, `Connection: close` and, with a body, `Content-Length`; those named in `headers`
    replace them.  No redirect is followed.  `ConnectionError` if the server closes without a whole response head.
    """
    parts = urlsplit(url)
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    defaults = {"Host": parts.netloc, "Connection": "close"}
    if body:
        defaults["Content-Length"] = str(len(body))
    given = {name.lower() for name in headers or {}}
    lines = [(name, value) for name, value in defaults.items() if name.lower() not in given]
    lines += list((headers or {}).items())
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in lines
    )
    return exchange(
        parts.hostname or "",
        parts.port or 80,
        head.encode("latin-1") + b"\r\n" + body,
        method,
        timeout,
    )


def exchange(
    host: str, port: int, message: bytes, method: str = "GET", timeout: float = 30.0
) -> RawResponse:
    """Send the bytes of a whole request and read the response until the server closes the connection or it is whole."""
    with socket.create_connection((host, port), timeout=timeout) as connection:
        connection.sendall(message)
        with connection.makefile("rb") as stream:
            status_line = stream.readline().rstrip(b"\r\n")
            if not status_line:
                raise ConnectionError(
                    f"{host}:{port} closed the connection without an answer to {message[:80]!r}"
                )
            headers = _read_headers(stream)
            named = {key.lower(): value for key, value in headers}
            bodiless = method == "HEAD" or status_line.split()[1] in {b"204", b"304"}
            raw_body, body = (b"", b"") if bodiless else _read_body(stream, named)
    return RawResponse(status_line, tuple(headers), raw_body, body)


def _read_headers(stream: BinaryIO) -> list[tuple[bytes, bytes]]:
    headers = []
    while line := stream.readline().rstrip(b"\r\n"):
        key, _, value = line.partition(b":")
        headers.append((key, value.strip()))
    return headers


def _read_body(stream: BinaryIO, named: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return the body as it comes, and without what frames its chunks."""
    if named.get(b"transfer-encoding", b"").lower() == b"chunked":
        return _read_chunks(stream)
    body = stream.read(int(named[b"content-length"]) if b"content-length" in named else -1)
    return body, body


def _read_chunks(stream: BinaryIO) -> tuple[bytes, bytes]:
    raw = body = b""
    # No size at all: the server broke off in the middle, and what came until then is what there is.
    while size := int((line := stream.readline()).split(b";")[0] or b"0", 16):
        chunk = stream.read(size)
        raw += line + chunk + stream.readline()
        body += chunk
    while line.strip():  # the last chunk's size, what trails behind it, and an empty line
        raw += line
        line = stream.readline()
    return raw + line, body
