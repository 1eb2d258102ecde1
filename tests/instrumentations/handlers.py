"""Call Django's WSGI and ASGI handlers as a server does, in this process."""

from __future__ import annotations

import asyncio
import io
import itertools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from wsgiref.util import setup_testing_defaults

_numbers = itertools.count()

# The agent's one addition to a response.
ADDED_HEADER = "X-Request-ID"


@dataclass
class Answer:
    """What a server gets from an application: status code, headers, body."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """Return the value of the first header of that name, whatever its case."""
        return next((v for key, v in self.headers if key.lower() == name.lower()), None)

    def comparable(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """Return all that must be the same with the agent and without."""
        kept = [(k, v) for k, v in self.headers if k.lower() != ADDED_HEADER.lower()]
        return self.status, kept, self.body


def urlconf(*patterns: Any, **attributes: Any) -> ModuleType:
    """Return a new module with these URL patterns, for ROOT_URLCONF."""
    module = ModuleType(f"urls_{next(_numbers)}")
    module.__dict__.update(attributes, urlpatterns=list(patterns))
    return module


def environ(path: str = "/", method: str = "GET", **extra: Any) -> dict[str, Any]:
    """Return the WSGI environment of a request; the values of `extra` are added to it."""
    made: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "SERVER_NAME": "testserver",
        "HTTP_HOST": "testserver",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        **extra,
    }
    setup_testing_defaults(made)
    return made


class WsgiCall:
    """One call of a WSGI application: `result` is what it returned, not yet read or closed."""

    def __init__(
        self, environment: dict[str, Any], application: Callable[..., Any] | None = None
    ) -> None:
        self.answer = Answer()
        self.result = (application or wsgi_handler())(environment, self._start_response)

    def _start_response(self, status: str, headers: list[tuple[str, str]]) -> None:
        self.answer.status = int(status.partition(" ")[0])
        self.answer.headers = headers

    def read(self) -> Answer:
        """Read the body and close, as a server does."""
        try:
            self.answer.body = b"".join(self.result)
        finally:
            if hasattr(self.result, "close"):
                self.result.close()
        return self.answer


def wsgi_handler() -> Callable[..., Any]:
    """Return a new handler, which loads the middleware that the settings name now."""
    from django.core.handlers.wsgi import WSGIHandler

    return WSGIHandler()


def fetch_wsgi(path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """Serve one request by WSGI; headers are given as `Host="elsewhere"`."""
    extra = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    return WsgiCall(environ(path, method, **extra)).read()


def scope(path: str = "/", method: str = "GET", **headers: str) -> dict[str, Any]:
    """Return the ASGI scope of a request."""
    named = {"host": "testserver", **{k.lower().replace("_", "-"): v for k, v in headers.items()}}
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(key.encode(), value.encode("latin-1")) for key, value in named.items()],
        "client": ("127.0.0.1", 5),
        "server": ("testserver", 80),
    }


async def call_asgi(
    request_scope: dict[str, Any],
    application: Any = None,
    disconnected: asyncio.Event | None = None,
    body: bytes = b"",
) -> Answer:
    """Serve one request with `body` by ASGI; the client goes away once `disconnected` is set."""
    from django.core.handlers.asgi import ASGIHandler

    messages: Iterable[dict[str, Any]] = iter([{"type": "http.request", "body": body}])
    gone = disconnected or asyncio.Event()
    answer = Answer()

    async def receive() -> dict[str, Any]:
        for message in messages:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = [(k.decode(), v.decode("latin-1")) for k, v in message["headers"]]
        else:
            answer.body += message.get("body", b"")

    await (application or ASGIHandler())(request_scope, receive, send)
    return answer


def fetch_asgi(path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """Serve one request by ASGI in an event loop of its own."""
    return asyncio.run(call_asgi(scope(path, method, **headers)))


FETCH: dict[str, Callable[..., Answer]] = {"wsgi": fetch_wsgi, "asgi": fetch_asgi}
