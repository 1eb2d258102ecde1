"""The least that measuring can cost: the functions that the agent patches, replaced by hand.

Each replacement takes the clock twice and appends to a list that the next request empties; nothing
is named, added up, guarded or sent. With `OVERHEAD_FLOOR_STATSD`, each request also ends with one
datagram, always the same: what even the least costs that sends what it measures.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
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
    (logging.Logger, "handle"),
    (logging.Handler, "handle"),
)

_samples: list[float] = []


def install() -> None:
    """Replace the functions for the rest of this process."""
    for owner, name in PATCHED:
        setattr(owner, name, _timed(getattr(owner, name)))
    handler = _emptied(_timed(WSGIHandler.__call__))
    address = os.environ.get("OVERHEAD_FLOOR_STATSD")
    WSGIHandler.__call__ = _sent(handler, address) if address else handler  # type: ignore[method-assign]


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


# As long as that of a page with some calls.
_DATAGRAM = b"\n".join([b"overhead_site.db.default.select:0.123|ms"] * 20)


def _sent(original: Any, address: str) -> Any:
    host, _, port = address.removeprefix("udp://").partition(":")
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((host, int(port)))
    number = sock.detach()

    @functools.wraps(original)
    def sent(*args: Any, **kwargs: Any) -> Any:
        response = original(*args, **kwargs)
        os.write(number, _DATAGRAM)
        return response

    return sent
