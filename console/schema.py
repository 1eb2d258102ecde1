"""The SQLite schema of the console's file: what is kept, in which table, and how it is read.

How to read it
--------------
Times.  ``start`` columns are whole epoch seconds (UTC), the beginning of a bucket.  The ``id`` of
``work``, ``logs`` and ``events`` IS the time: microseconds since the epoch, moved on by one where
taken.  A span of time is therefore a range of ids, needs no other index, and pages are keyed by
id.  ``timestamp`` is the same as RFC 3339 text (a virtual column: it costs no room).

Metrics.  ``series`` says what a series is; ``points_10s``, ``points_1m`` and ``points_10m`` hold
its buckets.  All three are always complete up to the last second (every batch is merged into all
three), so a span is read from exactly ONE of them: the finest one that is still kept that far back
and gives no more buckets than wanted (``introspect.console.query.resolution_for``).

- counter: ``sum`` is the total after the sample rate, ``sum / seconds`` the rate.
- timer:   ``count`` (after the sample rate), ``sum``, ``min``, ``max``; ``sketch`` is a DDSketch.
- gauge:   ``last`` is the newest value; ``sum / count``, ``min``, ``max`` describe the bucket.
- set:     ``count`` is the number of samples; ``sketch`` holds the members' hashes.

Percentiles.  Never average them: merge the sketches of all rows wanted (any series, any span), then
ask once: ``sketch.quantile(sketch.merge(blobs), 0.95)``.  Right to 1 % of the value.

Canonical lines are ``work``, one row per request, command or task; their inner events are
``work_events``, a JSON list of ``[offset_ms, ms, operation_id]`` with, where there is more to say,
a fourth element: an object with ``span_id``, ``status`` or ``error``.  ``operations`` is the
dictionary of what was done (a statement, a template, a host, a cache operation), and
``operations_1m``/``operations_10m`` are its totals by origin (the view, command or task it was done
for), which the top lists and the page of one view read.

Text search.  ``logs_fts`` and ``work_fts`` (FTS5, external content, ``rowid`` = ``id``): restrict
``rowid`` to the span, order by ``rowid DESC``, and stop at the page's length.

Which page reads what
---------------------
- Overview: ``points_*`` of ``request``, ``view``, ``response``, ``request.*``, ``process.*``,
  ``template``, ``http``, ``exception``; ``operations_*`` for statements; ``events`` for the marks.
- Any metric: ``series``, ``points_*``.
- Requests: ``work`` by id range or one of its indexes; ``work_zones`` for "sort by any number".
- Story: ``work`` and ``logs`` by ``correlation_id``, ``work_events``, ``operations``.
- Logs: ``logs``, ``logs_fts``, ``log_counts`` for time line and facets.
- Views: ``points_*`` of ``view``, ``operations_*`` by origin, ``work`` by ``view`` for callers.
- The console about itself: ``bad_lines``, ``receiver_stats``.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 1
"""Stands in ``PRAGMA user_version``; a file of another version is refused with a remedy."""

RESOLUTIONS: Final = {10: "points_10s", 60: "points_1m", 600: "points_10m"}
"""Seconds of one bucket → table."""

OPERATION_RESOLUTIONS: Final = {60: "operations_1m", 600: "operations_10m"}
"""Seconds of one bucket → table."""

WORK_NUMBERS: Final = (
    "duration_ms",
    "first_byte_ms",
    "queue_ms",
    "cpu_ms",
    "db_ms",
    "db_queries",
    "db_duplicates",
    "template_ms",
    "http_ms",
    "http_calls",
    "cache_hits",
    "cache_misses",
    "response_bytes",
)
"""The columns of ``work`` by which the requests page can be sorted (``work_zones`` has each one's
maximum per ten seconds)."""

_TIMESTAMP: Final = """
    timestamp TEXT GENERATED ALWAYS AS (
        strftime('%Y-%m-%dT%H:%M:%S', id / 1000000, 'unixepoch')
        || printf('.%06dZ', id % 1000000)) VIRTUAL"""


def _points(table: str, bucket: str) -> str:
    return f"""
