"""`introspect demo`: the site runs, the table is true, and nothing is left behind."""

from __future__ import annotations

import contextlib
import math
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from introspect.bootstrap import demo, demo_statsd, demo_table, demo_traffic
from tests.helpers.ports import is_listening
from tests.helpers.processes import Running, clean_environment, running, script, wait_until
from tests.helpers.statsd import StatsdListener

BROWSE = "Ctrl-C ends"


@contextlib.contextmanager
def demonstration(folder: Path, *options: str) -> Iterator[Running]:
    """Run the demonstration with `folder` as its place for temporary files."""
    env = clean_environment(TMPDIR=str(folder), PYTHONUNBUFFERED="1")
    with running([script("introspect"), "demo", *options], env) as command:
        yield command


def relatives(folder: Path) -> list[psutil.Process]:
    """Return the processes whose place for temporary files is `folder`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(folder):
                found.append(process)
    return found


def addresses(text: str) -> list[tuple[str, int]]:
    """Return where the services say they listen."""
    found = re.findall(r"wsgi\s+http://([0-9.]+):([0-9]+)", text)
    return [(host, int(port)) for host, port in found]


def fetched(url: str) -> requests.Response:
    """Return the answer of a page on the loopback address, asked for without any proxy."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=90)


def chapters(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the units of work of a story as the console tells it; none until both are there."""
    found: list[dict[str, Any]] = (answer["story"] or {}).get("chapters", [])
    return found if len(found) == 2 else []


# What a visit to a path is named after; nobody has a view for the others.
VIEWS = {
    r"/": "front_views_index",
    r"/books/\d+/": "front_views_BookDetail",
    r"/books/\d+/buy/": "front_views_buy",
    r"/search/\?.*": "front_views_search",
    r"/report/": "front_views_report",
    r"/coupon/\?.*": "front_views_coupon",
    r"/staff/": "front_views_staff",
}


def view_of(path: str) -> str:
    """Return the name under which a visit to `path` counts."""
    return next((view for form, view in VIEWS.items() if re.fullmatch(form, path)), "unresolved")


TIMES = ["count", "mean ms", "p95 ms", "total ms"]

Table = dict[tuple[str, ...], dict[str, float]]


def tables(text: str) -> dict[str, Table]:
    """Return each table of the report by its title: its numbers by its rows' names and by column."""
    found: dict[str, Table] = {}
    for section in text.split("\n\n"):
        lines = section.splitlines()
        if set("".join(lines[1:2])) != {"─"}:
            continue
        title, *columns = re.split(" {2,}", lines[0])
        found[title] = {}
        for row in lines[2:]:
            cells = re.split(" {2,}", row)
            names, numbers = cells[: -len(columns)], cells[-len(columns) :]
            values = [float(number.replace(",", "")) for number in numbers]
            found[title][tuple(names)] = dict(zip(columns, values, strict=True))
    return found


def counts(table: Table, service: str) -> dict[tuple[str, ...], float]:
    """Return the counts of one service's rows."""
    return {names[1:]: row["count"] for names, row in table.items() if names[0] == service}


def assert_nothing_left(folder: Path, command: Running) -> None:
    """Assert that no process, file or port of the demonstration remains."""
    assert relatives(folder) == []
    assert list(folder.iterdir()) == []
    assert not any(is_listening(host, port) for host, port in addresses(command.stdout))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Running]]:
    """Give a demonstration that has ended by itself, and its place for temporary files."""
    folder = tmp_path_factory.mktemp("demo")
    with demonstration(folder, "--once") as command:
        assert command.wait(120) == 0, command.report()
        yield folder, command


