"""The story's site behind real servers: started under the agent, with the JSON lines that it writes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.processes import introspect_run, script, wait_until
from tests.helpers.serve import Server, serve
from tests.helpers.site import PROJECT, Site

HERE = Path(__file__).parent

_GUNICORN = [
    script("gunicorn"), "--bind={host}:{port}", "--no-control-socket", "--access-logfile=-",
]  # fmt: skip
_WSGI = "django.core.wsgi:get_wsgi_application()"
_ASGI = "django.core.asgi:get_asgi_application()"
SERVERS = {
    "sync": [*_GUNICORN, "--worker-class=sync", _WSGI],
    "gthread": [*_GUNICORN, "--worker-class=gthread", "--threads=2", "--keep-alive=5", _WSGI],
    "gevent": [*_GUNICORN, "--worker-class=gevent", "--keep-alive=5", _WSGI],
    "uvicorn-worker": [*_GUNICORN, "--worker-class=uvicorn_worker.UvicornWorker", "shop.asgi"],
    # The worker above has uvloop's event loop, where that is installed.
    "uvicorn": [
        script("uvicorn"), "--host={host}", "--port={port}", "--loop=asyncio", "shop.asgi:application",
    ],
}  # fmt: skip
RUNSERVER = [sys.executable, str(PROJECT / "manage.py"), "runserver", "--noreload", "{host}:{port}"]


class Story:
    """A running server, and the file that its JSON lines go to."""

    def __init__(self, server: Server, file: Path) -> None:
        self.server = server
        self.url = server.base_url
        self.file = file

    def lines(self) -> list[dict[str, Any]]:
        """Return every line so far."""
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text().split("\n")[:-1]]

    def of(self, correlation_id: str, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the lines so far of one ID; of `kind`, the canonical ones."""
        return [
            line
            for line in self.lines()
            if line["correlation_id"] == correlation_id and line.get("kind") == kind
        ]

    def wait_for_begin(self, correlation_id: str) -> None:
        """Wait until the view of a slow request has begun, which it logs."""
        wait_until(lambda: self.of(correlation_id), 60, f"the begin of {correlation_id}")

    def request(self, correlation_id: str, kind: str = "request") -> dict[str, Any]:
        """Wait for the canonical line of one ID and return it."""
        found = wait_until(
            lambda: self.of(correlation_id, kind), what=f"a line of {correlation_id}"
        )
        assert len(found) == 1
        return found[0]


def environment(site: Site, file: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a process of the story; `settings` are given as `DETAIL="all"`."""
    named = {f"INTROSPECT_{name}": text for name, text in settings.items()}
    return site.environment(
        **{
            "DJANGO_SETTINGS_MODULE": "story.settings",
            "PYTHONPATH": f"{HERE}:{PROJECT}",
            "INTROSPECT_LOG": f"file://{file}",
            "INTROSPECT_STATSD": "off",
            "INTROSPECT_SERVICE": "story",
            **named,
        }
    )


@contextlib.contextmanager
def story(name: str, site: Site, file: Path, *options: str, **settings: str) -> Iterator[Story]:
    """Run the story's site behind a server while the block lasts."""
    program, *words = RUNSERVER if name == "runserver" else SERVERS[name]
    command = [*introspect_run(), program, *options, *words]
    with serve(command, environment(site, file, **settings), PROJECT) as server:
        yield Story(server, file)


def manage(
    site: Site, file: Path, *words: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run `manage.py WORDS` under the agent to its end."""
    return subprocess.run(
        [*introspect_run(), sys.executable, str(PROJECT / "manage.py"), *words],
        env=environment(site, file, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
