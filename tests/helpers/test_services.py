"""Where no server runs, the tests start their own."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.conftest import available
from tests.helpers.ports import LOOPBACK, is_listening
from tests.helpers.services import (
    SERVICES,
    Service,
    UnavailableError,
    private_etsy_statsd,
    private_mariadb,
    private_postgresql,
    private_redis,
)


@pytest.mark.host_only
@pytest.mark.parametrize(
    "start",
    [private_postgresql, private_mariadb, private_redis, private_etsy_statsd],
    ids=lambda start: start.__name__,
)
def test_private_server_lives_as_long_as_its_block(start: object) -> None:
    """A private server accepts connections within its block, and is gone after it."""
    with available(start) as port:
        assert is_listening(LOOPBACK, port)

    assert not is_listening(LOOPBACK, port)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_lent_server_goes_before_all_others(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address in the environment is taken as it is, and nothing is started."""
    monkeypatch.setenv(service.variable, "db.example:1234")

    with service.address() as address:
        assert address == ("db.example", 1234)


@contextlib.contextmanager
def nothing_to_start() -> Iterator[int]:
    """Stand for a server whose programs are not installed."""
    raise UnavailableError("`sampled` is not installed")
    yield 0


def test_running_server_is_taken() -> None:
    """What answers on the standard port is used, and nothing is started."""
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        with Service("sample", port, nothing_to_start).address() as address:
            assert address == (LOOPBACK, port)


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_missing_server(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is none and none can be started, a test is skipped with the reason, and fails in CI."""
    monkeypatch.setenv("CI", ci)
    missing = Service("sample", 0, nothing_to_start)

    with pytest.raises(outcome, match="`sampled` is not installed"), available(missing.address):
        pass
