"""The pages in a real browser: they open, draw, find, tell, and run nothing that came in as data."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from introspect.console.pipeline import Pipeline
from introspect.console.receive import bind_both, bind_udp
from introspect.console.say import Voice
from introspect.console.store import Store
from tests.console import generate
from tests.console.web.conftest import Console, Serve
from tests.helpers.processes import running, script, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

pytestmark = [
    pytest.mark.host_only,
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("CI") != "true", reason="no Chromium on this machine"
    ),
]

PAGES = (
    "/",
    "/metrics?metric=request",
    "/requests",
    "/logs",
    "/views",
    "/views?view=shop.views.search",
)


# One browser for this file, not for the session: while it lives, its event loop runs in this thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium with an empty profile."""
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """One tab, which fails the test if a page complains or asks another host for anything."""

    def __init__(
        self, browser: Browser, base: str, width: int = 1280, scheme: str = "light"
    ) -> None:
        self.base = base
        self.complaints: list[str] = []
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.page.on(
            "console",
            lambda message: self.complain(message.text) if message.type == "error" else None,
        )
        self.page.on("pageerror", lambda error: self.complain(str(error)))
        self.page.on(
            "request",
            lambda request: (
                None if request.url.startswith((base, "data:")) else self.complain(request.url)
            ),
        )

    def complain(self, text: str) -> None:
        """Note what must not happen."""
        self.complaints.append(text)

    def open(self, path: str) -> Page:
        """Open a page and wait until it has shown its data."""
        self.page.goto(self.base + path)
        self.page.wait_for_selector("#page[data-ready]", timeout=20_000)
        return self.page

    def close(self) -> None:
        """Close the tab and tell what it complained about."""
        self.context.close()
        assert self.complaints == []


@pytest.fixture
def visit(browser: Browser, shop: Console) -> Iterator[Visit]:
    """A tab on the shop's console."""
    with contextlib.closing(Visit(browser, shop.base)) as opened:
        yield opened


PAINTED = """canvas => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const colours = new Set();
  for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > 200) colours.add(`${pixels[i]},${pixels[i + 1]},${pixels[i + 2]}`);
  return colours.size;
}"""


COLOURED = """canvas => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let found = 0;
  for (let i = 0; i < pixels.length; i += 4) if (Math.max(...pixels.slice(i, i + 3)) - Math.min(...pixels.slice(i, i + 3)) > 60) found += 1;
  return found;
}"""


def colours_of_graphs(page: Page) -> list[int]:
    """How many different colours each graph on a page shows."""
    return [canvas.evaluate(PAINTED) for canvas in page.query_selector_all(".chart canvas")]


@pytest.mark.parametrize("path", PAGES)
def test_page_opens_and_draws(visit: Visit, path: str) -> None:
    """Each page opens without a complaint, asks no other host, and its graphs are painted."""
    page = visit.open(path)

    assert page.query_selector_all("main .card")
    assert page.query_selector(".banner") is None
    if path != "/views":
        graphs = colours_of_graphs(page)
        assert graphs
        assert max(graphs) > 5


def test_overview_tells_what_it_should(visit: Visit) -> None:
    """The first page has its numbers, its graphs, views, statements, templates, hosts and exceptions."""
    page = visit.open("/")
    text = page.inner_text("main")

    for title in ("Requests", "Response time", "Where the time goes", "Error rate", "Views", "Top statements",
                  "Top templates", "Top hosts called", "Top exceptions", "Waiting in front", "Memory", "CPU"):  # fmt: skip
        assert title in text
    for label in (
        "p50",
        "p95",
        "p99",
        "SQL",
        "templates",
        "outgoing calls",
        "cache",
        "the rest",
        "200",
        "404",
    ):
        assert label in page.inner_text(".grid")
    assert "shop.views.search" in text
    assert 'UPPER("shop_product"."name"' in text
    assert "billing" in text
    assert "HTTPError" in text
    assert page.query_selector_all("svg.spark path.line")


