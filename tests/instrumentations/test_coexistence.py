"""Other tools that patch the same places: the site answers as with them alone, and counts are exact."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest

from tests.helpers import rawhttp
from tests.helpers.processes import introspect_run, script
from tests.helpers.serve import Server, serve
from tests.helpers.site import PROJECT, SERVICE, Site
from tests.helpers.statsd import StatsdListener
from tests.instrumentations.http_server import Server as WebServer

SETTINGS = Path(__file__).with_name("coexistence")

COMMAND = [
    script("gunicorn"),
    "--bind={host}:{port}",
    "--no-control-socket",
    "shop.wsgi",
]

PATHS = (
    "/", "/plain/", "/stream/", "/download/", "/class/", "/queries/3/", "/cursor/", "/broken-sql/",
    "/value-error/", "/missing/", "/outgoing/requests/", "/outgoing/urllib3/", "/outgoing/urllib/",
    "/async-queries/", "/nowhere/",
)  # fmt: skip


def answers(server: Server) -> list[tuple[int, list[str], str, list[str]]]:
    """Return status, header names, body and the toolbar's numbers of queries for each page.

    Left out are error pages, which show the stack as it is, and what the toolbar adds, which shows it for each query.
    """
    found = []
    for path in PATHS:
        answer = rawhttp.get(server.base_url + path)
        names = [name.decode() for name, _ in answer.headers if name.lower() != b"x-request-id"]
        text = re.sub(rf"{server.port}|0x[0-9a-f]+", "?", answer.body.decode("latin-1"))
        page = text.partition('<div id="djDebug"')[0] if answer.status < 500 else ""
        assert "/* /" not in text or answer.status == 500, "the toolbar shows our comment"
        found.append((answer.status, names, page, re.findall(r"\d+ quer(?:y|ies) in", text)))
    return found


@pytest.mark.parametrize(
    ("settings", "package"), [("with_toolbar", "debug_toolbar"), ("with_sentry", "sentry_sdk")]
)
def test_alongside(
    settings: str, package: str, stocked_site: Site, web: WebServer, statsd: StatsdListener
) -> None:
    """With the other tool and the agent the pages are those of the tool alone; each call counts once."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    env = stocked_site.environment(
        PROJECT_OUTGOING=web.url,
        DJANGO_SETTINGS_MODULE=settings,
        PYTHONPATH=os.pathsep.join((str(SETTINGS), str(PROJECT))),
        INTROSPECT_STATSD=statsd.address,
        INTROSPECT_SERVICE=SERVICE,
    )

    with serve(COMMAND, env, PROJECT) as server:
        without = answers(server)
    with serve([*introspect_run(), *COMMAND], env, PROJECT) as server:
        with_agent = answers(server)
    statsd.settle()

    for path, before, after in zip(PATHS, without, with_agent, strict=True):
        assert after == before, path
    assert statsd.count(f"{SERVICE}.request") == len(PATHS)
    assert statsd.count(f"{SERVICE}.view.books_views_queries.GET") == 1
    assert statsd.count(f"{SERVICE}.http.127_0_0_1") == 3
    assert statsd.count(f"{SERVICE}.db.default.select") == 2 + 5 + 3 + 2 + 1 + 2
    assert statsd.count(f"{SERVICE}.introspect.errors") == 0
