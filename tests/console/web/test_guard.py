"""Who may talk to the console."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from introspect.console.web import app, guard
from tests.console.web.conftest import Console, Serve

POLICY = guard.STRICT_POLICY


@pytest.mark.parametrize(
    "header",
    [
        "127.0.0.1",
        "127.0.0.1:8126",
        "localhost:8126",
        "LOCALHOST",
        "[::1]:8126",
        "127.0.0.5:1",
        "localhost.",
    ],
)
def test_host_of_loopback_is_ours(header: str) -> None:
    """Whoever reaches us by a loopback name or address meant us."""
    assert guard.is_host_allowed(header, "127.0.0.1")


@pytest.mark.parametrize(
    "header",
    ["", "evil.example", "evil.example:8126", "127.0.0.1.evil.example", "localhost.evil.example:8126",
     "127.0.0.1@evil.example", "10.0.0.7", "[::1", "localhost:8126:1", "127.0.0.1/x", "0x7f.1.evil.example", "[evil]:1"],
)  # fmt: skip
def test_host_of_others_is_refused(header: str) -> None:
    """A name that its owner may point at us (DNS rebinding) is not ours."""
    assert not guard.is_host_allowed(header, "127.0.0.1")


def test_host_bound_to_is_ours() -> None:
    """The name or address that the console was told to bind is its own, in any case."""
    assert guard.is_host_allowed("Metrics.Internal:8126", "metrics.internal")
    assert guard.is_host_allowed("10.0.0.7:8126", "10.0.0.7")
    assert not guard.is_host_allowed("10.0.0.8:8126", "10.0.0.7")


def test_host_behind_a_wildcard_is_any_address_but_not_any_name() -> None:
    """Bound to every address, the console answers to addresses, which no DNS can rebind, and to its own name."""
    assert guard.is_host_allowed("192.168.1.9:8126", "0.0.0.0")
    assert guard.is_host_allowed(guard.own_names()[0], "0.0.0.0")
    assert not guard.is_host_allowed("evil.example", "0.0.0.0")


def test_foreign_host_gets_nothing(shop: Console) -> None:
    """A request for another host's name is refused on pages, data and tables alike."""
    for path in (
        "/",
        "/-/data/overview",
        "/introspect",
        "/introspect/logs.json",
        "/-/console/console.css",
    ):
        answer = shop.get(path, headers={"Host": "evil.example"})

        assert answer.status_code == 421
        assert "shop" not in answer.text
        assert "<" not in answer.text


def test_only_reading_is_allowed(shop: Console) -> None:
    """Nothing can be changed through the pages."""
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer = requests.request(method, shop.base + "/introspect", timeout=20)

        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/metrics", "/requests", "/logs", "/views", "/story/x"])
def test_our_pages_forbid_inline_script_and_other_hosts(shop: Console, path: str) -> None:
    """The content policy of our pages admits only what this server itself serves, and nothing inline."""
    answer = shop.get(path)

    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert "*" not in POLICY
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/introspect", "/introspect/logs", "/introspect.json?sql=select+1", "/-/nothing"]
)
def test_datasettes_pages_forbid_unknown_inline_script(shop: Console, path: str) -> None:
    """Datasette's pages may run what its templates inline, by hash, and no other inline script."""
    policy = dict(
        part.strip().split(" ", 1)
        for part in shop.get(path).headers["content-security-policy"].split(";")
    )

    assert policy["default-src"] == "'none'"
    assert policy["script-src"].startswith("'self' 'sha256-")
    assert "unsafe" not in policy["script-src"]


def test_token_is_demanded_and_taken(shop_file: Path, serve_pages: Serve) -> None:
    """With a token set, nothing is shown without it; a query, a cookie and a Bearer header are ways to give it."""
    with serve_pages(shop_file, token="s3cret") as console:
        assert console.address.endswith("/?token=s3cret")
        for path in (
            "/",
            "/-/data/overview",
            "/introspect/logs.json",
            "/-/console/console.css",
            "/?token=",
            "/?token=wrong",
        ):
            refused = console.get(path)
            assert refused.status_code == 401
            assert "?token=" in refused.text
        welcome = console.get("/logs?q=paid&token=s3cret&range=1h")
        assert welcome.status_code == 303
        assert welcome.headers["location"] == "/logs?q=paid&range=1h"
        cookie = welcome.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert "s3cret" not in cookie
        value = cookie.partition(";")[0]
        assert console.get("/", headers={"Cookie": value}).status_code == 200
        assert console.get("/", headers={"Cookie": value + "0"}).status_code == 401
        assert console.get("/", headers={"Authorization": "Bearer s3cret"}).status_code == 200
        assert console.get("/", headers={"Authorization": "Bearer s3cre"}).status_code == 401
        assert console.get("/", headers={"Authorization": "Basic s3cret"}).status_code == 401


def test_welcome_leads_nowhere_else(shop_file: Path, serve_pages: Serve) -> None:
    """The redirect that takes the token out of the address stays on this host."""
    with serve_pages(shop_file, token="s3cret") as console:
        for path in ("//evil.example/", "/\\evil.example/", "///evil.example"):
            answer = raw_get(console.base, f"{path}?token=s3cret")

            location = next(
                line for line in answer.splitlines() if line.lower().startswith("location:")
            )
            assert location.split()[1].startswith("/evil.example")


def raw_get(base: str, target: str) -> str:
    """Send a request line as it is, which a client library would tidy up."""
    import socket

    host, _, port = base.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_token_is_compared_whole(shop_file: Path, serve_pages: Serve) -> None:
    """A token beyond ASCII works, and a beginning of it does not."""
    with serve_pages(shop_file, token="süß") as console:
        assert console.get("/", params={"token": "süß"}).status_code == 303
        assert console.get("/", params={"token": "sü"}).status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "metrics.example"])
def test_other_addresses_demand_a_token(host: str) -> None:
    """Beyond loopback the console does not start without a token, and says what to do."""
    with pytest.raises(app.ConsoleError, match=r"give it a token, or bind it to 127\.0\.0\.1"):
        app.listen(host, 0, None)


def test_constant_inline_scripts_are_hashed(tmp_path: Path) -> None:
    """Only scripts that are the same for every request get a hash; one that holds data gets none."""
    (tmp_path / "a.html").write_text("<script>one()</script><script>two('{{ data }}')</script>")

    assert guard.inline_script_hashes(tmp_path) == ["HR7iaask9daLMRRskMI++QeJtjWDOjyPA6lGzYGzKW4="]
