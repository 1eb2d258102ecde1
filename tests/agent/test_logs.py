"""What a log record becomes: always one line of valid JSON, never longer than allowed, never a secret."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import http
import json
import logging
import os
import sys
import time
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from introspect.agent import correlation, logs, metrics, settings, work
from introspect.agent.correlation import Inbound
from introspect.console import lines


def use(**environ: str) -> None:
    """Put settings in force, given as `LOG_FORMAT="ecs"`."""
    found, mistakes = settings.read({f"INTROSPECT_{name}": text for name, text in environ.items()})
    assert not mistakes
    logs.configure(found)


def record(message: object = "hello", *args: Any, **attributes: Any) -> logging.LogRecord:
    """Return a record as `Logger.makeRecord` makes it, `attributes` being the application's `extra`."""
    made = logging.LogRecord("shop", logging.INFO, "/srv/shop/views.py", 42, message, args, None)
    made.__dict__.update(attributes)
    return made


def line(made: logging.LogRecord) -> dict[str, Any]:
    """Return the JSON line of a record, which must be one line within bounds."""
    data = logs.line_of(made)
    assert data == logs.encode(logs.record_fields(made))
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1
    assert len(data) <= logs.LINE_BYTES
    parsed = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    assert isinstance(parsed, dict)
    return parsed


def _refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


class Untouchable:
    """An object of the application's whose every evaluation is a mistake."""

    def _touched(self, *_args: object) -> Any:
        raise AssertionError("an object of the application's was evaluated")

    __repr__ = __str__ = __bool__ = __len__ = __iter__ = __getattr__ = _touched
    __int__ = __float__ = __index__ = __format__ = __eq__ = __bytes__ = _touched
    __hash__ = object.__hash__


def test_fields_of_a_record() -> None:
    """A line has the moment, level, logger, message, place, thread, service, process and ID of its record."""
    use(ENV="production", VERSION="1.2")
    made = record("%s of %d", "Emma", 7, shelf=3)
    made.created = 1_700_000_000.25
    made.funcName = "sell"
    work.current.set(work.Work(Inbound("0123456789")))

    found = line(made)

    assert found["timestamp"] == "2023-11-14T22:13:20.250000Z"
    assert found["level"] == "INFO"
    assert found["logger"] == "shop"
    assert found["message"] == "Emma of 7"
    assert found["file"] == "views.py:42"
    assert found["function"] == "sell"
    assert found["thread"] == "MainThread"
    assert found["correlation_id"] == "0123456789"
    assert found["env"] == "production"
    assert found["version"] == "1.2"
    assert found["extra"] == {"shelf": 3}
    assert {"service", "host", "pid"} <= found.keys()


