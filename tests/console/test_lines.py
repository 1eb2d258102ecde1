"""JSON log lines to rows."""

from __future__ import annotations

import json

import pytest

from introspect.console.lines import LONGEST_LINE, BadLineError, Log, Work, read_line
from tests.console.rows import NOON, read, record, request

STATEMENT = "SELECT id FROM shop_basket WHERE user_id = %s"


def test_canonical_line_becomes_work() -> None:
    """A canonical line gives its numbers, its exception and its events."""
    work = read(
        request(
            -1.5,
            db_ms=4.25,
            db_queries=3,
            exception={"class": "ValueError", "message": "no", "place": "shop/views.py:42"},
            slowest_query={"ms": 3.0, "name": "default.select", "statement": STATEMENT},
            events=[
                {
                    "offset_ms": 1.5,
                    "kind": "db",
                    "name": "default.select",
                    "ms": 3.0,
                    "statement": STATEMENT,
                },
                {
                    "offset_ms": 6,
                    "kind": "http",
                    "name": "billing",
                    "ms": 5,
                    "span_id": "00f067aa0ba902b7",
                    "status": 200,
                },
                {"offset_ms": 7, "kind": "cache", "name": "default.get", "ms": 1, "error": "E"},
            ],
            events_dropped=4,
            colour="green",
        )
    )

    assert isinstance(work, Work)
    assert work.values["id"] == (NOON * 1_000_000) - 1_500_000
    assert (work.values["db_ms"], work.values["db_queries"]) == (4.25, 3)
    assert work.values["exception_place"] == "shop/views.py:42"
    assert json.loads(work.values["slowest_query"])["statement"] == STATEMENT
    assert json.loads(work.values["extra"]) == {"colour": "green"}
    assert [(event.kind, event.offset_ms, event.ms, event.more) for event in work.events] == [
        ("db", 1.5, 3.0, {}),
        ("http", 6.0, 5.0, {"span_id": "00f067aa0ba902b7", "status": 200}),
        ("cache", 7.0, 1.0, {"error": "E"}),
    ]
    assert work.events_dropped == 4
    assert work.origin == "shop.views.basket"


def test_log_record_becomes_log() -> None:
    """A log record gives message, exception with its stack, and its extras."""
    log = read(
        record(
            level="error",
            exception={"class": "KeyError", "message": "'x'", "stack": "Traceback…"},
            extra={"items": 3, "who": {"id": 5}},
        )
    )

    assert isinstance(log, Log)
    assert (log.values["level"], log.values["logger"]) == ("ERROR", "shop.basket")
    assert (log.values["exception_class"], log.values["stack"]) == ("KeyError", "Traceback…")
    assert json.loads(log.values["extra"]) == {"items": 3, "who": {"id": 5}}


def test_application_cannot_pass_for_the_agent() -> None:
    """A record that has a field called kind, but another logger, is a log record."""
    assert isinstance(read(record(kind="request", duration_ms=1)), Log)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"rubbish", "not JSON"),
        (b'{"message": "x"', "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b'{"message": "x", "n": NaN}', "not JSON"),
        (b'{"message": "x", "n": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1, 2]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"{}", "neither a canonical line nor a log record with a message"),
        (b'{"message": 5}', "neither a canonical line nor a log record with a message"),
        (
            b'{"kind": "request", "logger": "introspect.request", "message": "x"}',
            "canonical line without its duration_ms",
        ),
        (
            b'{"kind": "task", "logger": "introspect.task", "duration_ms": -1}',
            "canonical line without its duration_ms",
        ),
        (b'{"message": "' + b"x" * LONGEST_LINE + b'"}', "longer than 1 MB"),
    ],
)
def test_line_is_refused_with_a_reason(line: bytes, reason: str) -> None:
    """What is no line of ours says why."""
    with pytest.raises(BadLineError, match=reason):
        read_line(line, NOON, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "200"),
        ("status", True),
        ("status", 1.5),
        ("status", 10**30),
        ("status", -1),
        ("db_ms", "4"),
        ("db_ms", 1e300),
        ("db_ms", None),
        ("view", ["a"]),
        ("view", {"a": 1}),
        ("pid", [1]),
        ("correlation_id", ""),
        ("correlation_id", False),
        ("exception", 5),
        ("slowest_query", "x"),
    ],
)
def test_field_of_the_wrong_type_is_left_out(field: str, value: object) -> None:
    """A field that makes no sense is NULL, and the rest of its line is kept."""
    work = read(request(**{field: value}))
    column = "exception_class" if field == "exception" else field

    assert work.values[column] is None
    assert work.values["path"] == "/basket/"


@pytest.mark.parametrize(
    "events",
    [
        5,
        "x",
        [5, None, "x"],
        [{"offset_ms": 1}],
        [{"offset_ms": 1, "ms": 1, "kind": "sleep"}],
        [{"offset_ms": "1", "ms": 1, "kind": "db"}],
        [{"offset_ms": 1, "ms": 1, "kind": ["db"]}],
    ],
)
def test_events_that_make_no_sense_are_left_out(events: object) -> None:
    """Odd events vanish; their line stays."""
    work = read(request(events=events))

    assert not work.events


def test_text_is_made_fit_for_sqlite() -> None:
    """NULs and lone surrogates are replaced, anything else stays as it was sent."""
    log = read(record(message="a\0b\ud800c\n<script>é中"))

    assert log.values["message"] == "a�b?c\n<script>é中"


def test_hostile_extras_stay_valid_json() -> None:
    """Extras that JSON or UTF-8 cannot express are kept readable."""
    line = b'{"message": "x", "extra": {"n": 1e999, "s": "\\ud800", "z": "\\u0000"}}'
    log = read_line(line, NOON, 0)

    assert isinstance(json.loads(log.values["extra"]), dict)
    log.values["extra"].encode()


def test_long_texts_are_cut() -> None:
    """A huge message, path or name is cut to a bounded length, and shows that it was."""
    log = read(record(message="x" * 500_000, logger="y" * 5_000))

    assert len(log.values["message"]) == 16_000
    assert log.values["message"].endswith("…")
    assert len(log.values["logger"]) == 300


@pytest.mark.parametrize("timestamp", ["2126-11-23T12:00:00Z", "1999-01-01T00:00:00Z", "soon", 5])
def test_wrong_clock_is_not_believed(timestamp: object) -> None:
    """A line from the far past or the future is put where it arrived; what it claimed is kept."""
    log = read(record(timestamp=timestamp))

    assert log.values["id"] == NOON * 1_000_000
    assert json.loads(log.values["extra"])["timestamp_claimed"] == str(timestamp)


@pytest.mark.parametrize(
    ("timestamp", "microseconds"),
    [
        ("2026-11-23T11:59:59.123456Z", -876_544),
        ("2026-11-23T11:59:59Z", -1_000_000),
        ("2026-11-23T12:59:59.500+01:00", -500_000),
        ("2026-11-23T11:59:59", -1_000_000),
    ],
)
def test_timestamps_are_exact(timestamp: str, microseconds: int) -> None:
    """Times are kept to the microsecond, in UTC unless they say otherwise."""
    assert read(record(timestamp=timestamp)).values["id"] - NOON * 1_000_000 == microseconds
