"""A console over the generated shop, and a browser to look at it with."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from introspect.console.store import Store
from tests.console import generate
from tests.helpers.processes import clean_environment

LOOPBACK = "127.0.0.1"


@dataclass
class Console:
    """The pages of one file, served by their own process."""

    address: str
    path: Path
    errors: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        """Scheme, host and port."""
        return self.address.partition("/?")[0].rstrip("/")

    def get(self, path: str, **more: object) -> requests.Response:
        """Ask for a page without following redirects."""
        return requests.get(self.base + path, allow_redirects=False, timeout=20, **more)

    def data(self, name: str, **parameters: object) -> dict:
        """Ask for one of the pages' data."""
        answer = self.get(f"/-/data/{name}", params={"range": "1h", **parameters})
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextlib.contextmanager
def console_over(path: Path, host: str = LOOPBACK, token: str | None = None) -> Iterator[Console]:
    """Serve the pages of a file on a free port until left."""
    environment = clean_environment()
    if token is not None:
        environment["INTROSPECT_CONSOLE_TOKEN"] = token
    command = [sys.executable, "-m", "introspect.console.serve", str(path), host, "0"]
    with subprocess.Popen(
        command, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            address = process.stdout.readline().strip()
            assert address, process.stderr.read()
            console = Console(address, path)
            yield console
        finally:
            process.stdin.close()
            process.wait(20)
            complaints = process.stderr.read()
    assert complaints == "", complaints


@pytest.fixture(scope="session")
def shop_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-five minutes of the shop, and one request that is hostile in every field."""
    path = tmp_path_factory.mktemp("shop") / "console.db"
    now = time.time()
    with contextlib.closing(Store(path)) as store:
        generate.fill(store, generate.Shop(now - 1500, 1440, 3, seed=7, all_events=True))
        generate.fill(store, [generate.hostile(now - 30)])
    return path


@pytest.fixture(scope="session")
def shop(shop_file: Path) -> Iterator[Console]:
    """A console over the shop."""
    with console_over(shop_file) as console:
        yield console


@pytest.fixture(scope="session")
def empty_console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A console that has heard nothing."""
    path = tmp_path_factory.mktemp("empty") / "console.db"
    Store(path).close()
    with console_over(path) as console:
        yield console


@pytest.fixture(scope="session")
def failed_checkout(shop: Console) -> dict:
    """The canonical line of a checkout that failed because billing did."""
    rows = shop.data("requests", view="shop.views.checkout", status="500", q="HTTPError")["rows"]
    assert rows, "the generated shop has a failed checkout"
    return rows[0]


Serve = Callable[..., contextlib.AbstractContextManager[Console]]


@pytest.fixture
def serve_pages() -> Serve:
    """The function that serves a file's pages for the length of a `with` block."""
    return console_over