@pytest.mark.parametrize(
    "value",
    [
        Untouchable(),
        [Untouchable()],
        {"inner": Untouchable()},
        {Untouchable(): 1},
        ValueError(Untouchable()),
        type("Lazy", (Untouchable,), {})(),
        float("nan"),
        float("-inf"),
        10**30,
        b"\xff\x00bytes",
        "\ud800 lone",
        "x" * 10_000_000,
        {"k" * 100_000: "v" * 100_000},
        [["x" * 1024] * 60] * 60,
        {str(n): {str(m): {str(k): "x" for k in range(60)} for m in range(60)} for n in range(60)},
        collections.OrderedDict(a=1),
        object,
        lambda: None,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("place", ["extra", "argument", "dict argument", "message", "correlation"])
def test_hostile_values(value: Any, place: str) -> None:
    """Whatever an application puts in a record, its line is valid, bounded, and evaluates none of its objects."""
    made = {
        "extra": lambda: record(thing=value),
        "argument": lambda: record("%s and %d", value, value),
        "dict argument": lambda: record("%(thing)s", {"thing": value}),
        "message": lambda: record(value),
        "correlation": lambda: record(correlation_id=value),
    }[place]()

    found = line(made)

    assert found["logger"] == "shop"


def test_cyclic_extras_end() -> None:
    """A structure that contains itself is shown to a bounded depth."""
    cycle: dict[str, Any] = {"name": "cycle"}
    cycle["self"] = cycle
    ring: list[Any] = [1]
    ring.append(ring)

    found = line(record(cycle=cycle, ring=ring))

    assert found["extra"]["cycle"]["self"]["name"] == "cycle"
    assert found["extra"]["ring"][0] == 1


def test_plain_extras_are_kept() -> None:
    """Numbers, texts, dates, UUIDs, and lists and dictionaries of them, are shown as what they are."""
    identifier = uuid.UUID(int=5)

    found = line(
        record(
            a=1, b=2.5, c=True, d=None, e="text", f=dt.date(2024, 2, 29), g=decimal.Decimal("1.50"),
            h=identifier, i=[1, "two", (3,)], j={"k": {"l": 1}}, m=b"bytes",
        )
    )  # fmt: skip

    assert found["extra"] == {
        "a": 1, "b": 2.5, "c": True, "d": None, "e": "text", "f": "2024-02-29", "g": "1.50",
        "h": str(identifier), "i": [1, "two", [3]], "j": {"k": {"l": 1}}, "m": "bytes",
    }  # fmt: skip


class Colour(enum.IntEnum):
    """An enumeration as applications have them."""

    RED = 1


@pytest.mark.parametrize(
    ("message", "arguments", "expected"),
    [
        ("status %d", (http.HTTPStatus.OK,), "status 200"),
        ("colour %d", (Colour.RED,), "colour 1"),
        ("%.2f EUR", (decimal.Decimal("1.5"),), "1.50 EUR"),
        ("%d items", (10**30,), f"{10**30} items"),
        ("%s", (ValueError("too late"),), "too late"),
        ("%r", ("text",), "'text'"),
        ("%(a)s %(b)05.1f", ({"a": "x", "b": 2.25},), "x 002.2"),
        ("100%", (), "100%"),
        ("no placeholder", ("surplus",), "no placeholder ['surplus']"),
        ("%d", ("word",), "%d ['word']"),
    ],
)
def test_messages_are_formatted(message: str, arguments: tuple[Any, ...], expected: str) -> None:
    """A message of plain values is formatted as logging would; a mistaken one shows its arguments behind it."""
    assert line(record(message, *arguments))["message"] == expected


def test_atoms_of_an_access_log_are_found_whatever_their_case() -> None:
    """Gunicorn's arguments are a dictionary that answers `{X-Foo}i` in lower case, and `-` for what it lacks."""

    class Atoms(dict[str, str]):
        pass

    made = record("%(h)s %({X-Foo}i)s %({Nope}o)s", Atoms({"h": "1.2.3.4", "{x-foo}i": "bar"}))

    assert line(made)["message"] == "1.2.3.4 bar -"


@examples(deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.text(max_size=20),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.binary(),
            lambda children: (
                st.lists(children) | st.dictionaries(st.text() | st.integers(), children)
            ),
            max_leaves=30,
        ),
        max_size=10,
    ),
    st.text() | st.binary(),
    st.sampled_from(["json", "ecs", "logstash"]),
)
def test_any_extra_any_format(extra: dict[str, Any], message: Any, form: str) -> None:
    """Any structure of plain values makes a valid, bounded line in each format."""
    use(LOG_FORMAT=form)
    made = record(message)
    for key, value in extra.items():
        made.__dict__.setdefault(key, value)

    line(made)


@pytest.mark.parametrize("form", ["json", "ecs", "logstash"])
def test_oversized_lines_are_cut_with_a_mark(form: str) -> None:
    """A line that would be too long is cut, says so, and keeps its moment, level, place and message."""
    use(LOG_FORMAT=form)
    made = record("\x01" * 9000, **{f"field{n}": "\x02" * 2000 for n in range(60)})

    found = line(made)

    text = json.dumps(found, ensure_ascii=False)
    assert logs.CUT in text
    assert found.get("timestamp", found.get("@timestamp"))[-1] == "Z"
    assert found["message"].startswith("\x01")
    if form == "ecs":
        assert found["log.origin.file.line"] == 42


