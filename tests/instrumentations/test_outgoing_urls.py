"""Credentials in the address of an outgoing call: in nothing that leaves the agent, whoever calls."""

from __future__ import annotations

import http.client
import json
import logging
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3

from tests.helpers.ports import free_port
from tests.instrumentations.conftest import Agent
from tests.instrumentations.handlers import fetch_wsgi, urlconf
from tests.instrumentations.http_server import Server

logger = logging.getLogger("shop")


def by_requests(url: str) -> None:
    """Call with requests."""
    with requests.Session() as session:
        session.trust_env = False
        session.get(url, timeout=5)


def by_urllib3(url: str) -> None:
    """Call with urllib3."""
    with urllib3.PoolManager() as manager:
        manager.request("GET", url, timeout=5, retries=1)


def by_urllib(url: str) -> None:
    """Call with urllib.request."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(url, timeout=5).close()


def by_http_client(url: str) -> None:
    """Call with http.client, which takes all that is before the path for the host's name."""
    connection = http.client.HTTPConnection(url.split("/")[2].rpartition(":")[0], 80, timeout=5)
    try:
        connection.request("GET", url)
    finally:
        connection.close()


@pytest.mark.parametrize("call", [by_requests, by_urllib3, by_urllib, by_http_client])
@pytest.mark.parametrize(
    "url",
    [
        "http://bob:hunter2@127.0.0.1:{web}/",
        "http://bob:hunter2@127.0.0.1:{free}/",
        "http://bob:hunter2@far.example/path",
        "bob:hunter2@far.example/path",
        "http://bob:hunter2@[::1/path",
        "http://bob:hunter2@/path",
        "http://127.0.0.1:{web}/to?http://bob:hunter2@127.0.0.1:{web}/",
        "http://127.0.0.1:{web}/to?http://bob:hunter2@far.example/",
        "ftp://bob:hunter2@/path",
    ],
)
def test_credentials_stay_inside(
    web: Server,
    unresolvable: None,
    start_agent: Callable[..., Agent],
    django: Callable[..., None],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    call: Callable[[str], None],
    url: str,
) -> None:
    """No metric, log line or message has user or password, also where the application logs what failed."""
    from django.http import HttpResponse
    from django.urls import path

    url = url.format(web=web.port, free=free_port())
    log = tmp_path / "log"
    agent = start_agent(
        LOG=f"file://{log}", LOG_LEVEL="DEBUG", DETAIL="all", DEBUG="1", SQL_COMMENT="off"
    )
    logging.getLogger("urllib3").setLevel(logging.DEBUG)

    def view(request: Any) -> Any:
        try:
            call(url)
        except Exception:
            logger.exception("calling failed")
            raise
        return HttpResponse("x")

    django(ROOT_URLCONF=urlconf(path("", view)))
    try:
        fetch_wsgi("/")
    finally:
        logging.getLogger("urllib3").setLevel(logging.NOTSET)

    told = [log.read_text(), *(line.raw for line in agent.lines()), capfd.readouterr().err]
    # Without `//` it is a scheme called bob, which urllib says it does not know.
    secrets = ("hunter2", "bob") if "//" in url else ("hunter2",)
    assert not [text for text in told if any(secret in text for secret in secrets)]
    assert json.loads(log.read_text().splitlines()[-1])["kind"] == "request"
