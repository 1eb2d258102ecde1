"""Lines as agents send them, and batches made of them."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from introspect.console.batch import Batch
from introspect.console.lines import Log, Work, read_line
from introspect.console.statsd import Aggregate

NOON = 1_795_435_200
"""2026-11-23 12:00 UTC in epoch seconds: the present of these tests."""


def at(offset: float) -> str:
    """RFC 3339, so many seconds after noon."""
    moment = datetime.fromtimestamp(NOON, timezone.utc).timestamp() + offset
    text = datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def request(offset: float = 0, **fields: Any) -> dict[str, Any]:
    """A canonical line of a request that began so many seconds after noon."""
    return {
        "timestamp": at(offset),
        "level": "INFO",
        "logger": "introspect.request",
        "message": "GET /basket/ 200",
        "service": "front",
        "env": "prod",
        "version": "1.4.2",
        "host": "web1",
        "pid": 41,
        "kind": "request",
        "correlation_id": "9110dbba-6dd9-4d1c-8828-11be81ac0561",
        "method": "GET",
        "path": "/basket/",
        "route": "basket/",
        "view": "shop.views.basket",
        "status": 200,
        "duration_ms": 12.5,
        **fields,
    }


def record(offset: float = 0, **fields: Any) -> dict[str, Any]:
    """A log record written so many seconds after noon."""
    return {
        "timestamp": at(offset),
        "level": "INFO",
        "logger": "shop.basket",
        "message": "added an item",
        "service": "front",
        "env": "prod",
        "version": "1.4.2",
        "host": "web1",
        "pid": 41,
        "correlation_id": "9110dbba-6dd9-4d1c-8828-11be81ac0561",
        **fields,
    }


def read(line: dict[str, Any], now: float = NOON) -> Work | Log:
    """What the console makes of a line that arrives at noon."""
    return read_line(json.dumps(line).encode(), now, NOON - 30 * 86400)


def batch(*lines: dict[str, Any], statsd: bytes = b"", now: float = NOON) -> Batch:
    """Lines and a StatsD packet, ready to be written."""
    made = Batch()
    for line in lines:
        row = read(line, now)
        (made.works if isinstance(row, Work) else made.logs).append(row)
    aggregate = Aggregate()
    aggregate.feed(statsd, now)
    made.add_taken(aggregate.take(now))
    return made
