"""The least that measuring can cost: the functions that the agent patches, replaced by hand.

Each replacement takes the clock twice and appends to a list that the next request empties; nothing
is named, added up, guarded or sent.
"""

from __future__ import annotations

import functools
from http.client import HTTPConnection
from time import perf_counter as clock
from typing import Any

from django.core.handlers import exception
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.template.base import Template
from requests.sessions import Session
from urllib3.connectionpool import HTTPConnectionPool

PATCHED = (
    (BaseHandler, "get_response"),
    (exception, "response_for_exception"),
    (CursorWrapper, "_execute"),
    (CursorWrapper, "_executemany"),
    (CursorWrapper, "callproc"),
    (BaseDatabaseWrapper, "connect"),
    (BaseDatabaseWrapper, "commit"),
    (BaseDatabaseWrapper, "rollback"),
    (Template, "render"),
    (Session, "send"),
    (HTTPConnectionPool, "urlopen"),
    (HTTPConnection, "endheaders"),
    (HTTPConnection, "getresponse"),
)

_samples: list[float] = []


def install() -> None:
    """Replace the functions for the rest of this process."""
    for owner, name in PATCHED:
        setattr(owner, name, _timed(getattr(owner, name)))
    WSGIHandler.__call__ = _emptied(_timed(WSGIHandler.__call__))  # type: ignore[method-assign]


def _timed(original: Any) -> Any:
    @functools.wraps(original)
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = clock()
        try:
            return original(*args, **kwargs)
        finally:
            _samples.append(clock() - started)

    return timed


def _emptied(original: Any) -> Any:
    @functools.wraps(original)
    def emptied(*args: Any, **kwargs: Any) -> Any:
        _samples.clear()
        return original(*args, **kwargs)

    return emptied
