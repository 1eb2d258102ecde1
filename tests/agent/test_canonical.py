"""The canonical line, made from units of work as the instrumentations fill them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from introspect.agent import canonical, logs, outgoing, settings, work
from introspect.agent.canonical import EVENTS_SHOWN, Writer
from introspect.agent.correlation import Inbound, parse_traceparent
from introspect.agent.metrics import Series
from introspect.agent.work import Call, Query
from introspect.instrumentations import django_db, django_template
from tests.helpers.threads import run_at_once

ID = "9110dbba-6dd9-4d1c-8828-11be81ac0561"
SPAN = "b7ad6b7169203331"
PARENT = parse_traceparent(f"00-0af7651916cd43dd8448eb211c80319c-{SPAN}-01")

Record = Callable[..., dict[str, Any]]


@pytest.fixture
def line() -> Iterator[Record]:
    """Return the line of a unit: `line(fill, seconds=0.5, DETAIL="all")`, `fill` being called with it."""

    def made(
        fill: Callable[[work.Work], None] = lambda unit: None,
        seconds: float = 0.01,
        unit: Callable[[Inbound, str], work.Work] = work.Command,
        inbound: Inbound | None = None,
        **environ: str,
    ) -> dict[str, Any]:
        found, mistakes = settings.read({f"INTROSPECT_{k}": v for k, v in environ.items()})
        assert not mistakes
        written: list[bytes] = []
        writer = Writer(found, written.append)
        logs.configure(found)
        work.configure(writer.ended)
        made_unit = unit(inbound or Inbound(ID), "tell")
        fill(made_unit)
        made_unit.settle()
        made_unit.finish()
        writer.ended(made_unit, made_unit.started + seconds)
        [data] = written
        assert len(data) <= logs.LINE_BYTES
        parsed = json.loads(data)
        assert isinstance(parsed, dict)
        return parsed

    yield made
    work.configure(None)


def query(
    unit: work.Work, sql: str, seconds: float = 0.001, at: float = 0.0, error: str | None = None
) -> None:
    """Record a statement as `django_db` does."""
    series = django_db.QUERY.of("default", "select")
    sample(unit, series, seconds, at, Query(sql, False, error))


def sample(
    unit: work.Work, series: Series, seconds: float, at: float = 0.0, detail: Any = None
) -> None:
    """Record a call that began `at` seconds into the unit."""
    started = unit.started + at
    unit.samples.extend((series, started, started + seconds, detail))


def test_every_field(line: Record) -> None:
    """A line says when, who, what, how long, and what it was made of."""

    def fill(unit: work.Work) -> None:
        query(unit, "SELECT 1 FROM t", 0.002)
        query(unit, "SELECT 2 FROM u WHERE a = 'x'", 0.2)
        query(unit, "SELECT 1 FROM t", 0.003)
        sample(unit, django_template.TEMPLATE.of("a.html"), 0.004)
        sample(unit, outgoing.CALL.of("api"), 0.05, detail=Call(SPAN, 200, None))

    found = line(fill, 0.3, inbound=Inbound(ID, PARENT), ENV="test", VERSION="7")

    assert found["kind"] == "command"
    assert found["logger"] == "introspect.command"
    assert found["level"] == "INFO"
    assert found["correlation_id"] == ID
    assert found["parent_id"] == SPAN
    assert len(found["span_id"]) == 16
    assert found["timestamp"].endswith("Z")
    assert found["name"] == "tell"
    assert found["duration_ms"] == 300.0
    assert found["db_ms"] == 205.0
    assert found["db_queries"] == 3
    assert found["db_duplicates"] == 1
    assert found["template_ms"] == 4.0
    assert found["http_ms"] == 50.0
    assert found["http_calls"] == 1
    assert found["env"] == "test"
    assert found["version"] == "7"
    assert {"service", "host", "pid", "cpu_ms", "cache_hits", "cache_misses"} <= found.keys()
    assert found["slowest_query"] == {
        "ms": 200.0, "name": "default.select", "statement": "SELECT ? FROM u WHERE a = ?",
    }  # fmt: skip
    assert found["message"] == "command tell 300.0 ms"


@pytest.mark.parametrize(
    ("detail", "seconds", "failed", "query_seconds", "told"),
    [
        ("slow,error", 0.01, False, 0.001, False),
        ("slow,error", 2.0, False, 0.001, True),
        ("slow,error", 0.01, True, 0.001, True),
        ("slow,error", 0.01, False, 0.5, True),
        ("slow", 0.01, True, 0.001, False),
        ("error", 2.0, False, 0.5, False),
        ("all", 0.01, False, 0.001, True),
        ("off", 2.0, True, 0.5, False),
    ],
)
def test_which_lines_carry_their_events(
    line: Record, detail: str, seconds: float, failed: bool, query_seconds: float, told: bool
) -> None:
    """Events come with slow units, those of a slow statement, failed ones, all, or none."""

    def fill(unit: work.Work) -> None:
        query(unit, "SELECT 1", query_seconds)
        unit.failed = failed

    assert ("events" in line(fill, seconds, DETAIL=detail)) is told


def test_what_an_event_says(line: Record) -> None:
    """An event has its offset and duration, and what kind of call it was, without literals."""

    def fill(unit: work.Work) -> None:
        query(
            unit, "SELECT a FROM books_book WHERE b = 'hunter2'", 0.002, at=0.1, error="DataError"
        )
        sample(unit, django_template.TEMPLATE.of("a.html"), 0.004, at=0.2)
        call = Call(SPAN, None, "ConnectTimeout")
        sample(unit, outgoing.CALL.of("api"), 0.05, at=0.3, detail=call)

    statement, template, http = line(fill, DETAIL="all")["events"]

    assert statement == {
        "offset_ms": 100.0, "kind": "db", "name": "default.select", "ms": 2.0,
        "statement": "SELECT a FROM books_book WHERE b = ?", "table": "books_book",
        "error": "DataError",
    }  # fmt: skip
    assert template == {"offset_ms": 200.0, "kind": "template", "name": "a.html", "ms": 4.0}
    assert http == {
        "offset_ms": 300.0, "kind": "http", "name": "api", "ms": 50.0,
        "span_id": SPAN, "error": "ConnectTimeout",
    }  # fmt: skip


def test_events_of_any_text(line: Record) -> None:
    """Quotes, control characters, other scripts and what is no Unicode at all: the line stays JSON."""

    def fill(unit: work.Work) -> None:
        query(unit, "SELECT größe, \u65e5\u672c\x02 FROM t\ud800")
        series = django_template.TEMPLATE.of('a "quoted"\n\\name.html')
        sample(unit, series, 0.001)
        call = Call("00f067aa0ba902b7", None, 'Bad"Error')
        host = outgoing.CALL.of("example.org")
        sample(unit, host, 0.001, detail=call)

    statement, template, http = line(fill, DETAIL="all")["events"]

    assert statement["statement"] == "SELECT größe, \u65e5\u672c\x02 FROM t?"
    assert template["name"] == 'a "quoted"\n\\name.html'
    assert http["error"] == 'Bad"Error'


@pytest.mark.parametrize("count", [1, EVENTS_SHOWN, EVENTS_SHOWN + 1, 250, 5000])
def test_events_are_capped(line: Record, count: int) -> None:
    """The latest events are kept; how many are not is said."""

    def fill(unit: work.Work) -> None:
        for number in range(count):
            query(unit, f"SELECT c{number}", at=number / 1000)
            if number % work.SAMPLES_HELD == 0:
                unit.settle()

    found = line(fill, DETAIL="all")

    assert len(found["events"]) + found.get("events_dropped", 0) == count
    assert found["events"][-1]["statement"] == f"SELECT c{count - 1}"
    assert len(found["events"]) == min(count, EVENTS_SHOWN)
    assert found["db_queries"] == count


def test_events_too_long_for_a_line(line: Record) -> None:
    """Where the statements are long, the latest events that fit are whole, and the others are counted."""

    def fill(unit: work.Work) -> None:
        for number in range(100):
            query(unit, f"SELECT c{number}, {', '.join(f'column_{n}' for n in range(100))} FROM t")

    found = line(fill, DETAIL="all")

    assert len(found["events"]) > 15
    assert len(found["events"]) + found["events_dropped"] == 100
    assert found["events"][-1]["statement"].startswith("SELECT c99, column_0")
    assert all(logs.CUT not in event["statement"] for event in found["events"])


def test_the_slowest_query_is_remembered(line: Record) -> None:
    """The slowest statement is known however many come after it, and makes the unit slow."""

    def fill(unit: work.Work) -> None:
        query(unit, "SELECT slow", 0.7)
        for number in range(3000):
            query(unit, f"SELECT c{number % 10}")
            if number % work.SAMPLES_HELD == 0:
                unit.settle()

    found = line(fill)

    assert found["slowest_query"]["ms"] == 700.0
    assert found["slowest_query"]["statement"] == "SELECT slow"
    assert "events" in found
    assert found["db_duplicates"] == 3000 - 10


def test_the_slowest_query_of_several_threads(line: Record) -> None:
    """A faster statement does not take the place of one that another thread settles meanwhile."""

    def fill(unit: work.Work) -> None:
        class Statements(dict[str, int]):
            """Counts as the unit's own do, and lets another thread settle in between."""

            def __contains__(self, text: object) -> bool:
                if text == "SELECT fast2":
                    query(unit, "SELECT slow", 5.0)
                    run_at_once(unit.settle, 1)
                return super().__contains__(text)

        unit.statements = Statements()
        query(unit, "SELECT fast1", 0.01)
        query(unit, "SELECT fast2", 0.04)
        unit.settle()

    found = line(fill)

    assert found["slowest_query"]["statement"] == "SELECT slow"
    assert found["db_queries"] == 3