@pytest.mark.parametrize(
    ("form", "key"), [("json", "extra"), ("logstash", "extra"), ("ecs", "introspect")]
)
def test_extras_that_are_too_long_even_when_cut_leave_a_mark(form: str, key: str) -> None:
    """In place of extras that no cutting makes short enough is an object that says so, and all else is whole."""
    use(LOG_FORMAT=form)

    found = line(record("hello", **{f"field{n}": "\x02" * 128 for n in range(50)}))

    assert found[key] == {logs.CUT: logs.CUT}
    assert found["message"] == "hello"
    few = line(record("hello", shelf=3))
    assert found.keys() == few.keys()
    assert type(found[key]) is type(few[key])


def test_the_mark_of_extras_reaches_the_console() -> None:
    """The console keeps the mark in the place of a record's extras, as it keeps extras."""
    made = record("hello", **{f"field{n}": "\x02" * 128 for n in range(50)})

    read = lines.read_line(logs.line_of(made), made.created, 0)

    assert json.loads(read.values["extra"]) == {logs.CUT: logs.CUT}


@pytest.mark.parametrize(
    "name",
    ["password", "API_KEY", "csrf_token", "HTTP_COOKIE", "Authorization", "aws_secret", "signature",
     "session_id", "passphrase"],
)  # fmt: skip
def test_secrets_are_masked_by_name(name: str) -> None:
    """What Django's error pages would hide by its name is hidden in extras, however deep."""
    found = line(record(**{name: "hunter2"}, inner={"deep": {name: "hunter2"}}))

    assert "hunter2" not in json.dumps(found)
    assert found["extra"][name] == logs.MASK


def test_every_name_that_django_hides_is_hidden() -> None:
    """The names that this version of Django hides are a part of ours."""
    debug = pytest.importorskip("django.views.debug")
    pattern = debug.SafeExceptionReporterFilter.hidden_settings.pattern

    assert all(logs.is_secret(word) for word in pattern.split("|"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://bob:hunter2@example.org/x", "see https://example.org/x"),
        ("postgres://u:p@ss@host/db", "postgres://host/db"),
        ("redis://:hunter2@host:6379/0,redis://b:hunter2@host", "redis://host:6379/0,redis://host"),
        ("GET /search?q=hunter2 HTTP/1.1", "GET /search HTTP/1.1"),
        ("GET /search?hunter2 HTTP/1.1", "GET /search HTTP/1.1"),
        ("GET /search??token=hunter2 HTTP/1.1", "GET /search HTTP/1.1"),
        ("GET /a?b=c?d=hunter2 HTTP/1.1", "GET /a HTTP/1.1"),
        ('"GET /s?q=\\"hunter2\\" HTTP/1.1" 200', '"GET /s HTTP/1.1" 200'),
        ('referer "https://x.org/?key=hunter2" agent', 'referer "https://x.org/" agent'),
        ("fetched 'http://h/p?a=hunter2', retrying", "fetched 'http://h/p', retrying"),
        ("http://h/p?a=hunter2#frag", "http://h/p"),
        ("really? yes=no", "really? yes=no"),
        ("what is 1+1=? two", "what is 1+1=? two"),
        ("bob@example.org wrote", "bob@example.org wrote"),
        ("https://medium.com/@bob/x", "https://medium.com/@bob/x"),
        ("'mailto:bob@example.org' \"cc:ann@x.org\"", "'mailto:bob@example.org' \"cc:ann@x.org\""),
        ("from 'ssh:git@github.com:x'", "from 'ssh:git@github.com:x'"),
        ("Invalid URL 'bob:hunter2@host': No scheme", "Invalid URL 'host': No scheme"),
        ("were found for 'bob:hunter2@host'", "were found for 'host'"),
        ("nonnumeric port: 'hunter2@host'", "nonnumeric port: 'host'"),
        ("int() with base 10: 'hunter2@host'", "int() with base 10: 'host'"),
    ],
)
def test_urls_lose_credentials_and_query_strings(text: str, expected: str) -> None:
    """A URL is shown without credentials and query string, wherever it stands."""
    assert logs.scrubbed(text) == expected
    assert line(record(text))["message"] == expected
    assert line(record("%s", text))["message"] == expected
    assert line(record(note=text))["extra"]["note"] == expected


