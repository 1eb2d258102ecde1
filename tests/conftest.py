"""Fixtures for all tests; what they give is described in `tests/helpers`."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from introspect import instrumentations
from introspect.agent import (
    correlation,
    emitter,
    guard,
    logs,
    metrics,
    patching,
    settings,
    work,
)
from tests.helpers.databases import Database, mariadb_database, postgresql_database
from tests.helpers.services import ETSY_STATSD, REDIS, EtsyStatsd, UnavailableError
from tests.helpers.shippers import end_shippers
from tests.helpers.site import Site, copy_of, sqlite_site
from tests.helpers.statsd import StatsdListener

T = TypeVar("T")

_INSTRUMENTATIONS = [instrumentations.load(name) for name in instrumentations.names()]
_CONFIGURED = (
    *(correlation, logs, metrics),
    *(module for module in _INSTRUMENTATIONS if hasattr(module, "configure")),
)

# However slow the machine is, and not at random: a failure is the code's. Still, the examples change
# with the constants in the modules that are loaded by then, which Hypothesis draws from.
hypothesis.settings.register_profile(
    "introspect",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("introspect")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, and see to it that what tests start can be interrupted."""
    # A shell starts background commands with SIGINT ignored, which their children inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers", "host_only: needs programs of the host; left out in the chroot"
    )


@pytest.fixture(autouse=True)
def fresh_agent() -> Iterator[None]:
    """Put the agent back to where an interpreter starts, its settings included."""
    reset_agent()
    yield
    reset_agent()


def reset_agent() -> None:
    """Take patches and settings back, and forget what has been measured."""
    end_shippers()
    patching.inject_faults(False)
    patching.undo_all()
    guard.configure(debug=False)
    emitter.configure(None)
    work.configure(None)
    work._last_overhead_seconds = 0.0
    defaults, _ = settings.read({})
    for module in _CONFIGURED:
        module.configure(defaults)
    work.ride_along(None)
    work.leave()
    work.process().start_afresh()


@pytest.fixture
def statsd() -> Iterator[StatsdListener]:
    """A StatsD server of the test's own; a malformed line fails the test."""
    with contextlib.closing(StatsdListener()) as listener:
        yield listener


@pytest.fixture(scope="session")
def etsy_statsd() -> Iterator[EtsyStatsd]:
    """Etsy's statsd on free ports."""
    with available(ETSY_STATSD.address) as (host, port):
        yield EtsyStatsd(host, port)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Database]:
    """An empty PostgreSQL database."""
    with available(postgresql_database) as database:
        yield database


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Database]:
    """An empty MariaDB database."""
    with available(mariadb_database) as database:
        yield database


@pytest.fixture(scope="session")
def redis() -> Iterator[tuple[str, int]]:
    """Host and port of a Redis; keys there may be others', so use names of your own."""
    with available(REDIS.address) as address:
        yield address


@pytest.fixture(scope="session")
def stocked_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The project with SQLite, for tests that only read."""
    return sqlite_site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def site(stocked_site: Site, tmp_path: Path) -> Site:
    """The project with an SQLite database of the test's own."""
    return copy_of(stocked_site, tmp_path)


@contextlib.contextmanager
def available(service: Callable[[], contextlib.AbstractContextManager[T]]) -> Iterator[T]:
    """Give what `service` gives; without it skip the test with the reason, or with CI=true fail it."""
    with contextlib.ExitStack() as stack:
        try:
            provided = stack.enter_context(service())
        except UnavailableError as reason:
            if os.environ.get("CI") == "true":
                pytest.fail(str(reason))
            pytest.skip(str(reason))
        yield provided