def test_what_is_kept_is_bounded(line: Record) -> None:
    """A unit that asks a million different things keeps a bounded number of them."""
    kept: list[int] = []

    def fill(unit: work.Work) -> None:
        for batch in range(10):
            for number in range(work.SAMPLES_HELD):
                query(unit, f"SELECT c{batch}_{number}")
            unit.settle()
        kept.extend((len(unit.statements), len(unit.events) // work.SAMPLE_ITEMS))

    line(fill, DETAIL="all")

    assert kept == [work.STATEMENTS_KEPT, work.EVENTS_KEPT]


def test_a_failed_unit(line: Record) -> None:
    """A failed unit's line is at ERROR, with the exception's class and place."""

    def fill(unit: work.Work) -> None:
        unit.failed = True
        unit.exception = {"class": "ValueError", "place": "app/views.py:42"}

    found = line(fill)

    assert found["level"] == "ERROR"
    assert found["exception"] == {"class": "ValueError", "place": "app/views.py:42"}


def burn(seconds: float) -> None:
    """Work for so long."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(1000))


def test_the_cpu_is_that_of_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cpu_ms` is what the unit's thread worked until its end, and nothing of the readings that ride along or of the sending."""
    found, _ = settings.read({})
    written: list[bytes] = []
    work.configure(Writer(found, written.append).ended)
    work.ride_along(lambda unit: burn(0.5))
    monkeypatch.setattr(work, "_next_readings", 0.0)
    unit = work.Command(Inbound(ID), "tell")
    burn(0.1)
    before = time.thread_time()

    unit.end(work.clock(), django_db.QUERY.of("a", "b"), django_db.QUERY.of("a", "c"), None)

    assert time.thread_time() - before > 0.5
    [line] = map(json.loads, written)
    assert 100 <= line["cpu_ms"] < 400


def test_the_cpu_of_a_unit_that_another_thread_ends() -> None:
    """What another thread has worked is not told as the unit's."""
    found, _ = settings.read({})
    written: list[bytes] = []
    work.configure(Writer(found, written.append).ended)
    unit = work.Work(Inbound(ID))
    unit.kind = "task"
    run_at_once(lambda: unit.finish() and unit.send(work.clock()), 1)

    [line] = map(json.loads, written)
    assert "cpu_ms" not in line


@pytest.mark.parametrize("muted", [True, False])
def test_without_a_line_no_cpu_is_read(muted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit that ends without a line, for there are none or it is to be ignored, costs no look at its thread's clock."""
    work.configure((lambda unit, ended: None) if muted else None)
    unit = work.Work(Inbound(ID))
    unit.thread = threading.get_ident()
    unit.muted = muted
    looked: list[float] = []
    monkeypatch.setattr(time, "thread_time", lambda: looked.append(0.0) or 0.0)
    unit.finish()

    assert not looked


def test_the_process_itself_has_no_line() -> None:
    """What belongs to no unit makes no line."""
    found, _ = settings.read({})
    written: list[bytes] = []
    Writer(found, written.append).ended(work.process(), 1.0)

    assert not written


@pytest.mark.parametrize("form", ["ecs", "logstash"])
def test_other_formats(line: Record, form: str) -> None:
    """In the other formats a line has the names that Elasticsearch and logstash know."""
    found = line(lambda unit: query(unit, "SELECT 1"), 0.25, LOG_FORMAT=form, DETAIL="all")

    assert found["@timestamp"].endswith("Z")
    if form == "ecs":
        assert found["event.duration"] == 250_000_000
        assert found["trace.id"] == ID
        assert len(found["span.id"]) == 16
        assert found["introspect"]["events"][0]["statement"] == "SELECT ?"
        assert found["introspect"]["db_queries"] == 1
    else:
        assert found["@version"] == "1"
        assert found["duration_ms"] == 250.0


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=()), max_size=8)
    | st.sampled_from(
        ["\0", "%s", "%%", '"', "\\u0000", "}", "\n", "\ud800", "/p?q=1", "x" * 9000]
    ),
    max_size=5,
).map("".join)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = TEXTS | st.none() | st.booleans() | NUMBERS


