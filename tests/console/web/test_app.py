"""Serving: the address, the tables, and what stands between them and our pages."""

from __future__ import annotations

import contextlib
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from introspect.console.store import Store
from introspect.console.web import app
from tests.console.web.conftest import Console, console_over

LOOPBACK = "127.0.0.1"


def test_serve_tells_its_address_and_stops(store: Store) -> None:
    """`serve` calls `ready` with an address that answers, and returns once told to stop."""
    known: dict[str, Any] = {}
    told = threading.Event()

    def ready(address: str, stop: Callable[[], None]) -> None:
        known.update(address=address, stop=stop)
        told.set()

    serving = threading.Thread(
        target=app.serve, args=(store.path, LOOPBACK, 0), kwargs={"ready": ready}
    )
    serving.start()
    assert told.wait(20)
    answer = requests.get(known["address"], timeout=20)
    known["stop"]()
    serving.join(20)

    assert answer.status_code == 200
    assert not serving.is_alive()
    with pytest.raises(requests.ConnectionError):
        requests.get(known["address"], timeout=20)


def test_address_in_use_is_said() -> None:
    """A port that somebody has is named, with the option that chooses another."""
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(app.ConsoleError, match=f"127.0.0.1 port {port}: .*--port"):
            app.listen(LOOPBACK, port, None)


def test_unknown_host_name_is_said() -> None:
    """A name that is no address of anything is named."""
    with pytest.raises(app.ConsoleError, match=r"cannot use the address no-such-host\.invalid"):
        app.listen("no-such-host.invalid", 0, "token")


def test_ipv6_address_is_written_with_brackets() -> None:
    """The address to open is one that a browser understands."""
    try:
        listener = app.listen("::1", 0, None)
    except app.ConsoleError:
        pytest.skip("this machine has no IPv6")
    with contextlib.closing(listener):
        port = listener.getsockname()[1]

        assert app.address(listener, "t") == f"http://[::1]:{port}/?token=t"


def test_tables_are_searched_as_text(shop: Console) -> None:
    """Datasette's pages find words in log lines and requests through the full-text indexes."""
    logs = shop.get("/introspect/logs.json?_search=paid&_shape=objects").json()
    works = shop.get("/introspect/work.json?_search=checkout&_shape=objects").json()

    assert logs["rows"]
    assert all("paid" in row["message"] for row in logs["rows"])
    assert works["rows"]
    assert all("checkout" in row["path"] for row in works["rows"])


def test_tables_are_faceted_and_taken_away(shop: Console) -> None:
    """Datasette's tables give facets, CSV and JSON, and answer SQL that only reads."""
    facets = shop.get("/introspect/logs.json?_facet=level&_size=0").json()["facet_results"][
        "level"
    ]["results"]
    csv = shop.get("/introspect/series.csv").text
    answer = shop.get(
        "/introspect.json", params={"sql": "select count(*) as n from work", "_shape": "array"}
    ).json()
    refused = shop.get("/introspect.json", params={"sql": "delete from work"})

    assert {facet["value"] for facet in facets} >= {"INFO", "ERROR"}
    assert csv.startswith("id,metric,kind,service,env,tags,label,unit")
    assert answer[0]["n"] > 1000
    assert refused.status_code == 400


def test_tables_are_counted_while_that_is_quick(shop: Console, tmp_path: Path) -> None:
    """A table's rows are counted on its page; a count without end is given up at once, and the page comes all the same."""
    endless = tmp_path / "endless.db"
    with contextlib.closing(sqlite3.connect(endless)) as file:
        file.execute(
            "CREATE VIEW endless AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
        )
    with console_over(endless) as console:
        began = time.monotonic()
        page = console.get("/introspect/endless?_size=5")
        took = time.monotonic() - began

    # A small table: it must be quick on a busy machine as well.
    assert re.search(r"\d rows", shop.get("/introspect/series").text)
    assert page.status_code == 200
    assert not re.search(r"\d rows", page.text)
    assert took < 10


def test_tables_lead_to_stories(shop: Console, failed_checkout: dict[str, Any]) -> None:
    """A correlation ID in Datasette's tables is a link to its story; a hostile one stays text."""
    html = shop.get(f"/introspect/work?correlation_id={failed_checkout['correlation_id']}").text

    assert f'<a href="/story/{failed_checkout["correlation_id"]}">' in html
    assert "<script>window" not in shop.get("/introspect/work?service=evil%3Cb%3E").text
    assert "/story/0ddba11-%3Cscript%3E" in shop.get("/introspect/work?service=evil%3Cb%3E").text


def test_other_plugins_are_left_out(shop: Console) -> None:
    """Only our own plugin serves: what else is installed beside it changes nothing."""
    plugins = shop.get("/-/plugins.json").json()

    assert [plugin["name"] for plugin in plugins] == ["introspect.console.web.plugin"]


def test_static_files_are_only_ours(shop: Console) -> None:
    """No path leads out of the folder of scripts and styles."""
    for path in (
        "../plugin.py",
        "%2e%2e/plugin.py",
        "..%2fplugin.py",
        "js/../../plugin.py",
        "/etc/passwd",
    ):
        assert shop.get(f"/-/console/{path}").status_code in (302, 404)
        assert "hookimpl" not in shop.get(f"/-/console/{path}").text
