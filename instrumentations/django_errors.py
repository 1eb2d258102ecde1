"""Show superusers the technical 500 page, and everybody else the site's own (off by default).

The site's own page is made first, as ever. Only then is the user looked at, through the session
that the application set up. Whatever fails on the way leaves the site's own page as the answer, and
the session as it was.
"""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from typing import TYPE_CHECKING, Any

from introspect.agent import guard, work
from introspect.agent.patching import Patch, amended

if TYPE_CHECKING:
    from collections.abc import Iterator

    from introspect.agent.settings import Settings

_group = ""
_networks: tuple[Any, ...] = ()


def configure(settings: Settings) -> None:
    """Take the restrictions to a group and to networks."""
    global _group, _networks
    _group = settings.superuser_group
    _networks = settings.superuser_networks


def uncaught(args: Any, kwargs: Any, response: Any) -> Any:
    """Return the technical page instead of *response*, the site's own, if a superuser asks.

    Behind ``handle_uncaught_exception(request, resolver, exc_info)``, which has re-raised already
    where ``DEBUG_PROPAGATE_EXCEPTIONS`` says so, and has made the technical page under ``DEBUG``.
    """
    request = args[0]
    error = args[2] if len(args) > 2 else kwargs["exc_info"]  # noqa: PLR2004
    from django.conf import settings

    if settings.DEBUG or _is_test_clients(request) or not _may_come_from(request):
        return response
    connections = _open_connections()
    try:
        # The page comes second: it evaluates the variables it shows, lazy queries among them.
        user = _privileged_user(request, error[1], settings)
        page = None if user is None else _technical_page(request, error)
    finally:
        _close_others(connections)
    if page is None:
        return response
    _log_showing(user, request)
    return page


def _is_test_clients(request: Any) -> bool:
    """Tell whether Django's test client asks: its handlers mark each request with this."""
    return "_dont_enforce_csrf_checks" in request.__dict__


def _may_come_from(request: Any) -> bool:
    if not _networks:
        return True
    try:
        address = ipaddress.ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return False
    # A server that listens on IPv6 shows clients of IPv4 as ::ffff:10.0.0.1.
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in _networks)


def _privileged_user(request: Any, error: BaseException, settings: Any) -> Any:
    """Return the user if that is an active superuser (of the group), else ``None``."""
    try:
        user = _loaded_user(request)
        if user is not None:
            return user if _is_privileged(user, error) else None
        if settings.SESSION_COOKIE_NAME not in request.COOKIES or _is_database_trouble(error):
            return None
        with _no_trace_left(request):
            user = getattr(request, "user", None)
            if user is not None and _is_privileged(user, error):
                return user
    except Exception as failure:
        guard.debug(f"who asked is not known, so they get the site's own page: {failure!r}")
    return None


def _loaded_user(request: Any) -> Any:
    attributes = request.__dict__
    loaded = attributes.get("_cached_user")
    return attributes.get("_acached_user") if loaded is None else loaded


def _is_privileged(user: Any, error: BaseException) -> bool:
    return (
        user.is_authenticated is True
        and user.is_active is True
        and user.is_superuser is True
        and (not _group or (not _is_database_trouble(error) and _is_in_group(user)))
    )


def _is_in_group(user: Any) -> bool:
    return bool(user.groups.filter(name=_group).exists())


# A mistake in a statement: SQLite's SQLITE_ERROR, MySQL's unknown column.
_MISTAKES = frozenset({1, 1054})

# How many exceptions that were raised because of one another are looked at: cycles do occur.
CHAIN = 100


def _is_database_trouble(error: BaseException) -> bool:
    """Tell whether asking the database who asks would fail, or wait, like the view did."""
    from django.db import InterfaceError, OperationalError

    return any(
        isinstance(each, (InterfaceError, OperationalError)) and not _is_mistake(each)
        for each in _chain(error)
    )


def _is_mistake(error: BaseException) -> bool:
    code = error.args[0] if error.args else None
    return getattr(error.__cause__, "sqlite_errorcode", code) in _MISTAKES


def _chain(error: BaseException) -> list[BaseException]:
    """Return *error* and those it was raised from, or in the handling of, hidden or not."""
    chain, seen = [error], {id(error)}
    for each in chain:
        for other in (each.__cause__, each.__context__):
            if other is not None and id(other) not in seen and len(chain) < CHAIN:
                seen.add(id(other))
                chain.append(other)
    return chain


@contextlib.contextmanager
def _no_trace_left(request: Any) -> Iterator[None]:
    """Let the user be looked at, and put request, session and lazy user back to what they were.

    Reading a session marks it as accessed, which adds ``Vary: Cookie`` to the site's own page, and
    forgets the key of one that has expired, which has its cookie deleted. Looking at its user may
    end a session (of another password) or renew it; neither is ours to do.
    """
    session = getattr(request, "session", None)
    touched = [
        thing for thing in (request, session, request.__dict__.get("user")) if _has_dict(thing)
    ]
    before = [(thing.__dict__, dict(thing.__dict__)) for thing in touched]
    if session is not None:
        for method in ("flush", "cycle_key", "save", "delete"):
            session.__dict__[method] = _do_nothing
    try:
        yield
    finally:
        for attributes, values in before:
            attributes.clear()
            attributes.update(values)


def _has_dict(thing: Any) -> bool:
    return thing is not None and hasattr(type(thing), "__dict__") and hasattr(thing, "__dict__")


def _do_nothing(*_args: Any, **_kwargs: Any) -> None:
    """Stand for what would change the session in its store."""


def _open_connections() -> set[str]:
    from django.db import connections

    return {
        connection.alias
        for connection in connections.all(initialized_only=True)
        if connection.connection is not None
    }


def _close_others(kept: set[str]) -> None:
    """Close what was opened since: in a thread of ASGI's nobody else would."""
    from django.db import connections

    for connection in connections.all(initialized_only=True):
        if connection.alias not in kept and not connection.in_atomic_block:
            connection.close()


def _technical_page(request: Any, error: Any) -> Any:
    """Return Django's page, made by the site's reporter and filter, or ``None`` if that fails."""
    from django.views import debug

    try:
        page = debug.technical_500_response(request, *error)
    except Exception as failure:
        guard.debug(f"the technical page could not be made: {failure!r}")
        return None
    page.headers["Cache-Control"] = "private, no-store"
    return page


def _log_showing(user: Any, request: Any) -> None:
    logging = sys.modules["logging"]
    logging.getLogger("introspect.errors").warning(
        "technical error page of %s shown to user %s (correlation ID %s)",
        # As Django escapes it in its own lines: a line feed in a path would begin another line.
        request.path.encode("unicode_escape").decode("ascii"),
        user.pk,
        work.correlation_id(),
    )


PATCHES = (amended("django.core.handlers.exception:handle_uncaught_exception", uncaught),)


def patches(settings: Settings) -> tuple[Patch, ...]:
    """Patch nothing unless the pages are asked for."""
    return PATCHES if settings.superuser_errors else ()