def test_deploys_are_marked_on_graphs(visit: Visit) -> None:
    """A graph shows when a version changed, and says which one under the cursor."""
    page = visit.open("/")
    mark = page.evaluate(
        "fetch('/-/data/overview?range=1h').then(r => r.json()).then(d => d.marks.find(m => m.title.includes('1.4.2')))"
    )
    assert mark
    x = page.evaluate(
        """at => { const box = document.querySelector('.u-over').getBoundingClientRect();
        const x = [...document.querySelectorAll('.chart')][0]; return [box.left, box.top, box.width, box.height]; }""",
        mark["time"],
    )
    seen = []
    for share in range(1, 100):
        page.mouse.move(x[0] + x[2] * share / 100, x[1] + x[3] / 2)
        tip = page.query_selector(".tip:not([hidden])")
        seen.append(tip.inner_text() if tip else "")
    assert any("1.4.2" in text for text in seen)
    assert any("req/s" in text for text in seen)


def test_range_and_service_go_along(visit: Visit) -> None:
    """The range and the service chosen on one page hold on the next one."""
    page = visit.open("/")
    page.click("[data-range='15m']")
    page.wait_for_url("**range=15m**")
    page.wait_for_selector("select[name=service]")
    page.select_option("select[name=service]", "billing")
    page.wait_for_url("**service=billing**")
    page.wait_for_selector("#page[data-ready]")
    page.click("nav a:text('Logs')")
    page.wait_for_selector("#page[data-ready]")

    assert "range=15m" in page.url
    assert "service=billing" in page.url
    assert page.input_value("select[name=service]") == "billing"
    assert "shop.checkout" not in page.inner_text("main")


def test_dragging_over_a_graph_zooms(visit: Visit) -> None:
    """Dragging over a graph leads to that stretch of time, once, which then stands still."""
    page = visit.open("/?range=1h")
    ways: list[str] = []
    page.expose_function("goes", lambda address: ways.append(address))  # noqa: PLW0108  no built-in will do
    page.evaluate("navigation.addEventListener('navigate', event => goes(event.destination.url))")
    box = page.query_selector(".u-over").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 50, steps=5)
    page.mouse.up()
    page.wait_for_url("**from=**")
    page.wait_for_selector("#page[data-ready]")

    assert ways == [page.url]
    assert page.is_disabled("#live")
    asked = dict(part.split("=") for part in page.url.partition("?")[2].split("&"))
    assert int(asked["to"]) - int(asked["from"]) == pytest.approx(3600 * 0.3, rel=0.1)


def test_metrics_are_searched_graphed_and_compared(visit: Visit) -> None:
    """Every name can be searched, graphed, split by its tags and compared with yesterday."""
    page = visit.open("/metrics")
    assert "Choose a metric" in page.inner_text("main")
    page.keyboard.press("/")
    page.keyboard.type("http stat")
    assert [
        anchor.inner_text().split("\n")[0] for anchor in page.query_selector_all(".names a")
    ] == ["http.status"]
    page.keyboard.press("Enter")
    page.wait_for_url("**metric=http.status**")
    page.wait_for_selector(".chart canvas")
    page.select_option("select[name=by]", "status")
    page.wait_for_url("**by=status**")
    page.wait_for_selector(".legend li")
    assert {"200", "500"} <= {item.inner_text() for item in page.query_selector_all(".legend li")}
    page.click("[data-before=day]")
    page.wait_for_url("**before=day**")
    page.wait_for_selector("#page[data-ready]")
    assert page.get_attribute("[data-before=day]", "aria-pressed") == "true"


