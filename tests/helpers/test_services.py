"""Where no server runs, the tests start their own."""

from __future__ import annotations

import pytest

from tests.conftest import available
from tests.helpers.ports import LOOPBACK, is_listening
from tests.helpers.services import (
    SERVICES,
    Service,
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