-- What series said in {bucket}.  Clustered by time: writing appends, retention cuts one end off.
CREATE TABLE {table} (
    start     INTEGER NOT NULL,      -- epoch seconds
    series_id INTEGER NOT NULL REFERENCES series (id),
    count     REAL NOT NULL,         -- samples, after the sample rate (@0.1 counts ten)
    sum       REAL NOT NULL,
    min       REAL,
    max       REAL,
    last      REAL,                  -- gauges: the newest value
    sketch    BLOB,                  -- timers: DDSketch; sets: members' hashes (see sketch.py)
    PRIMARY KEY (start, series_id)
) WITHOUT ROWID;
"""


def _operation_totals(table: str, bucket: str) -> str:
    return f"""
-- What was done for which view, command or task in {bucket}.
CREATE TABLE {table} (
    start        INTEGER NOT NULL,
    operation_id INTEGER NOT NULL REFERENCES operations (id),
    origin       TEXT NOT NULL,      -- work.view of a request, work.name of a command or task
    works        INTEGER NOT NULL,   -- requests (commands, tasks) that did it at least once
    count        INTEGER NOT NULL,   -- times done
    ms           REAL NOT NULL,      -- total
    max_ms       REAL NOT NULL,
    errors       INTEGER NOT NULL,
    PRIMARY KEY (start, operation_id, origin)
) WITHOUT ROWID;
"""


SCHEMA: Final = f"""
-- One row per distinct (metric, kind, service, env, tags).
CREATE TABLE series (
    id      INTEGER PRIMARY KEY,
    metric  TEXT NOT NULL,           -- 'view'; a name not in the catalogue is kept whole
    kind    TEXT NOT NULL,           -- counter, timer, gauge, set
    service TEXT NOT NULL,           -- '' if the name did not say
    env     TEXT NOT NULL,           -- '' if unknown (plain StatsD): matches any filter
    tags    TEXT NOT NULL,           -- JSON object, sorted: {{"method":"GET","view":"shop_cart"}}
    label   TEXT NOT NULL,           -- the tag values, joined by a space, for people
    unit    TEXT NOT NULL,           -- ms, bytes, … as the catalogue says; '' if unknown
    UNIQUE (metric, kind, service, env, tags)
);
{_points("points_10s", "ten seconds")}
{_points("points_1m", "one minute")}
{_points("points_10m", "ten minutes")}