def test_requests_are_found_and_sorted(visit: Visit) -> None:
    """Filters and heads of columns narrow and sort the list; a row leads to its story."""
    page = visit.open("/requests")
    page.fill("input[name=view]", "shop.views.checkout")
    page.select_option("select[name=status]", "5xx")
    page.wait_for_url("**status=5xx**")
    page.wait_for_selector("#page[data-ready]")
    page.click("[data-sort=duration_ms]")
    page.wait_for_url("**sort=duration_ms**")
    page.wait_for_selector("#page[data-ready]")
    rows = page.query_selector_all("table.data tbody tr")
    assert rows
    assert all("/checkout/" in row.inner_text() and "500" in row.inner_text() for row in rows)
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/story/**")
    page.wait_for_selector(".fall .row")


def test_story_shows_both_services(visit: Visit, failed_checkout: dict[str, Any]) -> None:
    """The story of a failed checkout: both services, the call between them, SQL, lines, the exception and its place."""
    page = visit.open(f"/story/{failed_checkout['correlation_id']}")
    units = [unit.inner_text() for unit in page.query_selector_all(".fall .unit")]
    order = page.evaluate(
        "[...document.querySelectorAll('.fall .row')].map(row => row.innerText.replace(/\\s+/g, ' '))"
    )

    assert len(units) == 2
    assert "front POST /checkout/" in " ".join(units[0].split())
    assert "billing POST /charge/" in " ".join(units[1].split())
    call = next(i for i, row in enumerate(order) if row.startswith("call billing.internal"))
    assert "billing" in order[call + 1]
    assert any("INSERT INTO" in row for row in order)
    assert any("Internal Server Error: /checkout/" in row for row in order)
    trouble = page.inner_text(".trouble")
    assert "HTTPError" in trouble
    assert "shop/payment.py:31" in trouble
    bars = page.evaluate(
        "[...document.querySelectorAll('.fall .unit')].map(u => { const b = u.querySelector('.span').getBoundingClientRect(); return [b.left, b.right]; })"
    )
    assert bars[0][0] < bars[1][0] < bars[1][1] <= bars[0][1] + 1
    page.click(".fall .row:has-text('INSERT INTO')")
    assert "RETURNING" in page.inner_text(".details")


def test_story_groups_what_repeats(visit: Visit, shop: Console) -> None:
    """Many runs of one statement stand in one row that says how many and how long in all."""
    row = shop.data("requests", view="shop.views.search")["rows"][0]
    page = visit.open(f"/story/{row['correlation_id']}")

    assert "12 \u00d7" in page.inner_text(".fall")
    assert "in all" in page.inner_text(".fall")


def test_unknown_story_says_what_to_do(visit: Visit) -> None:
    """An ID that nobody has heard of is no error."""
    page = visit.open("/story/00000000-0000-4000-8000-000000000000")

    assert "Nobody has heard of this ID" in page.inner_text("main")
    assert "INTROSPECT_LOG" in page.inner_text("main")


def test_search_finds_lines_and_leads_to_the_story(visit: Visit) -> None:
    """The search at the top of every page finds log lines; a line leads to its story; an ID pasted there, too."""
    page = visit.open("/")
    page.keyboard.press("/")
    page.keyboard.type("declined")
    page.keyboard.press("Enter")
    page.wait_for_url("**/logs?**q=declined**")
    page.wait_for_selector(".log")
    assert page.query_selector(".chart canvas")
    assert "ERROR" in page.inner_text(".facets")
    page.click(".log")
    assert {found.inner_text().lower() for found in page.query_selector_all(".details mark")} == {
        "declined"
    }
    assert "card declined by the bank" in page.inner_text(".details")
    identity = page.get_attribute(".log a", "title")
    page.click(".log a")
    page.wait_for_url(f"**/story/{identity}")
    page.fill("#jump", identity)
    page.press("#jump", "Enter")
    page.wait_for_selector("#page[data-ready]")
    assert page.url.endswith(identity)


def test_a_line_of_this_moment_is_on_the_time_line(
    browser: Browser, serve_pages: Serve, tmp_path: Path
) -> None:
    """The newest step of the time line above the logs has room for its bar."""
    path = tmp_path / "one.db"
    with contextlib.closing(Store(path)) as store:
        generate.fill(store, [generate.hostile(time.time())])
    with serve_pages(path) as console, contextlib.closing(Visit(browser, console.base)) as visit:
        page = visit.open("/logs?range=15m")
        page.wait_for_selector(".log")
        [canvas] = page.query_selector_all(".chart canvas")
        assert canvas.evaluate(COLOURED) > 20  # the bar: all else there is grey