@pytest.mark.parametrize("padding", range(8170, 8200))
def test_a_cut_does_not_uncover_credentials(padding: int) -> None:
    """Where the cut falls into a URL's credentials, no half of them is shown."""
    text = "x" * padding + " https://bob:hunter2@example.org/ " + "y" * 9000

    found = line(record("%s", text, note=text[7100:]))

    assert "hunt" not in json.dumps(found)
    assert "nter2" not in json.dumps(found)


@pytest.mark.parametrize(
    "path", ["/" * 8000, "/a?" * 2600, "?=" * 4000, "://" * 2600 + "@", "http://" + "a:" * 4000]
)
def test_scrubbing_takes_linear_time(path: str) -> None:
    """No path that a client may send makes scrubbing slow."""
    started = time.thread_time()
    for _ in range(10):
        logs.scrubbed(f"Not Found: {path} ? = @ ://")

    assert (time.thread_time() - started) / 10 < 0.05


def raised(error: BaseException) -> logging.LogRecord:
    """Return the record of an error that has been raised."""
    made = record("failed")
    try:
        raise error
    except BaseException:
        made.exc_info = sys.exc_info()
    return made


def test_an_exception_is_shown() -> None:
    """Class, message and stack of an exception are shown, and the exceptions that caused it."""

    def cause() -> None:
        try:
            raise KeyError("isbn")
        except KeyError as error:
            raise ValueError("no such book") from error

    made = record("failed")
    try:
        cause()
    except ValueError:
        made.exc_info = sys.exc_info()

    exception = line(made)["exception"]

    assert exception["class"] == "ValueError"
    assert exception["message"] == "no such book"
    assert exception["stack"].index("KeyError: 'isbn'") < exception["stack"].index("ValueError: no")
    assert 'raise KeyError("isbn")' in exception["stack"]


def recurse(depth: int) -> None:
    """Raise from far down."""
    if depth:
        recurse(depth - 1)
    else:
        raise RecursionError("deep")


def test_deep_and_long_exceptions_are_bounded() -> None:
    """Of a deep recursion the innermost frames are shown, of a long chain the first causes."""
    made = record("failed")
    chained: BaseException = ValueError("first")
    for number in range(100):
        following = ValueError(f"number {number}")
        following.__cause__ = chained
        chained = following
    chained.__cause__.__cause__.__cause__ = chained  # type: ignore[union-attr]
    try:
        recurse(900)
    except RecursionError as error:
        error.__cause__ = chained
        made.exc_info = sys.exc_info()

    stack = line(made)["exception"]["stack"]

    assert stack.endswith("RecursionError: deep")
    assert stack.count("Traceback") <= logs.CHAIN


class HostileError(Exception):
    """An exception that must not be asked for its text."""

    def __str__(self) -> str:
        raise AssertionError("an exception of the application's was evaluated")

    __repr__ = __str__


class Name:
    """A file's name as an object of the application's."""

    def __fspath__(self) -> str:
        return "/nowhere/at/all"

    def __repr__(self) -> str:
        raise AssertionError("a file name of the application's was evaluated")


