"""Fixtures for the instrumentations: the agent started in this process, and a Django without a project."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from introspect.agent import patching, work
from introspect.bootstrap import start
from tests.helpers.ports import LOOPBACK
from tests.helpers.statsd import Line, StatsdListener
from tests.instrumentations.handlers import FETCH, Answer
from tests.instrumentations.http_server import Server, http_server

PREFIX = "test."

VIEWS = "tests_instrumentations_request_views_"
"""What the names of the views of `request_views` begin with."""

# Whatever looks at requests, responses and users, on.
EVERYTHING = {
    "DETAIL": "all",
    "SQL_COMMENT": "path,route,view,id,caller",
    "SUPERUSER_ERRORS": "1",
}


class Agent:
    """The agent in this process, and what it has sent so far; names come without the service."""

    def __init__(self, listener: StatsdListener) -> None:
        self.listener = listener
        self.errors_expected = False

    def lines(self) -> list[Line]:
        """Return every line sent so far, those held in the process's own buffer included."""
        work.process().flush()
        self.listener.catch_up()
        return [line for line in self.listener.lines if line.name.startswith(PREFIX)]

    def datagrams(self) -> list[list[str]]:
        """Return the names in each datagram sent so far; what the process's own buffer holds stays there."""
        self.listener.catch_up()
        return [
            [line.partition(":")[0].removeprefix(PREFIX) for line in datagram.decode().split("\n")]
            for datagram in self.listener.datagrams
        ]

    def counts(self, beginning: str = "") -> dict[str, int]:
        """Return how often each name that starts with `beginning` was reported."""
        found: dict[str, float] = {}
        for line in self.lines():
            name = line.name.removeprefix(PREFIX)
            if name.startswith(beginning) and not name.startswith("introspect."):
                found[name] = found.get(name, 0) + line.weight
        return {name: round(weight) for name, weight in found.items()}

    def values(self, name: str) -> list[float]:
        """Return the values reported under `name`."""
        return [line.value for line in self.lines() if line.name == PREFIX + name]

    def errors(self) -> int:
        """Return how many exceptions of the agent's own were swallowed."""
        name = f"{PREFIX}introspect.errors"
        return round(sum(line.weight for line in self.lines() if line.name == name))

    def clear(self) -> None:
        """Forget what has been sent so far."""
        self.lines()
        self.listener.clear()


@pytest.fixture
def start_agent(
    statsd: StatsdListener, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Agent]]:
    """Start the agent with settings given as `NAMES="5"`; afterwards all is as it was.

    A test in which the agent swallows an exception of its own fails, unless it says `errors_expected`.
    """
    for name in os.environ:
        if name.startswith(("INTROSPECT_", "DD_", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("INTROSPECT_STATSD", statsd.address)
    monkeypatch.setenv("INTROSPECT_SERVICE", PREFIX.rstrip("."))
    started: list[Agent] = []

    def start_with(**settings: str) -> Agent:
        for name, value in settings.items():
            monkeypatch.setenv(f"INTROSPECT_{name}", value)
        started.append(Agent(statsd))
        start.start()
        return started[0]

    work.process().flush()
    work.leave()
    yield start_with
    try:
        for agent in started:
            assert agent.errors_expected == bool(agent.errors()), "exceptions in the agent's code"
    finally:
        start.stop()
        work.leave()
    assert patching.status() == {}


@pytest.fixture
def agent(start_agent: Callable[..., Agent]) -> Agent:
    """The agent with its default settings, started in this process."""
    return start_agent()


@pytest.fixture(params=["defaults", "everything"])
def any_agent(
    request: pytest.FixtureRequest, start_agent: Callable[..., Agent], tmp_path: Path
) -> Agent:
    """The agent with its default settings, and with all that it can be asked for."""
    if request.param == "defaults":
        return start_agent()
    return start_agent(LOG=f"file://{tmp_path}/log", **EVERYTHING)


@pytest.fixture(scope="session")
def _django() -> None:
    """Configure Django once: every test of this folder shares these settings."""
    import django
    from django.conf import settings

    if settings.configured:
        return
    settings.configure(
        SECRET_KEY="only for tests",
        ALLOWED_HOSTS=["testserver"],
        ROOT_URLCONF=(),
        USE_TZ=True,
        USE_I18N=True,
        LANGUAGES=[("en", "English"), ("de", "German")],
        STATIC_URL="/static/",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=[
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "django.contrib.staticfiles",
        ],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        LOGGING_CONFIG=None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        django.setup()


@pytest.fixture
def django(_django: None) -> Iterator[Callable[..., None]]:
    """Change settings of Django until the test ends: `django(DEBUG=True)`."""
    from django.db import connections
    from django.test import override_settings
    from django.urls import clear_url_caches, set_urlconf

    entered: list[override_settings] = []

    def change(**settings: object) -> None:
        override = override_settings(**settings)
        override.enable()
        entered.append(override)

    yield change
    for override in reversed(entered):
        override.disable()
    set_urlconf(None)
    clear_url_caches()
    connections.close_all()


@pytest.fixture(params=FETCH)
def fetch(request: pytest.FixtureRequest) -> Callable[..., Answer]:
    """Serve one request, by WSGI and by ASGI."""
    return FETCH[request.param]


@pytest.fixture
def views(django: Callable[..., None]) -> Any:
    """The module of the views; importing it needs settings."""
    from tests.instrumentations import request_views

    return request_views


@pytest.fixture
def unresolvable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no host name be known but addresses and `localhost`, whatever resolver the machine has."""
    getaddrinfo = socket.getaddrinfo

    def without_names(host: Any, *more: Any, **named: Any) -> Any:
        if host not in (LOOPBACK, "localhost"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return getaddrinfo(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", without_names)


@pytest.fixture
def web() -> Iterator[Server]:
    """An HTTP server of the test's own."""
    with http_server() as server:
        yield server
