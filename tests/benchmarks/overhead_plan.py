"""What `overhead.py` measures: the variants, each an environment, and the pages."""

from __future__ import annotations

from typing import NamedTuple

BASE = "none"
FLOOR = "floor"

# {tree}: a checkout of this project; {statsd}, {unwaited}: the listener's addresses; {folder}: for
# files, removed at the end.
AGENT = {"PYTHONPATH": "{tree}/bootstrap/startup", "INTROSPECT_STATSD": "{statsd}"}
LOG = {"INTROSPECT_LOG": "file://{folder}/{variant}.jsonl"}

VARIANTS: dict[str, dict[str, str]] = {
    BASE: {},
    FLOOR: {"OVERHEAD_FLOOR": "1"},
    "floor-sent": {"OVERHEAD_FLOOR": "1", "OVERHEAD_FLOOR_STATSD": "{statsd}"},
    "introspect": AGENT,
    "comments-off": {**AGENT, "INTROSPECT_SQL_COMMENT": "off"},
    # Nobody sleeps at the socket, whom the kernel would have to wake for each datagram.
    "unwaited": {**AGENT, "INTROSPECT_STATSD": "{unwaited}"},
    # What no setting does: everything but correlation IDs, on requests, responses and calls.
    "ids-off": {**AGENT, "OVERHEAD_IDS_OFF": "1"},
    # A text of its own for each statement of each request: SQLite prepares every one anew.
    "comments-id": {**AGENT, "INTROSPECT_SQL_COMMENT": "path,id"},
    "log": {**AGENT, **LOG},
    "all-on": {
        **AGENT,
        **LOG,
        "INTROSPECT_DETAIL": "all",
        "INTROSPECT_SQL_COMMENT": "path,view",
        "INTROSPECT_SUPERUSER_ERRORS": "1",
    },
}
DEFAULT_VARIANTS = ("floor", "introspect", "log", "all-on")


class Page(NamedTuple):
    """A page: how many of it take as long as 100 empty ones, and what it does how many times."""

    title: str
    share: int
    operation: str = ""
    operations: int = 0


PAGES = {
    "empty": Page("(a) empty view", 100),
    "mixed": Page("(b) 10 ORM queries, template with 2 includes, 1 call, 2 log lines", 5),
    "queries": Page("(c) 200 tiny queries", 5, "query", 200),
    "templates": Page("(d) 50 nested templates", 15, "template", 50),
    "calls": Page("(e) 20 outgoing calls", 3, "outgoing call", 20),
    "logs": Page("(f) 100 log records", 10, "log record", 100),
}