def test_exceptions_are_not_evaluated() -> None:
    """An exception with a text of its own making, or with objects in it, is shown by its class."""
    missing: OSError
    try:
        open(Name())  # noqa: SIM115
    except OSError as error:
        missing = error
    missing.filename = Name()

    for error in (HostileError(), ValueError(Untouchable()), missing):
        exception = line(raised(error))["exception"]

        assert exception["class"] == type(error).__qualname__
        assert exception["message"] in ("", "[Errno 2] No such file or directory")


def test_exc_info_of_any_kind() -> None:
    """A record made elsewhere, whose `exc_info` is not what logging makes of it, still makes a line."""
    for odd in (True, (None, None, None), (ValueError, None, None), ()):
        made = record()
        made.exc_info = odd  # type: ignore[assignment]

        assert line(made)["message"] == "hello"


def test_the_text_of_the_applications_handlers_is_used() -> None:
    """Where a handler has formatted the record, its text is taken: nothing is evaluated twice."""
    made = record("%s", Untouchable())
    made.message = "formatted"
    made.exc_info = (ValueError, ValueError("x"), None)
    made.exc_text = "formatted traceback"

    found = line(made)

    assert found["message"] == "formatted"
    assert found["exception"]["stack"] == "formatted traceback"


def test_the_applications_own_correlation_id() -> None:
    """`extra={"correlation_id": …}` by the application is what its line shows."""
    work.current.set(work.Work(Inbound("0123456789")))

    assert line(record(correlation_id="mine"))["correlation_id"] == "mine"
    assert line(record(correlation_id=uuid.UUID(int=1)))["correlation_id"] == str(uuid.UUID(int=1))
    assert line(record(correlation_id=None))["correlation_id"] == "0123456789"


def test_outside_any_unit() -> None:
    """Outside any unit of work a line shows a dash."""
    assert line(record())["correlation_id"] == correlation.NONE


def test_ecs() -> None:
    """In the Elastic Common Schema, what it has a name for bears that name, the rest is in a field of ours."""
    use(LOG_FORMAT="ecs", ENV="production", VERSION="7")
    made = raised(ValueError("odd"))
    made.__dict__["shelf"] = 3

    found = line(made)

    assert found["ecs.version"].startswith("8.")
    assert found["@timestamp"].endswith("Z")
    assert found["log.level"] == "INFO"
    assert found["log.logger"] == "shop"
    assert found["message"] == "failed"
    assert found["log.origin.file.name"] == "views.py"
    assert found["log.origin.file.line"] == 42
    assert found["service.environment"] == "production"
    assert found["service.version"] == "7"
    assert found["trace.id"] == "-"
    assert found["error.type"] == "ValueError"
    assert found["error.message"] == "odd"
    assert "ValueError: odd" in found["error.stack_trace"]
    assert found["introspect"]["extra"] == {"shelf": 3}
    assert not {"timestamp", "level", "logger", "exception"} & found.keys()


@pytest.mark.parametrize("log_format", ["json", "ecs", "logstash"])
def test_the_moment_of_a_line(log_format: str) -> None:
    """In each form, the moment of a record can be read back from its line, whatever else that says."""
    use(LOG_FORMAT=log_format)
    for created in (1.5, 1_700_000_000.25, 1_700_000_000.123456, 4_000_000_000.000001):
        made = record('"timestamp":"2000-01-01T00:00:00.000000Z"', created=created)

        assert logs.moment_of(logs.line_of(made)) == created
    assert (
        logs.moment_of(b'{"message":"\\"timestamp\\":\\"2000-01-01T00:00:00.000000Z\\""}\n') is None
    )


def test_logstash() -> None:
    """In logstash's form a line has `@timestamp` and `@version`."""
    use(LOG_FORMAT="logstash")

    found = line(record())

    assert found["@timestamp"].endswith("Z")
    assert found["@version"] == "1"
    assert found["logger_name"] == "shop"
    assert found["message"] == "hello"
    assert found["level"] == "INFO"
    assert "timestamp" not in found


class Sealed(Untouchable):
    """An object of the application's that may not even be looked up."""

    __hash__ = Untouchable._touched