class Unit(work.Work):
    """A unit that says whatever it is told to."""

    def describe(self) -> dict[str, Any]:
        """Return what a test has put there."""
        return self.described


@examples(deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    described=st.dictionaries(st.sampled_from(["method", "path", "status", "name", "a%s"]), VALUES),
    kind=st.sampled_from(["request", "command", "task"]),
    correlation_id=TEXTS,
    inbound=st.sampled_from([None, PARENT]),
    failed=st.booleans(),
    exception=st.none() | st.fixed_dictionaries({"class": TEXTS, "place": TEXTS}),
    statements=st.lists(TEXTS, max_size=4),
    seconds=st.floats(0, 10),
    form=st.sampled_from(["json", "ecs", "logstash"]),
)
def test_a_template_is_filled_to_what_the_fields_make(
    described: dict[str, Any],
    kind: str,
    correlation_id: str,
    inbound: Any,
    failed: bool,
    exception: dict[str, str] | None,
    statements: list[str],
    seconds: float,
    form: str,
) -> None:
    """A line is the same by template, new or kept, as by its fields, whatever is in them."""
    found, _ = settings.read({"INTROSPECT_LOG_FORMAT": form, "INTROSPECT_DETAIL": "all"})
    logs.configure(found)
    written: list[bytes] = []
    writer = Writer(found, written.append)
    work.configure(writer.ended)
    unit = Unit(Inbound(correlation_id, inbound), "tell")
    unit.described, unit.kind, unit.failed, unit.exception = described, kind, failed, exception
    unit.cpu_seconds = 0.001
    for statement in statements:
        query(unit, statement)
    unit.settle()
    with pytest.MonkeyPatch.context() as patched:
        writer.ended(unit, unit.started + seconds)
        writer.ended(unit, unit.started + seconds)
        patched.setattr(canonical, "_line_by_template", lambda *_: None)
        writer.ended(unit, unit.started + seconds)
    work.configure(None)

    assert written[0] == written[1] == written[2]
    assert len(written[0]) <= logs.LINE_BYTES
    json.loads(written[0])
