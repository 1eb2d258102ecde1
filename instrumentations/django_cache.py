"""Time Django's caches, and count hits and misses.

Each backend overrides the methods of ``BaseCache``, so each one's own class is patched. An
operation that a backend makes of others (``get_many`` of ``get``) counts once.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from introspect.agent import work
from introspect.agent.metrics import COUNTER, TIMER, Metric
from introspect.agent.patching import Patch, amended, timed
from introspect.agent.wrappers import PASS

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATION = Metric("cache", TIMER, "ms", ("alias", "op"), "each cache operation", area="cache")
HIT = Metric("cache.hit", COUNTER, "", ("alias",), "keys found")
MISS = Metric(
    "cache.miss", COUNTER, "", ("alias",), "keys not found (or found to hold the default asked for)"
)

BACKENDS = (
    "django.core.cache.backends.base:BaseCache",
    "django.core.cache.backends.db:DatabaseCache",
    "django.core.cache.backends.dummy:DummyCache",
    "django.core.cache.backends.filebased:FileBasedCache",
    "django.core.cache.backends.locmem:LocMemCache",
    "django.core.cache.backends.memcached:BaseMemcachedCache",
    "django.core.cache.backends.memcached:PyMemcacheCache",
    "django.core.cache.backends.redis:RedisCache",
    "django_redis.cache:RedisCache",
)
OPERATIONS = (
    "add", "clear", "decr", "delete", "delete_many", "get", "get_many", "has_key", "incr", "set",
    "set_many", "touch",
)  # fmt: skip

_ALIAS = "_introspect_alias"

_operating: ContextVar[bool] = ContextVar("introspect_operating", default=False)


def operation_started(_args: Any, _kwargs: Any) -> Any:
    """Return a token, unless a backend calls itself."""
    return PASS if _operating.get() else _operating.set(True)


def _observer_of(operation: str) -> Any:
    def operated(
        token: Any, started: float, ended: float, args: Any, kwargs: Any, result: Any, error: Any
    ) -> None:
        _operating.reset(token)
        alias = args[0].__dict__.get(_ALIAS, "default")
        work.record(OPERATION.of(alias, operation), started, ended)
        if error is None and operation == "get":
            _count_keys(alias, *((0, 1) if result is _default(args, kwargs) else (1, 0)))
        elif error is None and operation == "get_many":
            _count_keys(alias, len(result), _length(args, kwargs) - len(result))

    return operated


def _default(args: Any, kwargs: Any) -> Any:
    return args[2] if len(args) > 2 else kwargs.get("default")  # noqa: PLR2004  (self, key, default)


def _length(args: Any, kwargs: Any) -> int:
    keys = args[1] if len(args) > 1 else kwargs.get("keys")
    return len(keys) if isinstance(keys, (list, tuple, set, frozenset, dict)) else 0


def _count_keys(alias: str, hits: int, misses: int) -> None:
    unit = work.active()
    for metric, number in ((HIT, hits), (MISS, misses)):
        if number > 0:
            work.count(metric.of(alias), number)
            if unit is not None:
                unit.tally(metric.name, number)


def cache_made(args: Any, _kwargs: Any, cache: Any) -> Any:
    """Note on a cache the alias that it was made for: it does not know it itself."""
    cache.__dict__[_ALIAS] = args[1]
    return cache


def _patches() -> Iterator[Patch]:
    yield amended("django.core.cache:CacheHandler.create_connection", cache_made)
    observers = {operation: _observer_of(operation) for operation in OPERATIONS}
    for backend in BACKENDS:
        for operation in OPERATIONS:
            yield timed(
                f"{backend}.{operation}",
                before=operation_started,
                after=observers[operation],
                own=True,
            )


PATCHES = tuple(_patches())