class Text(str):
    """A text of the application's own kind."""

    __slots__ = ()
    __str__ = __repr__ = __eq__ = __hash__ = __format__ = Untouchable._touched


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=()), max_size=8)
    | st.sampled_from(
        [
            "\0", "%", "%s", "%(a)s", "%%", '"', "\\", "\\u0000", "}", "\n", "\x7f", "\u2028", "é", "\ud800",
            "https://bob:hunter2@example.org/p?q=1", "GET /search?q=hunter2 HTTP/1.1", "x" * 1200,
            "y" * 9000,
        ]
    ),
    max_size=4,
).map("".join)  # fmt: skip
NUMBERS = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
ODD = st.none() | NUMBERS | st.builds(Sealed) | st.lists(TEXTS)


@examples(deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.fixed_dictionaries(
        {
            "msg": TEXTS | TEXTS.map(Text) | ODD,
            "args": st.lists(TEXTS | TEXTS.map(Text) | ODD, max_size=3).map(tuple),
            "created": st.floats(0, 5_000_000_000),
            "levelname": TEXTS | ODD,
            "name": TEXTS | TEXTS.map(Text) | ODD,
            "filename": TEXTS,
            "lineno": st.integers(-1, 10**9) | st.booleans(),
            "funcName": TEXTS | ODD,
            "threadName": TEXTS | ODD,
        },
        optional={"message": TEXTS, "correlation_id": TEXTS | ODD, "shelf": TEXTS | ODD, "%s": ODD},
    ),
    st.sampled_from(["json", "ecs", "logstash"]),
)
def test_a_template_is_filled_to_what_the_fields_make(values: dict[str, Any], form: str) -> None:
    """A line is the same by its call site's template, new or kept, as by its fields, whatever is in them."""
    made = record()
    made.__dict__.update(values)
    if type(made.lineno) is bool:
        form = "json"  # ecs wants a number
    use(LOG_FORMAT=form, ENV="100%s", VERSION='"7"')

    whole = logs.encode(logs.record_fields(made))

    assert logs.line_of(made) == whole
    assert logs.line_of(made) == whole


@pytest.mark.parametrize("form", ["json", "ecs", "logstash"])
def test_plain_records_are_written_by_template(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of a plain record is not made of its fields anew, one with `extra` only where it must be."""
    use(LOG_FORMAT=form)
    expected = [logs.line_of(record("%s of %d", "Emma", 7)), logs.line_of(record(shelf=3))]
    made_whole: list[object] = []
    fields = logs.record_fields
    monkeypatch.setattr(
        logs, "record_fields", lambda made: (made_whole.append(made), fields(made))[1]
    )

    again = [logs.line_of(record("%s of %d", "Emma", 7)), logs.line_of(record(shelf=3))]

    assert [json.loads(data).keys() for data in again] == [
        json.loads(data).keys() for data in expected
    ]
    assert len(made_whole) == (form == "ecs")


def test_templates_are_bounded() -> None:
    """However many call sites there are, and however long their names, few templates are kept."""
    for number in range(2 * logs.TEMPLATES_KEPT + 1):
        made = record()
        made.lineno = number
        logs.line_of(made)
    logs.line_of(record(name="n" * 100_000))

    assert len(logs._templates) <= logs.TEMPLATES_KEPT
    assert max(len("".join(kept)) for kept in logs._templates.values()) <= logs.TEMPLATE_TEXT + 2


def test_a_fork_and_a_late_name_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line names the process and the service as they are by then, not as at the call site's first record."""
    line(record())
    monkeypatch.setattr(os, "getpid", lambda: 4711)
    monkeypatch.setattr(metrics, "service", lambda: "named late")

    found = line(record())

    assert found["pid"] == 4711
    assert found["service"] == "named late"


def test_a_record_without_a_thread_name() -> None:
    """Where `logging.logThreads` is off, the thread is null."""
    made = record()
    made.threadName = None

    assert line(made)["thread"] is None
