"""Superusers' technical pages behind real servers, beside the answers of a server without the agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import rawhttp
from tests.helpers.serve import serve
from tests.helpers.site import PROJECT, Site
from tests.instrumentations.story_site import SERVERS, Story, environment, story

LOG_IN = """
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
import json
keys = {}
for name, more in {"chief": {"is_superuser": True}, "clerk": {"is_staff": True}, "guest": {},
                   "retired": {"is_superuser": True, "is_active": False}}.items():
    user, _ = User.objects.get_or_create(username=name, defaults=more)
    session = SessionStore()
    session[SESSION_KEY], session[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session.save()
    keys[name] = [session.session_key, user.pk]
print("keys", json.dumps(keys))
"""

Keys = dict[str, tuple[str, int]]


@pytest.fixture(scope="module")
def keys(stocked_site: Site) -> Keys:
    """Each user's session key and primary key."""
    said = stocked_site.manage("shell", "-c", LOG_IN).splitlines()
    [line] = [line for line in said if line.startswith("keys ")]
    return {name: tuple(found) for name, found in json.loads(line[5:]).items()}


@pytest.fixture(scope="module", params=["sync", "gevent", "uvicorn"])
def running(
    request: pytest.FixtureRequest, stocked_site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Story, str]]:
    """The story's site with technical pages, and the address of the same without the agent."""
    file = tmp_path_factory.mktemp("errors") / "log.json"
    with (
        story(request.param, stocked_site, file, SUPERUSER_ERRORS="1") as started,
        serve(SERVERS[request.param], without_agent(stocked_site, file), PROJECT) as plain,
    ):
        yield started, plain.base_url


def without_agent(site: Site, file: Path) -> dict[str, str]:
    """Return the environment of the site by itself; its log's format string wants the ID."""
    return {
        name: value
        for name, value in environment(site, file).items()
        if not name.startswith("INTROSPECT_")
    }


def fetch(url: str, key: str, accept: str) -> rawhttp.RawResponse:
    """Fetch a page with a session's key."""
    cookie = {"Cookie": f"sessionid={key}"} if key else {}
    return rawhttp.get(url, {"Accept": accept, **cookie})


@pytest.mark.parametrize(
    ("accept", "beginning", "kind"),
    [
        ("text/html", b"<!DOCTYPE html>", "text/html"),
        ("application/json", b"ValueError at /boom/", "text/plain; charset=utf-8"),
    ],
)
def test_a_superuser(
    running: tuple[Story, str], keys: Keys, accept: str, beginning: bytes, kind: str
) -> None:
    """A superuser sees the technical page, by `Accept`, not to be stored, and the log says so."""
    told, _ = running
    answer = fetch(f"{told.url}/boom/", keys["chief"][0], accept)

    assert answer.status == 500
    assert b" ".join(answer.body.split()).startswith(beginning)
    assert b"ValueError" in answer.body
    assert keys["chief"][0].encode() not in answer.body
    assert str(answer.header("Content-Type")).startswith(kind)
    assert answer.all_headers("Cache-Control") == ["private, no-store"]
    name = str(answer.header("X-Request-ID"))
    told.request(name)
    [shown] = [line for line in told.of(name) if line["logger"] == "introspect.errors"]
    assert shown["level"] == "WARNING"
    assert f"to user {keys['chief'][1]} (correlation ID {name})" in shown["message"]


@pytest.mark.parametrize("path", ["/boom/", "/rows/", "/nowhere/", "/user/"])
def test_everybody_else(running: tuple[Story, str], keys: Keys, path: str) -> None:
    """Everybody else gets what a server without the agent answers, byte for byte and header for header."""
    told, plain = running
    others = {name: key for name, (key, _) in keys.items() if name != "chief" or path != "/boom/"}
    for key in [*others.values(), "", "forged" * 5]:
        for accept in ("text/html", "application/json"):
            expected = fetch(f"{plain}{path}", key, accept).comparable()
            found = fetch(f"{told.url}{path}", key, accept).comparable()
            assert found == expected