-- Canonical lines: one row per unit of work.  id = when it STARTED, microseconds since the epoch.
CREATE TABLE work (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,              -- request, command, task
    service TEXT NOT NULL,
    env TEXT NOT NULL,
    version TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER,
    correlation_id TEXT,
    span_id TEXT,
    parent_id TEXT,                  -- the span_id of the other service's call that caused this
    name TEXT,                       -- of a command or a task
    method TEXT,
    path TEXT,
    route TEXT,
    view TEXT,
    status INTEGER,
    duration_ms REAL,
    first_byte_ms REAL,
    queue_ms REAL,
    cpu_ms REAL,
    db_ms REAL,
    db_queries INTEGER,
    db_duplicates INTEGER,
    template_ms REAL,
    http_ms REAL,
    http_calls INTEGER,
    cache_hits INTEGER,
    cache_misses INTEGER,
    response_bytes INTEGER,
    user_id TEXT,
    exception_class TEXT,
    exception_message TEXT,
    exception_place TEXT,            -- 'app/views.py:42'
    slowest_query TEXT,              -- JSON as sent: ms, name, statement
    extra TEXT,                      -- JSON: scalar fields this table has no column for
    {_TIMESTAMP}
);
CREATE INDEX work_by_correlation ON work (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE INDEX work_by_view ON work (view) WHERE view IS NOT NULL;
CREATE INDEX work_by_slowness ON work (view, duration_ms) WHERE view IS NOT NULL;
CREATE INDEX work_by_name ON work (name) WHERE name IS NOT NULL;
CREATE INDEX work_by_failure ON work (status) WHERE status >= 400;
CREATE INDEX work_by_exception ON work (exception_class) WHERE exception_class IS NOT NULL;
CREATE INDEX work_by_user ON work (user_id) WHERE user_id IS NOT NULL;

-- What happened inside, apart so that a scan of work reads none of it.
CREATE TABLE work_events (
    work_id INTEGER PRIMARY KEY,
    dropped INTEGER NOT NULL,        -- events cut off by the agent's cap
    events  TEXT NOT NULL            -- [[offset_ms, ms, operation_id, {{…}}?], …]
);

-- Each number's maximum per ten seconds: "the slowest 50 of a day" reads only the ten-second
-- stretches that can hold one of them.
CREATE TABLE work_zones (
    start INTEGER PRIMARY KEY,
    works INTEGER NOT NULL,
    {", ".join(f"{name} REAL" for name in WORK_NUMBERS)}
);

CREATE VIRTUAL TABLE work_fts USING fts5 (
    path, view, name, user_id, exception_class, exception_message,
    content = 'work', content_rowid = 'id', detail = full, columnsize = 0
);

-- Whatever segments there are may be merged when asked for, two at the least.
INSERT INTO work_fts (work_fts, rank) VALUES ('usermerge', 2);

-- The dictionary of what work does.
CREATE TABLE operations (
    id        INTEGER PRIMARY KEY,
    service   TEXT NOT NULL,
    env       TEXT NOT NULL,
    kind      TEXT NOT NULL,         -- db, template, http, cache; work: the whole, if its events
                                     -- are known: what a count "per request" divides by
    name      TEXT NOT NULL,         -- alias and verb, template, host, alias and operation
    statement TEXT NOT NULL,         -- normalised SQL; '' for everything else
    UNIQUE (service, env, kind, name, statement)
);
{_operation_totals("operations_1m", "one minute")}
{_operation_totals("operations_10m", "ten minutes")}

-- Log lines.  id = the moment of the record, microseconds since the epoch.
CREATE TABLE logs (
    id INTEGER PRIMARY KEY,
    level TEXT NOT NULL,             -- DEBUG, INFO, WARNING, ERROR, CRITICAL, or what was sent
    logger TEXT NOT NULL,
    message TEXT NOT NULL,
    service TEXT NOT NULL,
    env TEXT NOT NULL,
    version TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER,
    thread TEXT,
    file TEXT,                       -- 'path.py:42'
    function TEXT,
    correlation_id TEXT,
    exception_class TEXT,
    exception_message TEXT,
    stack TEXT,
    extra TEXT,                      -- JSON object
    {_TIMESTAMP}
);
CREATE INDEX logs_by_correlation ON logs (correlation_id) WHERE correlation_id IS NOT NULL;

CREATE VIRTUAL TABLE logs_fts USING fts5 (
    message, logger, exception_class, exception_message, stack, extra,
    content = 'logs', content_rowid = 'id', detail = full, columnsize = 0
);

INSERT INTO logs_fts (logs_fts, rank) VALUES ('usermerge', 2);

-- How many log lines per minute: the time line and the facets when nothing is searched for.
CREATE TABLE log_counts (
    start   INTEGER NOT NULL,
    service TEXT NOT NULL,
    env     TEXT NOT NULL,
    level   TEXT NOT NULL,
    logger  TEXT NOT NULL,
    count   INTEGER NOT NULL,
    PRIMARY KEY (start, service, env, level, logger)
) WITHOUT ROWID;

-- Marks on every graph.  id = when, microseconds since the epoch.
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,              -- start (a server process), version (a change), event
    service TEXT NOT NULL,
    env TEXT NOT NULL,
    title TEXT NOT NULL,             -- 'front 1.4.2', 'front started on web1'
    detail TEXT NOT NULL,            -- JSON object
    {_TIMESTAMP}
);

-- Every process that was heard of, newest activity last.
CREATE TABLE processes (
    service TEXT NOT NULL,
    env TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    version TEXT NOT NULL,
    first_seen INTEGER NOT NULL,     -- epoch seconds
    last_seen INTEGER NOT NULL,
    PRIMARY KEY (service, env, host, pid)
) WITHOUT ROWID;

-- What was received and not understood, by reason, with the newest example.
CREATE TABLE bad_lines (
    source TEXT NOT NULL,            -- statsd, log
    reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    first_seen INTEGER NOT NULL,     -- epoch seconds
    last_seen INTEGER NOT NULL,
    example TEXT NOT NULL,           -- the newest one, cut to 200 characters
    PRIMARY KEY (source, reason)
) WITHOUT ROWID;

-- What the console says about itself, per minute: lines and packets received, bad lines, what the
-- kernel dropped in front of its sockets, what a locked file or a full disk cost.
CREATE TABLE receiver_stats (
    start INTEGER NOT NULL,
    name  TEXT NOT NULL,             -- statsd.lines, log.lines, statsd.kernel_drops, store.lost, …
    value REAL NOT NULL,
    PRIMARY KEY (start, name)
) WITHOUT ROWID;
"""  # noqa: S608  statements of ours, put together from constants of ours