class TestOnce:
    """`introspect demo --once` from its start to its end."""

    def test_nothing_is_left(self, finished: tuple[Path, Running]) -> None:
        """Processes, temporary folder and ports are gone, and nobody complained."""
        folder, command = finished

        assert len(addresses(command.stdout)) == 2
        assert_nothing_left(folder, command)
        assert command.stderr == ""

    @pytest.mark.parametrize(
        ("title", "row"),
        [
            ("Requests", f"front {len(demo_traffic.VISITS)}"),
            ("Views, by method", "front front_views_BookDetail GET 13"),
            ("Views, by method", "front unresolved GET 2"),
            ("Views, by method", "back back_views_reserve POST 4"),
            ("Database, by alias and verb", "back default update 3"),
            ("Templates", "front front_newsletter_txt 30"),
            ("Outgoing calls, by host", "front 127_0_0_1"),
            ("Exceptions, by class and view", "front ValueError front_views_coupon 2"),
            ("Exceptions, by class and view", "back ValueError back_views_reserve 1"),
            ("Responses, by status", "front 404 3"),
            ("Responses, by status", "front 500 3"),
        ],
    )
    def test_table_is_true(self, finished: tuple[Path, Running], title: str, row: str) -> None:
        """Each kind of thing that the visitors did stands in its table, as often as they did it."""
        _, command = finished
        table = next(part for part in command.stdout.split("\n\n") if part.startswith(title))
        rows = [" ".join(line.split()) for line in table.splitlines()]

        assert any(line == row or line.startswith(f"{row} ") for line in rows), table

    @pytest.fixture
    def report(self, finished: tuple[Path, Running]) -> dict[str, Table]:
        """The tables that a real run has printed."""
        return tables(finished[1].stdout)

    def test_tables_and_columns(self, report: dict[str, Table]) -> None:
        """What is timed stands with count, mean, 95th percentile and total, what is counted with its count."""
        columns = {title: {tuple(row) for row in table.values()} for title, table in report.items()}

        assert columns == {
            "Requests": {tuple(TIMES)},
            "Views, by method": {tuple(TIMES)},
            "Database, by alias and verb": {tuple(TIMES)},
            "Templates": {tuple(TIMES)},
            "Outgoing calls, by host": {tuple(TIMES)},
            "Cache, by alias and operation": {tuple(TIMES)},
            "Commands": {tuple(TIMES)},
            "Exceptions, by class and view": {("count",)},
            "Responses, by status": {("count",)},
        }

    def test_counts_are_those_of_the_visits(self, report: dict[str, Table]) -> None:
        """Every visit is counted, once, under its view, status and exception, with what it has caused."""
        visits = demo_traffic.VISITS
        views = Counter((view_of(visit.path), visit.method) for visit in visits)
        statuses = Counter((str(visit.status),) for visit in visits)
        sold = sum(view_of(visit.path) == "front_views_buy" for visit in visits)
        sold_out = statuses["500",] - 2  # two are coupons
        written = counts(report["Database, by alias and verb"], "front")
        written_back = counts(report["Database, by alias and verb"], "back")
        asked_back = counts(report["Requests"], "back")
        rendered = counts(report["Templates"], "front")
        exceptions = counts(report["Exceptions, by class and view"], "front")

        assert counts(report["Requests"], "front") == {(): len(visits)}
        assert counts(report["Views, by method"], "front") == views
        assert counts(report["Responses, by status"], "front") == statuses
        assert sum(exceptions.values()) == sum(visit.status >= 400 for visit in visits)
        assert counts(report["Outgoing calls, by host"], "front") == {
            ("127_0_0_1",): asked_back[()]
        }
        assert sum(counts(report["Views, by method"], "back").values()) == asked_back[()]
        assert written["default", "insert"] == sold - sold_out
        assert written["default", "select"] > len(visits)
        assert written_back["default", "begin"] == sold
        assert written_back["default", "update"] == written_back["default", "insert"]
        assert written_back["default", "update"] == sold - sold_out
        for number in (403, 404, 500):
            assert rendered[f"{number}_html",] == statuses[str(number),]
        pages = ("front_views_index", "GET"), ("front_views_search", "GET")
        assert rendered["front_index_html",] == sum(views[page] for page in pages)
        assert counts(report["Commands"], "front") == {("send_subscriptions",): 1}

    def test_times_are_plausible(self, report: dict[str, Table]) -> None:
        """Count, mean, percentile and total of each row can be those of one list of times, and add up."""
        half = 0.005 + 1e-9  # what two decimals leave out
        for names, row in (
            item for table in report.values() for item in table.items() if len(item[1]) > 1
        ):
            count, mean, p95, total = (row[column] for column in TIMES)
            assert total == pytest.approx(mean * count, abs=0.5 + half * count), names
            assert mean >= 0, names
            # So many values are at least as long as the percentile.
            longest = count - math.ceil(0.95 * count - 1e-9) + 1
            assert (p95 - half) * longest <= total + 0.5, names
            assert longest > 1 or p95 + half >= mean - half, names
        views = report["Views, by method"]
        for service in ("front", "back"):
            whole = report["Requests"][service,]["total ms"]
            parts = [row["total ms"] for names, row in views.items() if names[0] == service]
            assert sum(parts) == pytest.approx(whole, abs=0.5 * (len(parts) + 1))
        # The one view waits for the other, which takes its time.
        waiting, slow = (
            views["front", "front_views_report", "GET"],
            views["back", "back_views_audit", "GET"],
        )
        assert waiting["mean ms"] > slow["mean ms"] >= 1100
        queries = report["Database, by alias and verb"].values()
        assert (
            0 < sum(row["total ms"] for row in queries) < report["Requests"]["front",]["total ms"]
        )