def test_facets_narrow_the_lines(visit: Visit) -> None:
    """A click on a level or a logger keeps its lines alone; another click gives the rest back."""
    page = visit.open("/logs")
    page.click("[data-facet=level]:has-text('WARNING')")
    page.wait_for_url("**level=WARNING**")
    page.wait_for_selector(".log")
    assert {line.inner_text() for line in page.query_selector_all(".log .level")} == {"WARNING"}
    page.click("[data-facet=level][aria-pressed=true]")
    page.wait_for_url(lambda url: "level=" not in url)


def test_view_shows_heat_statements_templates_and_callers(visit: Visit) -> None:
    """One view's page has its heat map, statements with counts per request, templates and who calls it."""
    page = visit.open("/views")
    page.click("a:text('shop.views.search')")
    page.wait_for_selector(".chart canvas")
    page.wait_for_selector("text=Slowest requests")
    text = page.inner_text("main")
    assert "12 \u00d7" in text
    assert "shop/search.html" in text
    assert "From outside" in text
    page = visit.open("/views?view=billing.views.charge")
    assert "front · shop.views.checkout" in page.inner_text("main")


def test_hostile_data_stays_text(visit: Visit, shop: Console) -> None:
    """Markup in paths, lines, names, versions and SQL is shown as it came and never becomes part of the page."""
    identity = quote("0ddba11-<script>", safe="")
    view = quote(generate.HOSTILE, safe="")
    for path in ("/", "/requests?service=evil%3Cb%3E", "/logs?service=evil%3Cb%3E", "/logs?q=hacked", f"/story/{identity}",
                 "/views", f"/views?view={view}", f"/metrics?metric={view}", f"/metrics?metric=request&by={view}", f"/logs?q={view}"):  # fmt: skip
        page = visit.open(path)
        for row in page.query_selector_all(".log, .fall .row[role=button]")[:10]:
            row.click()
        assert page.evaluate("window.hacked") is None
        assert page.query_selector("main script, main img, main b") is None
    page = visit.open(f"/story/{identity}")
    assert "<script>window.hacked=1</script>" in page.inner_text("main")
    page = visit.open("/logs?service=evil%3Cb%3E")
    assert "<script>window.hacked=1</script>" in page.inner_text(".lines")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_sticks_out(
    browser: Browser, shop: Console, failed_checkout: dict[str, Any], width: int, scheme: str
) -> None:
    """At 400 and 1280 pixels, light and dark, no page is wider than the window, and text stands out from its ground."""
    with contextlib.closing(Visit(browser, shop.base, width, scheme)) as visit:
        for path in (*PAGES, f"/story/{failed_checkout['correlation_id']}"):
            page = visit.open(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            ground, ink = page.evaluate(
                "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            )
            assert abs(brightness(ground) - brightness(ink)) > 150
            assert (brightness(ground) < 100) == (scheme == "dark")


def brightness(colour: str) -> float:
    """The mean of a CSS colour's three parts, 0 to 255."""
    return sum(float(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")[:3]) / 3


def test_keys_lead_around(visit: Visit) -> None:
    """Letters go to pages, `?` lists the keys, digits choose the range."""
    page = visit.open("/")
    page.keyboard.press("?")
    assert "search" in page.inner_text("dialog")
    page.keyboard.press("Escape")
    # Both in one go: the second key is waited for a second and a bit.
    page.evaluate(
        "['g', 'r'].forEach(key => document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true })))"
    )
    page.wait_for_url("**/requests")
    page.wait_for_selector("#page[data-ready]")
    page.keyboard.press("3")
    page.wait_for_url("**range=6h**")


@pytest.mark.parametrize("path", ["/", "/metrics", "/requests", "/logs", "/views"])
def test_empty_console_says_what_to_do(browser: Browser, empty_console: Console, path: str) -> None:
    """Before anything came in, each page says which command sends something."""
    with contextlib.closing(Visit(browser, empty_console.base)) as visit:
        text = visit.open(path).inner_text("main")

        assert (
            "introspect-run gunicorn mysite.wsgi" in text
            or "introspect console gunicorn mysite.wsgi" in text
        )


def test_lost_console_is_said(browser: Browser, store: Store, serve_pages: Serve) -> None:
    """When the console has ended, the page that is still open says so and keeps what it showed."""
    with serve_pages(store.path) as console:
        visit = Visit(browser, console.base)
        page = visit.open("/")
    page.click("#live")
    page.click("#live")
    page.wait_for_selector(".banner")

    assert "Is it still running?" in page.inner_text(".banner")
    visit.context.close()


def test_live_pages_follow_what_is_received(
    browser: Browser, store: Store, serve_pages: Serve
) -> None:
    """What the receivers take in appears by itself: lines in the tail, numbers on the overview."""
    statsd = bind_udp("127.0.0.1", 0, "--statsd-port")
    log_udp, log_tcp = bind_both("127.0.0.1", 0, "--log-port")
    addresses = statsd.getsockname(), log_tcp.getsockname()
    with statsd, log_udp, log_tcp, serve_pages(store.path) as console:
        pipeline = Pipeline(store, statsd, log_udp, log_tcp, Voice())
        pipeline.start()
        try:
            shop = list(generate.Shop(time.time() - 5, 4, 30, all_events=True))
            generate.send(shop, *addresses)
            wait_for_rows(console)
            with contextlib.closing(Visit(browser, console.base)) as visit:
                page = visit.open("/logs?range=15m")
                page.click("#tail")
                line = shop[-1].lines[-1] | {
                    "timestamp": generate.rfc3339(time.time()),
                    "logger": "late",
                    "message": "the newest line of all",
                    "kind": None,
                }
                with socket.create_connection(addresses[1]) as stream:
                    stream.sendall(
                        json.dumps(
                            {name: value for name, value in line.items() if value is not None}
                        ).encode()
                        + b"\n"
                    )
                page.wait_for_selector(".log:has-text('the newest line of all')", timeout=10_000)
                assert "the newest line of all" in page.query_selector(".log").inner_text()
                page = visit.open("/")
                assert "req/s" in page.inner_text(".tiles")
                assert page.get_attribute("[data-range='15m']", "aria-pressed") == "true"
        finally:
            pipeline.stop()


def test_pages_show_what_the_demonstration_did(browser: Browser) -> None:
    """On the agent's own data, from the demonstration: its links open, and every page shows both of its services."""
    with running([script("introspect"), "demo"]) as demo:
        wait_until(lambda: "search for an error" in demo.stdout or demo.returncode is not None, 120)
        overview, story, search = (
            re.search(rf"^ *{name} +(http://\S+)$", demo.stdout, re.MULTILINE).group(1)
            for name in ("overview", "story of the slowest request", "search for an error")
        )
        base = overview.rstrip("/")
        with contextlib.closing(Visit(browser, base)) as visit:
            page = visit.open("/")
            assert "front.views." in page.inner_text("main")
            assert "back.views." in page.inner_text("main")
            assert max(colours_of_graphs(page)) > 5
            page = visit.open(story.removeprefix(base))
            assert len(page.query_selector_all(".fall .unit")) == 2
            assert "front → back" in page.inner_text(".facts-row")
            page = visit.open(search.removeprefix(base))
            assert page.query_selector(".log.ERROR")
            for path in (
                "/metrics?metric=view&by=view",
                "/requests",
                "/views",
                "/views?view=front.views.index",
            ):
                page = visit.open(path)
                assert "front" in page.inner_text("main")
                assert page.query_selector(".banner") is None
        demo.signal(signal.SIGINT)
        demo.wait(30)


def wait_for_rows(console: Console) -> None:
    """Wait until what was sent is in the file."""
    deadline = time.monotonic() + 20
    while not console.data("logs")["rows"] or not console.data("overview")["requests"]["count"]:
        assert time.monotonic() < deadline, "what was sent did not reach the file"
        time.sleep(0.1)
