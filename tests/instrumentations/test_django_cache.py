"""Each cache operation counts once, under its alias, whatever the backend makes it of."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.instrumentations.conftest import Agent

BACKENDS = {
    "locmem": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "file": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache"},
    "redis": {"BACKEND": "django.core.cache.backends.redis.RedisCache"},
    "django_redis": {"BACKEND": "django_redis.cache.RedisCache"},
}


@pytest.fixture(params=BACKENDS)
def cache(
    request: pytest.FixtureRequest,
    agent: Agent,
    django: Callable[..., None],
    tmp_path: Path,
) -> Any:
    """A cache of each kind under the alias `sessions`, with keys of the test's own."""
    settings: dict[str, Any] = {**BACKENDS[request.param], "KEY_PREFIX": uuid.uuid4().hex}
    if request.param == "locmem":
        settings["LOCATION"] = settings["KEY_PREFIX"]
    elif request.param == "file":
        settings["LOCATION"] = str(tmp_path)
    else:
        host, port = request.getfixturevalue("redis")
        settings["LOCATION"] = f"redis://{host}:{port}"
    default = BACKENDS["locmem"]
    django(CACHES={"default": default, "sessions": settings})
    from django.core.cache import caches

    return caches["sessions"]


class TestOperations:
    """What is counted for what the application calls."""

    def test_hits_and_misses_are_told_apart(self, agent: Agent, cache: Any) -> None:
        """A key that is found is a hit, one that is not is a miss, and both are a `get`."""
        cache.set("a", 0)

        assert cache.get("a") == 0
        assert cache.get("b") is None
        assert agent.counts("cache") == {
            "cache.sessions.set": 1,
            "cache.sessions.get": 2,
            "cache.hit.sessions": 1,
            "cache.miss.sessions": 1,
        }

    def test_many_keys_are_one_operation(self, agent: Agent, cache: Any) -> None:
        """`get_many` counts once, and each key as a hit or a miss."""
        cache.set_many({"a": 1, "b": 2})

        assert cache.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
        counts = agent.counts("cache")
        assert counts["cache.sessions.set_many"] == counts["cache.sessions.get_many"] == 1
        assert counts["cache.hit.sessions"] == 2
        assert counts["cache.miss.sessions"] == 1

    def test_keys_from_an_iterator_are_not_consumed(self, agent: Agent, cache: Any) -> None:
        """What the application passes as keys is left for the cache to read."""
        cache.set("a", 1)

        assert cache.get_many(iter(["a", "c"])) == {"a": 1}
        assert agent.counts("cache.hit") == {"cache.hit.sessions": 1}

    def test_results_and_errors_are_the_caches_own(self, agent: Agent, cache: Any) -> None:
        """Defaults, falsy values and exceptions come through unchanged."""
        sentinel = object()

        assert cache.get("nothing", sentinel) is sentinel
        with pytest.raises(ValueError, match="nothing"):
            cache.incr("nothing")
        assert agent.counts("cache.sessions.incr") == {"cache.sessions.incr": 1}

    def test_async_methods_count_as_the_sync_ones(self, agent: Agent, cache: Any) -> None:
        """`aget` is a `get`, once."""
        asyncio.run(cache.aget("b"))

        assert agent.counts("cache.sessions") == {"cache.sessions.get": 1}
