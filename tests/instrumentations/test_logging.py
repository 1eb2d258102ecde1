"""Every log record bears the ID, whoever makes it; every enabled one is shipped, whoever handles it."""

from __future__ import annotations

import http.server
import json
import logging
import logging.config
import logging.handlers
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from introspect.agent import work
from introspect.agent.correlation import Inbound
from tests.agent.test_outputs import in_process
from tests.helpers.processes import wait_until
from tests.instrumentations.conftest import Agent

Start = Callable[..., Any]

ID = "9110dbba-6dd9-4d1c-8828-11be81ac0561"


@pytest.fixture
def unit() -> Iterator[work.Work]:
    """A unit of work."""
    made = work.Work(Inbound(ID))
    work.current.set(made)
    yield made
    work.leave()


@pytest.fixture
def logger(request: pytest.FixtureRequest) -> Iterator[logging.Logger]:
    """A logger of the test's own, without handlers, and put back afterwards."""
    made = logging.getLogger(f"test.{request.node.name}")
    yield made
    for handler in made.handlers[:]:
        made.removeHandler(handler)
        handler.close()
    made.propagate, made.disabled = True, False
    made.setLevel(logging.NOTSET)


class Kept(logging.Handler):
    """A handler that keeps what it formats."""

    def __init__(self, form: str, style: str = "%") -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter(form, style=style))  # type: ignore[arg-type]

    def emit(self, record: logging.LogRecord) -> None:
        """Format and keep."""
        self.lines.append(self.format(record))