class TestStory:
    """What `--once` tells of one request, of a command, and of an error."""

    @pytest.fixture
    def story(self, finished: tuple[Path, Running]) -> str:
        """What stands behind the tables."""
        return finished[1].stdout.partition("\nOne request, ")[2]

    @pytest.fixture
    def correlation_id(self, story: str) -> str:
        """The ID of the request that the story is about."""
        found = re.search(r"^X-Request-ID: ([0-9a-f-]{36})$", story, re.MULTILINE)
        assert found is not None
        return found[1]

    @pytest.mark.parametrize(
        "line",
        [
            "front INFO front: sold B004, order ",
            "front INFO gunicorn.access: POST /books/4/buy/ 302",
            "back INFO back: reserved B004",
            "back INFO gunicorn.access: POST /stock/B004/reserve/ 200",
        ],
    )
    def test_log_lines(self, story: str, correlation_id: str, line: str) -> None:
        """Both services' own lines and access lines are there, each once, with the ID."""
        (found,) = [told for told in story.splitlines() if line in told]

        assert found.endswith(f" {correlation_id}")

    @pytest.mark.parametrize(
        ("service", "path", "statement"),
        [
            ("front", "/books/4/buy/", 'INSERT INTO "front_order"'),
            ("back", "/stock/B004/reserve/", 'UPDATE "back_item"'),
        ],
    )
    def test_statements(
        self, story: str, correlation_id: str, service: str, path: str, statement: str
    ) -> None:
        """Of each database one statement is shown, with path and ID in front of it."""
        (found,) = [told for told in story.splitlines() if told.startswith(f"  {service:<5}  /*")]

        assert f"/* {path} {correlation_id} */ {statement}" in found

    def test_statement_of_the_command(self, story: str) -> None:
        """A statement of the management command says which it is, arguments included."""
        assert re.search(
            r"^  /\* manage.py send_subscriptions 1000 [0-9a-f-]{36} \*/ SELECT ",
            story,
            re.MULTILINE,
        )

    def test_error_pages(self, story: str) -> None:
        """A superuser's page names the exception, a visitor's does not."""
        assert "\n  visitors       Sorry\n  the superuser  ValueError at /coupon/\n" in story


