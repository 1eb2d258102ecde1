"""What a name on the wire means: which service, which metric, which tag values.

The agent writes ``front.view.site_views_index.GET``; the tables want service ``front``, metric
``view``, tags ``{"view": "site_views_index", "method": "GET"}``.  Each metric of the agent has a
fixed number of dotted parts behind its name, so its catalogue is all that is needed to take a name
apart again.  A name that is not the agent's is kept whole, without a service.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

COUNTER: Final = "counter"
TIMER: Final = "timer"
GAUGE: Final = "gauge"
SET: Final = "set"


@dataclass(frozen=True)
class Known:
    """One metric of the agent, as it arrives here."""

    name: str
    kind: str
    unit: str
    tags: tuple[str, ...]
    help: str


# fmt: off
CATALOGUE: Final = {metric.name: metric for metric in (
    Known("request", TIMER, "ms", (), "every request, start to close"),
    Known("view", TIMER, "ms", ("view", "method"), "every request by view"),
    Known("response", COUNTER, "", ("status",), "responses by status code"),
    Known("request.aborted", COUNTER, "", (), "requests that ended without a response"),
    Known("request.first_byte", TIMER, "ms", (), "until the handler returned"),
    Known("request.queue", TIMER, "ms", (), "waited in front of the server"),
    Known("request.db", TIMER, "ms", (), "SQL per request"),
    Known("request.db_queries", TIMER, "", (), "statements per request"),
    Known("request.template", TIMER, "ms", (), "templates per request"),
    Known("request.http", TIMER, "ms", (), "outgoing calls per request"),
    Known("request.cache", TIMER, "ms", (), "cache operations per request"),
    Known("ignored", COUNTER, "", (), "requests that are counted here only"),
    Known("exception", COUNTER, "", ("class", "view"), "exceptions, also those answered with 4xx"),
    Known("db", TIMER, "ms", ("alias", "verb"), "each statement"),
    Known("db.connect", TIMER, "ms", ("alias",), "each connect"),
    Known("db.commit", TIMER, "ms", ("alias",), "each commit"),
    Known("db.rollback", TIMER, "ms", ("alias",), "each rollback"),
    Known("db.error", COUNTER, "", ("alias", "class"), "statements that failed"),
    Known("template", TIMER, "ms", ("template",), "each rendering"),
    Known("http", TIMER, "ms", ("host",), "each outgoing call"),
    Known("http.status", COUNTER, "", ("host", "status"), "outgoing calls by status code"),
    Known("http.error", COUNTER, "", ("host", "class"), "outgoing calls that failed"),
    Known("cache", TIMER, "ms", ("alias", "op"), "each cache operation"),
    Known("cache.hit", COUNTER, "", ("alias",), "keys found"),
    Known("cache.miss", COUNTER, "", ("alias",), "keys not found"),
    Known("command", TIMER, "ms", ("name",), "each management command"),
    Known("command.error", COUNTER, "", ("name",), "management commands that failed"),
    Known("task", TIMER, "ms", ("name",), "each task"),
    Known("task.error", COUNTER, "", ("name",), "tasks that failed"),
    Known("mail", TIMER, "ms", ("name",), "each mail sent"),
    Known("log", COUNTER, "", ("level",), "log records by level"),
    Known("process.rss", TIMER, "bytes", (), "resident memory of each process"),
    Known("process.cpu", TIMER, "%", (), "CPU of each process"),
    Known("process.threads", TIMER, "", (), "threads of each process"),
    Known("process.fds", TIMER, "", (), "open descriptors of each process"),
    Known("introspect.dropped", COUNTER, "", (), "measurements the agent dropped"),
    Known("introspect.errors", COUNTER, "", (), "errors inside the agent"),
    Known("introspect.log_dropped", COUNTER, "", (), "JSON lines that no output could take"),
    Known("introspect.overhead", TIMER, "ms", (), "time the agent itself took per request"),
)}
# fmt: on


LONGEST: Final = max(name.count(".") + 1 for name in CATALOGUE)
"""Dotted parts of the longest metric name."""


def split(name: str, kind: str, *, tagged: bool = False) -> tuple[str, str, tuple[str, ...]]:
    """Take a name apart: ``(service, metric, tag values)``.

    ``tagged`` says that the tag values travel beside the name (DogStatsD), not in it.
    The service is what stands before the metric's name, at least one part unless ``tagged``; of
    several readings the shortest service wins, then the longest metric name.
    """
    parts = name.split(".")
    for start in range(0 if tagged else 1, len(parts)):
        for end in range(min(len(parts), start + LONGEST), start, -1):
            known = CATALOGUE.get(".".join(parts[start:end]))
            if known is None or known.kind != kind:
                continue
            if len(parts) - end == (0 if tagged else len(known.tags)):
                return ".".join(parts[:start]), known.name, tuple(parts[end:])
    return "", name, ()