def lines_of(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file."""
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []


@pytest.mark.parametrize(
    ("form", "style"),
    [
        ("%(correlation_id)s %(service)s", "%"),
        ("{correlation_id} {service}", "{"),
        ("$correlation_id $service", "$"),
    ],
)
def test_format_strings(
    start_agent: Start, logger: logging.Logger, unit: work.Work, form: str, style: str
) -> None:
    """The ID and the service work in any format string, in a unit and outside one."""
    start_agent()
    handler = Kept(form, style)
    logger.addHandler(handler)
    logger.warning("inside")
    work.leave()
    logger.warning("outside")

    assert handler.lines == [f"{ID} test", "- test"]


def test_the_applications_own_extra(
    start_agent: Start, logger: logging.Logger, unit: work.Work
) -> None:
    """`extra={"correlation_id": …}` by the application does not raise, and counts."""
    start_agent()
    handler = Kept("%(correlation_id)s %(service)s")
    logger.addHandler(handler)
    logger.warning("mine", extra={"correlation_id": "mine", "service": "other"})
    logging.LoggerAdapter(logger, {"correlation_id": "adapted"}).warning("adapted")

    assert handler.lines == ["mine other", "adapted test"]


def test_record_factories_and_logger_classes(
    start_agent: Start, logger: logging.Logger, unit: work.Work
) -> None:
    """A record factory of the application's, and a logger class of its own, keep working."""
    start_agent()

    class Own(logging.Logger):
        def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802
            record = super().makeRecord(*args, **kwargs)
            record.own = True
            return record

    factory = logging.getLogRecordFactory()
    handler = Kept("%(correlation_id)s %(made)s %(own)s")

    def made(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        record.made = True
        return record

    logging.setLogRecordFactory(made)
    try:
        own = Own("test.own")
        own.addHandler(handler)
        own.warning("x")
    finally:
        logging.setLogRecordFactory(factory)

    assert handler.lines == [f"{ID} True True"]


def test_records_handled_in_another_thread(
    start_agent: Start, logger: logging.Logger, unit: work.Work
) -> None:
    """A record that a queue hands to another thread bears the ID of the place where it was made."""
    start_agent()
    handler = Kept("%(correlation_id)s")
    records: queue.Queue[logging.LogRecord] = queue.Queue()
    listener = logging.handlers.QueueListener(records, handler)
    logger.addHandler(logging.handlers.QueueHandler(records))
    listener.start()
    logger.warning("x")
    listener.stop()

    assert handler.lines == [ID]


def test_records_made_by_hand(
    start_agent: Start, logger: logging.Logger, unit: work.Work, tmp_path: Path
) -> None:
    """A record that no logger has made, as those that come over a socket, has the ID as well, unless it brings one."""
    start_agent(LOG=f"file://{tmp_path / 'log'}")
    handler = Kept("%(correlation_id)s %(service)s %(message)s")
    logger.addFilter(lambda record: hasattr(record, "correlation_id"))
    logger.addHandler(handler)
    plain = {"msg": "plain", "levelno": logging.INFO}
    logger.handle(logging.makeLogRecord(plain))
    logger.handle(logging.makeLogRecord({**plain, "correlation_id": "far-away", "service": "far"}))
    logger.handle(logging.LogRecord("by.hand", logging.INFO, "x.py", 1, "by hand", (), None))
    handler.handle(logging.makeLogRecord(plain))

    assert plain == {"msg": "plain", "levelno": logging.INFO}
    assert handler.lines == [
        f"{ID} test plain", "far-away far plain", f"{ID} test by hand", f"{ID} test plain",
    ]  # fmt: skip
    shipped = [line["correlation_id"] for line in lines_of(tmp_path / "log")]
    assert shipped == [ID, "far-away", ID]


@pytest.mark.parametrize(
    "make",
    [
        lambda logger: logger.makeRecord("x", 20, "x.py", 1, "made", (), None),
        lambda _: logging.LogRecord("x", 20, "x.py", 1, "made", (), None),
        lambda _: logging.getLogRecordFactory()("x", 20, "x.py", 1, "made", (), None),
    ],
)
def test_records_handed_straight_to_a_handler(
    start_agent: Start,
    logger: logging.Logger,
    unit: work.Work,
    make: Callable[[logging.Logger], logging.LogRecord],
) -> None:
    """A record that comes to a handler past any logger has the ID ahead of the handler's filters, and its own if it brings one."""
    agent = start_agent()
    handler = Kept("%(correlation_id)s %(service)s %(message)s")
    seen: list[str] = []
    handler.addFilter(lambda record: not seen.append(record.correlation_id))  # type: ignore[func-returns-value]
    brought, named = make(logger), make(logger)
    brought.correlation_id, named.service = "far-away", "far"
    for record in (make(logger), brought, named):
        assert handler.handle(record)

    assert handler.lines == [f"{ID} test made", "far-away test made", f"{ID} far made"]
    assert seen == [ID, "far-away", ID]
    assert agent.counts("log.") == {}


def test_handlers_take_what_they_took(start_agent: Start) -> None:
    """What a handler is called with, right or wrong, is judged by the handler, and a class's own `handle` is its own."""
    start_agent()
    handler = Kept("%(message)s")

    class Slotted:
        __slots__ = ()

    with pytest.raises(AttributeError, match="'Slotted' object has no attribute"):
        handler.handle(Slotted())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'record'"):
        handler.handle()  # type: ignore[call-arg]
    handler.handle(record=logging.makeLogRecord({"msg": "by name"}))
    assert handler.lines == ["by name"]
    assert logging.NullHandler.handle.__qualname__ == "NullHandler.handle"
    assert not hasattr(logging.NullHandler.handle, "__wrapped__")


def test_records_are_counted_by_level(agent: Agent, logger: logging.Logger) -> None:
    """Each record counts under its level; a level of the application's own counts as `_other`."""
    logger.setLevel(1)
    logger.debug("1")
    logger.info("2")
    logger.warning("3")
    logger.error("4")
    logger.critical("5")
    logger.log(25, "6")

    assert agent.counts("log.") == {
        "log.debug": 1, "log.info": 1, "log.warning": 1, "log.error": 1, "log.critical": 1,
        "log._other": 1,
    }  # fmt: skip


def test_what_is_shipped(
    start_agent: Start, logger: logging.Logger, unit: work.Work, tmp_path: Path
) -> None:
    """Every enabled record from the level up is shipped, once, with handlers or without."""
    file = tmp_path / "log"
    start_agent(LOG=f"file://{file}")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.debug("below the level")
    logger.info("nobody's handler")
    logger.addHandler(Kept("%(message)s"))
    logger.addHandler(Kept("%(message)s"))
    logger.warning("two handlers")
    logger.disabled = True
    logger.error("disabled")
    logger.disabled = False
    logger.addFilter(lambda record: "filtered" not in record.getMessage())
    logger.error("filtered")

    lines = lines_of(file)
    assert [line["message"] for line in lines] == ["nobody's handler", "two handlers"]
    assert {line["correlation_id"] for line in lines} == {ID}
    assert {line["service"] for line in lines} == {"test"}


def test_the_level(start_agent: Start, logger: logging.Logger, tmp_path: Path) -> None:
    """INTROSPECT_LOG_LEVEL says what is shipped, and nothing about the application's own handlers."""
    file = tmp_path / "log"
    start_agent(LOG=f"file://{file}", LOG_LEVEL="ERROR")
    handler = Kept("%(message)s")
    logger.addHandler(handler)
    logger.warning("too low")
    logger.error("high enough")

    assert [line["message"] for line in lines_of(file)] == ["high enough"]
    assert handler.lines == ["too low", "high enough"]


def test_a_handler_that_fails_does_not_keep_a_record_back(
    start_agent: Start, logger: logging.Logger, tmp_path: Path
) -> None:
    """A handler that raises raises as ever, and the record has been shipped."""
    file = tmp_path / "log"
    start_agent(LOG=f"file://{file}")

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise LookupError("in the handler")

    logger.addHandler(Broken())
    with pytest.raises(LookupError):
        logger.warning("still shipped")

    assert [line["message"] for line in lines_of(file)] == ["still shipped"]


def test_no_record_of_the_applications_asks_the_database(
    start_agent: Start, logger: logging.Logger, django: Callable[..., None], tmp_path: Path
) -> None:
    """Lazy queries and requests in extras and arguments are shown by their type; nothing is asked."""
    from django.contrib.auth.models import User
    from django.core.handlers.wsgi import WSGIRequest
    from django.utils.functional import SimpleLazyObject, lazystr

    from tests.instrumentations import handlers

    file = tmp_path / "log"
    agent = start_agent(LOG=f"file://{file}")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    users = User.objects.all()
    request = WSGIRequest(handlers.environ("/x/", QUERY_STRING="token=hunter2"))
    lazy = SimpleLazyObject(User.objects.get)

    logger.warning(
        "%s and %s", users, lazy,
        extra={"users": users, "request": request, "user": lazy, "text": lazystr("lazy")},
    )  # fmt: skip

    [line] = lines_of(file)
    assert line["message"].endswith("and <SimpleLazyObject>")
    assert line["extra"]["users"] == "<QuerySet>"
    assert line["extra"]["request"] == "<WSGIRequest>"
    assert "hunter2" not in json.dumps(line)
    assert not agent.counts("db.")


def test_stopped(start_agent: Start, logger: logging.Logger, tmp_path: Path) -> None:
    """Once the agent has stopped, records are what they were."""
    from introspect.bootstrap import start

    file = tmp_path / "log"
    start_agent(LOG=f"file://{file}")
    start.stop()
    record = logging.makeLogRecord({})
    logger.warning("not shipped")

    assert not hasattr(record, "correlation_id")
    assert not file.exists()


def test_format_strings_when_the_agent_is_off() -> None:
    """Off, the documented way, `defaults` of a formatter, keeps a format string from crashing."""
    code = """
import logging, logging.config
logging.config.dictConfig({
    "version": 1,
    "formatters": {"line": {"format": "%(correlation_id)s %(message)s", "defaults": {"correlation_id": "-"}}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stdout"}},
    "root": {"handlers": ["out"], "level": "INFO"},
})
logging.info("hello")
"""
    plain = code.replace(
        '"formatters": {"line": {"format"', '"formatters": {"line": {"()": logging.Formatter, "fmt"'
    )
    done = in_process(plain, INTROSPECT_ENABLED="0")

    assert done.stdout == "- hello\n", done.stderr


class _Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Take it."""
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))  # type: ignore[attr-defined]
        self.server.seen.append({name.lower() for name in self.headers})  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


def test_shipping_is_not_measured_and_ships_nothing_of_its_own(
    start_agent: Start, unit: work.Work, caplog: pytest.LogCaptureFixture
) -> None:
    """What we send to Splunk is no call of the application's, and urllib3's debug lines on it are not shipped, yet bear an ID."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    server.bodies, server.seen = [], []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    handler = Kept("%(correlation_id)s %(threadName)s %(message)s")
    urllib3 = logging.getLogger("urllib3")
    level = urllib3.level
    try:
        urllib3.setLevel(logging.DEBUG)
        urllib3.addHandler(handler)
        agent = start_agent(
            LOG=f"splunk+http://TOKEN@127.0.0.1:{server.server_address[1]}", LOG_LEVEL="DEBUG"
        )
        logging.getLogger("test.splunk").warning("the application's")
        wait_until(lambda: server.bodies)  # type: ignore[attr-defined]
        wait_until(lambda: any("POST" in line for line in handler.lines))
        counts = agent.counts()
    finally:
        urllib3.removeHandler(handler)
        urllib3.setLevel(level)
        server.shutdown()
        server.server_close()
        thread.join()

    bodies = b"".join(server.bodies)  # type: ignore[attr-defined]
    assert b"the application's" in bodies
    assert b"urllib3" not in bodies
    assert not any(name.startswith("http") for name in counts)
    assert counts.get("log.debug") is None
    assert all("x-request-id" not in names for names in server.seen)  # type: ignore[attr-defined]
    assert all(line.startswith("- introspect-log") for line in handler.lines)