class TestBrowsing:
    """Without `--once`, the services stay until a signal or their own end."""

    def test_links_and_interrupt(self, tmp_path: Path) -> None:
        """Site and console answer, the links lead to what they say, and Ctrl-C ends everything."""
        with demonstration(tmp_path) as command:
            wait_until(lambda: BROWSE in command.stdout, 120)
            assert all(is_listening(host, port) for host, port in addresses(command.stdout))
            links = re.findall(
                r"^  (?:overview|story|search).* (http\S+)$", command.stdout, re.MULTILINE
            )
            overview, story, search = links
            assert all(fetched(link).status_code == 200 for link in links)
            lines = wait_until(
                lambda: fetched(search.replace("/logs", "/-/data/logs")).json()["rows"]
            )
            assert {line["service"] for line in lines} == {"front", "back"}
            failed = wait_until(
                lambda: fetched(f"{overview}-/data/requests?q=coupon&status=5xx").json()["rows"]
            )
            assert failed[0]["exception_place"].startswith("front/views.py:")
            by_id = f"{overview}-/data/story?id={story.rpartition('/')[2]}"
            front, back = wait_until(lambda: chapters(fetched(by_id).json()))
            assert (front["title"], back["title"]) == ("GET /report/", "GET /audit/")
            assert back["parent"] == front["id"]
            command.signal(signal.SIGINT)

            assert command.wait() == 0
            assert_nothing_left(tmp_path, command)

    def test_termination_at_the_start(self, tmp_path: Path) -> None:
        """SIGTERM while the services start ends those that have, with the status that says so."""
        with demonstration(tmp_path) as command:
            wait_until(lambda: addresses(command.stdout), 60)
            command.signal(signal.SIGTERM)

            assert command.wait() == 128 + signal.SIGTERM
            assert_nothing_left(tmp_path, command)

    def test_reader_that_leaves(self, tmp_path: Path) -> None:
        """If nobody reads what is printed any more, everything ends, without a traceback."""
        env = clean_environment(TMPDIR=str(tmp_path), LC_ALL="C", PYTHONIOENCODING="ascii")
        with subprocess.Popen(
            [script("introspect"), "demo"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()

            assert process.wait(120) == 128 + signal.SIGPIPE
            assert process.stderr.read() == b""
        assert relatives(tmp_path) == []
        assert list(tmp_path.iterdir()) == []

    def test_service_that_dies(self, tmp_path: Path) -> None:
        """If a service ends, the demonstration says which and what it wrote, and ends the other."""
        with demonstration(tmp_path) as command:
            wait_until(lambda: BROWSE in command.stdout, 120)
            for process in relatives(tmp_path):
                with contextlib.suppress(psutil.NoSuchProcess):  # a worker ends with its master
                    if "back.wsgi" in process.cmdline():
                        process.terminate()

            assert command.wait() == 1
            assert "back.wsgi` ended with status 0; it wrote:" in command.stderr
            assert_nothing_left(tmp_path, command)


class TestMistakes:
    """What cannot work is said, with the remedy."""

    def test_unknown_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        """An unknown option is named, and the usage is shown."""
        assert demo.main(["--onse"]) == 2
        assert "unknown option --onse\n\nusage: introspect demo" in capsys.readouterr().err

    def test_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        """`--help` explains the command and starts nothing."""
        assert demo.main(["--help"]) == 0
        assert capsys.readouterr().out.startswith("usage: introspect demo [--once]")

    @pytest.mark.parametrize("missing", ["gunicorn", "django", "datasette"])
    def test_missing_requirement(self, missing: str) -> None:
        """Without Django or gunicorn, the extra that brings them is named."""
        code = (
            f"import sys; sys.modules[{missing!r}] = None\n"
            "from introspect.bootstrap import demo; sys.exit(demo.main(['--once']))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
        )

        assert done.returncode == 1
        assert done.stderr.startswith(f"introspect demo: {missing} not installed in ")
        assert done.stderr.endswith("pip install 'introspect-agent[demo]'\n")


class TestListener:
    """The demonstration's StatsD server."""

    @pytest.fixture
    def listener(self) -> Iterator[demo_statsd.Listener]:
        """A listener for two services."""
        with contextlib.closing(demo_statsd.Listener(("front", "back"))) as listening:
            yield listening

    def send(self, listener: demo_statsd.Listener, *lines: str) -> None:
        """Send one datagram and wait until it has been read."""
        host, port = listener.address.removeprefix("udp://").split(":")
        before = listener.datagrams
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto("\n".join(lines).encode(), (host, int(port)))
        wait_until(lambda: listener.datagrams > before)

    @pytest.mark.parametrize(
        ("line", "metric", "tags"),
        [
            ("front.request:1.5|ms", "request", ()),
            ("front.request.db:1.5|ms", "request.db", ()),
            ("front.view.shop_index.GET:1.5|ms", "view", ("shop_index", "GET")),
            ("back.db.default.select:1.5|ms", "db", ("default", "select")),
            ("back.db.connect.default:1.5|ms", "db.connect", ("default",)),
            ("front.http.status.shop_test.200:1|c", "http.status", ("shop_test", "200")),
            ("front.something.else:1|c", "something.else", ()),
        ],
    )
    def test_names(
        self, listener: demo_statsd.Listener, line: str, metric: str, tags: tuple[str, ...]
    ) -> None:
        """A name is taken apart into service, metric and tag values, even where names overlap."""
        self.send(listener, line)

        (measurement,) = listener.measurements()
        assert (measurement.metric, measurement.tags) == (metric, tags)

    def test_foreign_lines(self, listener: demo_statsd.Listener) -> None:
        """What is no line, or another service's, is left out; the rest of the datagram counts."""
        self.send(
            listener, "noise", "", "other.request:1|ms", "front.request:2|ms", "front.request:x|ms"
        )

        assert [one.value for one in listener.measurements()] == [2]

    def test_sampled_timings(self, listener: demo_statsd.Listener) -> None:
        """A timing sent at a rate stands for as many as the rate says, in count, mean and p95."""
        self.send(listener, "front.request:10|ms|@0.05", "front.request:100|ms")

        (series,) = listener.series("request")
        assert series.count == 21
        assert series.total == 300
        assert series.mean == pytest.approx(300 / 21)
        assert series.quantile(0.95) == 10
        assert series.quantile(0.96) == 100

    def test_handing_on(self, statsd: StatsdListener) -> None:
        """What arrives is handed on as it came, also when nothing is kept any more."""
        listener = demo_statsd.Listener(("front",), forward=(statsd.host, statsd.port))
        with contextlib.closing(listener):
            self.send(listener, "front.request:1|ms")
            listener.forget()
            host, port = listener.address.removeprefix("udp://").split(":")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"front.request:2|ms", (host, int(port)))
            statsd.wait_for_count("front.request", 2)

            assert statsd.values("front.request") == [1, 2]

    def test_forgetting(self) -> None:
        """After `forget`, however much arrives, nothing is kept."""
        listener = demo_statsd.Listener(("front",))
        self.send(listener, "front.request:1|ms")
        listener.forget()
        host, port = listener.address.removeprefix("udp://").split(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"front.request:1|ms", (host, int(port)))
        listener.close()  # reads first what has arrived before

        assert listener.measurements() == []


class TestTable:
    """The table that people read."""

    def test_columns_are_aligned(self) -> None:
        """Names stand to the left, numbers to the right, under their headings and a rule."""
        table = demo_table.aligned(
            "Views",
            ("count", "ms"),
            [("front", "a"), ("back", "long")],
            [("1", "10.25"), ("12", "3.00")],
        )

        assert table.splitlines() == [
            "Views                                        count        ms",
            "────────────────────────────────────────────────────────────",
            "front  a                                         1     10.25",
            "back   long                                     12      3.00",
        ]

    def test_no_rows_no_table(self) -> None:
        """What was not measured has no table."""
        assert demo_table.aligned("Mail", ("count",), [], []) == ""
