"""The traffic of a small shop as its agents would report it: StatsD lines and JSON lines.

The same seed gives the same shop, requests and IDs; only the times move with `start`.  Two services:
`front` (a Django shop) calls `billing` at every checkout, so each checkout's story spans both.
"""

from __future__ import annotations

import json
import math
import random
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from introspect.console.batch import Batch
from introspect.console.lines import Work, read_line
from introspect.console.statsd import Aggregate

if TYPE_CHECKING:
    from introspect.console.store import Store

HOSTILE = "<script>window.hacked=1</script>\"'</title></script><img src=x onerror=window.hacked=1>"
"""What must never be more than text, wherever it appears."""

CART = 'SELECT "shop_cart"."id", "shop_cart"."user_id" FROM "shop_cart" WHERE "shop_cart"."user_id" = %s'
PRODUCT = 'SELECT "shop_product"."id", "shop_product"."name", "shop_product"."price" FROM "shop_product" WHERE "shop_product"."id" = %s'
PRODUCTS = 'SELECT "shop_product"."id", "shop_product"."name" FROM "shop_product" WHERE "shop_product"."active" = %s ORDER BY "shop_product"."rank" LIMIT %s'
SEARCH = 'SELECT "shop_product"."id" FROM "shop_product" WHERE UPPER("shop_product"."name"::text) LIKE UPPER(%s)'
SESSION = 'SELECT "django_session"."session_key", "django_session"."session_data" FROM "django_session" WHERE "django_session"."session_key" = %s'
USER = (
    'SELECT "auth_user"."id", "auth_user"."username" FROM "auth_user" WHERE "auth_user"."id" = %s'
)
ORDER = 'INSERT INTO "shop_order" ("user_id", "total", "created") VALUES (%s, %s, %s) RETURNING "shop_order"."id"'
STOCK = 'UPDATE "shop_stock" SET "left" = ("shop_stock"."left" - %s) WHERE "shop_stock"."product_id" = %s'
CHARGE = 'INSERT INTO "billing_charge" ("order_id", "amount", "state") VALUES (%s, %s, %s)'
ACCOUNT = 'SELECT "billing_account"."id", "billing_account"."limit" FROM "billing_account" WHERE "billing_account"."customer" = %s FOR UPDATE'


@dataclass(frozen=True)
class View:
    """One kind of request: how often, what it does, how long each part takes (median, ms)."""

    service: str
    name: str
    method: str
    path: str
    weight: float
    own_ms: float
    sql: tuple[tuple[str, float, int], ...] = ()
    template: str = ""
    template_ms: float = 0
    failures: float = 0
    calls: str = ""
    logger: str = ""


VIEWS = (
    View(
        "front",
        "shop.views.home",
        "GET",
        "/",
        22,
        4,
        ((SESSION, 0.5, 1), (PRODUCTS, 3, 1)),
        "shop/home.html",
        6,
    ),
    View(
        "front",
        "shop.views.product",
        "GET",
        "/product/{n}/",
        34,
        5,
        ((SESSION, 0.5, 1), (PRODUCT, 0.9, 1)),
        "shop/product.html",
        9,
        0.001,
    ),
    View(
        "front",
        "shop.views.search",
        "GET",
        "/search/",
        14,
        7,
        ((SEARCH, 46, 1), (PRODUCT, 0.8, 12)),
        "shop/search.html",
        14,
    ),
    View(
        "front",
        "shop.views.Cart",
        "GET",
        "/cart/",
        12,
        4,
        ((SESSION, 0.5, 1), (USER, 0.6, 1), (CART, 1.2, 1), (PRODUCT, 0.8, 5)),
        "shop/cart.html",
        8,
        0.002,
    ),
    View(
        "front",
        "shop.views.checkout",
        "POST",
        "/checkout/",
        5,
        9,
        ((SESSION, 0.5, 1), (USER, 0.6, 1), (CART, 1.2, 1), (STOCK, 2.5, 2), (ORDER, 3, 1)),
        "shop/thanks.html",
        5,
        0.004,
        "billing",
        "shop.checkout",
    ),
    View(
        "front",
        "accounts.views.login",
        "POST",
        "/login/",
        4,
        92,
        ((USER, 0.7, 1),),
        "accounts/login.html",
        3,
        0.0,
        "",
        "accounts",
    ),
    View(
        "front", "api.views.PriceList.list", "GET", "/api/prices/", 7, 3, ((PRODUCTS, 5, 1),), "", 0
    ),
    View("front", "unresolved", "GET", "/wp-login.php", 2, 1.2),
)
BILLING = View(
    "billing",
    "billing.views.charge",
    "POST",
    "/charge/",
    0,
    6,
    ((ACCOUNT, 4, 1), (CHARGE, 2.4, 1)),
    "",
    0,
    0.02,
    "",
    "billing.charge",
)

FAILURES = {
    "billing.views.charge": ("CardDeclined", "card declined by the bank", "billing/gateway.py:112"),
    "shop.views.product": ("DoesNotExist", "Product matching query does not exist.", "shop/views.py:58"),
    "call": ("HTTPError", "500 Server Error for url: https://billing.internal/charge/", "shop/payment.py:31"),
    "": ("KeyError", "'currency'", "shop/pricing.py:19"),
}  # fmt: skip
"""View → class, message and place of what is raised there."""

COMMAND = (
    "send_subscriptions",
    'SELECT "shop_subscription"."id" FROM "shop_subscription" WHERE "shop_subscription"."due" <= %s',
)
TASK = (
    "shop.tasks.mail_receipt",
    'SELECT "shop_order"."id", "shop_order"."total" FROM "shop_order" WHERE "shop_order"."id" = %s',
)


@dataclass
class Moment:
    """What one request (with everything it caused) leaves behind."""

    time: float
    statsd: list[str] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)


def rfc3339(seconds: float) -> str:
    """Write epoch seconds as the agent does."""
    return (
        datetime.fromtimestamp(seconds, timezone.utc)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z")
    )


def part(value: str) -> str:
    """Reduce a tag value to what a StatsD name may contain, as the agent does."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", value)


class Shop:
    """The shop at work between two moments."""

    def __init__(
        self, start: float, seconds: float, rate: float, seed: int = 1, all_events: bool = False
    ) -> None:
        self.start = start
        self.end = start + seconds
        self.rate = rate
        self.random = random.Random(seed)
        self.all_events = all_events
        self.deploy = start + seconds * 0.6
        self.incident = (start + seconds * 0.72, start + seconds * 0.77)

    def __iter__(self) -> Iterator[Moment]:
        """Requests in the order of time, and now and then a command, a task, process readings."""
        at = self.start
        next_reading = next_command = at
        while True:
            load = self.rate * (
                1
                + 0.35
                * math.sin(
                    (at - self.start) / max(600.0, (self.end - self.start) / 4) * 2 * math.pi
                )
            )
            at += self.random.expovariate(load)
            if at >= self.end:
                return
            if at >= next_reading:
                yield self.readings(at)
                next_reading = at + 10
            if at >= next_command:
                yield self.command(at)
                next_command = at + 900
            yield self.request(at)

    def version(self, service: str, at: float) -> str:
        """Which release is running: `front` is deployed once."""
        return "0.9.3" if service == "billing" else "1.4.2" if at >= self.deploy else "1.4.1"

    def common(self, service: str, at: float, correlation_id: str) -> dict[str, Any]:
        """The keys that every line has."""
        hosts = ("web1", "web2") if service == "front" else ("pay1",)
        host = hosts[int(correlation_id[:4], 16) % len(hosts)]
        base = 4000 if at >= self.deploy or service == "billing" else 3000
        return {
            "timestamp": rfc3339(at),
            "service": service,
            "env": "prod",
            "version": self.version(service, at),
            "host": host,
            "pid": base + int(correlation_id[4:6], 16) % 4,
            "correlation_id": correlation_id,
        }

    def about(self, median: float) -> float:
        """A duration around a median, with the long tail that durations have."""
        return max(0.02, self.random.lognormvariate(math.log(max(median, 0.02)), 0.45))

    def new_id(self) -> str:
        """A correlation ID."""
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def request(self, at: float) -> Moment:
        """One request of the shop's own visitors."""
        moment = Moment(at)
        view = self.random.choices(VIEWS, [view.weight for view in VIEWS])[0]
        self.serve(moment, view, at, self.new_id(), None)
        return moment

    def serve(
        self, moment: Moment, view: View, at: float, correlation_id: str, parent: str | None
    ) -> tuple[float, int]:
        """Let a service answer; return its duration in ms and its status."""
        return Request(self, moment, view, at, correlation_id).run(parent)

    def readings(self, at: float) -> Moment:
        """What each process says about itself."""
        moment = Moment(at)
        age = at - (self.deploy if at >= self.deploy else self.start)
        for service, processes in (("front", 8), ("billing", 2)):
            for _ in range(processes):
                rss = (88 + age / 600 + self.random.random() * 9) * 1e6
                moment.statsd += [
                    f"{service}.process.rss:{rss:.0f}|ms",
                    f"{service}.process.cpu:{self.about(9):.1f}|ms",
                    f"{service}.process.threads:{self.random.choice((4, 5))}|ms",
                    f"{service}.process.fds:{self.random.randrange(22, 40)}|ms",
                ]
        return moment

    def command(self, at: float) -> Moment:
        """A management command, and a task that it queued."""
        moment = Moment(at)
        correlation_id = self.new_id()
        offset = 0.0
        for kind, (name, statement), times in (("command", COMMAND, 60), ("task", TASK, 3)):
            events = []
            clock = self.about(20)
            for _ in range(times):
                took = self.about(1.4)
                events.append(
                    {
                        "offset_ms": round(clock, 3),
                        "kind": "db",
                        "name": "default.select",
                        "ms": round(took, 3),
                        "statement": statement,
                    }
                )
                clock += took + self.about(0.6)
            moment.statsd.append(f"front.{kind}.{part(name)}:{clock:.3f}|ms")
            moment.lines.append(
                {
                    **self.common("front", at + offset, correlation_id),
                    "level": "INFO",
                    "logger": f"introspect.{kind}",
                    "message": name,
                    "kind": kind,
                    "name": name,
                    "span_id": f"{self.random.getrandbits(64):016x}",
                    "duration_ms": round(clock, 3),
                    "cpu_ms": round(clock * 0.4, 3),
                    "db_ms": round(sum(event["ms"] for event in events), 3),
                    "db_queries": times,
                    "db_duplicates": times - 1,
                    "events": events,
                    "events_dropped": 12 if kind == "command" else 0,
                }
            )
            offset += clock / 1000 + 0.3
        return moment


class Request:
    """One request on its way through a service."""

    def __init__(
        self, shop: Shop, moment: Moment, view: View, at: float, correlation_id: str
    ) -> None:
        self.shop = shop
        self.moment = moment
        self.view = view
        self.at = at
        self.common = shop.common(view.service, at, correlation_id)
        self.is_incident = shop.incident[0] <= at < shop.incident[1]
        self.clock = shop.about(view.own_ms * 0.4)
        self.events: list[dict[str, Any]] = []
        self.logs: list[dict[str, Any]] = []
        self.failure: tuple[str, str, str] | None = None
        self.status = {"unresolved": 404, "accounts.views.login": 302}.get(view.name, 200)

    def run(self, parent: str | None) -> tuple[float, int]:
        """Do all that the view does; return the duration in ms and the status."""
        if self.view.logger == "billing.charge":
            card = self.shop.random.randrange(1000, 9999)
            self.log("INFO", "billing.charge", f"charging card ending in {card}", "billing/gateway.py:88", extra={"currency": "EUR"})  # fmt: skip
        self.query()
        if self.view.calls:
            self.call()
        if self.shop.random.random() < self.view.failures * (4 if self.is_incident else 1):
            self.failure = FAILURES.get(self.view.name, FAILURES[""])
        self.look_into_cache()
        if self.failure is not None:
            self.fail(*self.failure)
        elif self.view.template:
            took = self.happened(
                "template", self.view.template, self.shop.about(self.view.template_ms)
            )
            self.measure(f"template.{part(self.view.template)}:{took:.3f}|ms")
        if self.view.logger == "accounts" and self.shop.random.random() < 0.12:
            self.status = 200
            self.log("WARNING", "accounts", "login failed: wrong password", "accounts/views.py:40")
        self.clock += self.shop.about(self.view.own_ms * 0.6)
        self.measure_request()
        self.moment.lines += [*self.logs, self.canonical_line(parent)]
        return self.clock, self.status

    def happened(self, kind: str, name: str, ms: float, **more: Any) -> float:
        """Note an event that takes `ms` from now on, and let that time pass."""
        self.events.append(
            {
                "offset_ms": round(self.clock, 3),
                "kind": kind,
                "name": name,
                "ms": round(ms, 3),
                **more,
            }
        )
        self.clock += ms
        return ms

    def measure(self, *metrics: str) -> None:
        """Send metrics under the service's name."""
        self.moment.statsd += [f"{self.view.service}.{metric}" for metric in metrics]

    def log(self, level: str, logger: str, message: str, file: str, **more: Any) -> None:
        """Write a log line now."""
        self.measure(f"log.{level}:1|c")
        self.logs.append(
            {
                **self.common,
                "timestamp": rfc3339(self.at + self.clock / 1000),
                "level": level,
                "logger": logger,
                "message": message,
                "thread": "MainThread",
                "file": file,
                "function": "handle",
                **more,
            }
        )

    def query(self) -> None:
        """Run the view's statements; a few are slow, and all of them during the incident."""
        for statement, median, times in self.view.sql:
            verb = statement.split()[0].lower()
            for _ in range(times):
                factor = 40 if self.shop.random.random() < 0.004 else 6 if self.is_incident else 1
                took = self.happened(
                    "db", f"default.{verb}", self.shop.about(median * factor), statement=statement
                )
                self.measure(f"db.default.{verb}:{took:.3f}|ms")
                self.clock += 0.08
        if self.view.sql and self.shop.random.random() < 0.15:
            logger = "shop.pricing" if self.view.service == "front" else "billing.ledger"
            level = "DEBUG" if self.shop.random.random() < 0.5 else "INFO"
            prices = self.shop.random.randrange(2, 40)
            self.log(level, logger, f"recalculated {prices} prices", "shop/pricing.py:61")

    def call(self) -> None:
        """Let billing charge the customer; its failure is ours."""
        span = f"{self.shop.random.getrandbits(64):016x}"
        took, status = self.shop.serve(
            self.moment,
            BILLING,
            self.at + (self.clock + 1.2) / 1000,
            self.common["correlation_id"],
            span,
        )
        took = self.happened("http", "billing.internal", took + 2.4, span_id=span, status=status)
        self.measure(
            f"http.billing_internal:{took:.3f}|ms", f"http.status.billing_internal.{status}:1|c"
        )
        if status >= 500:
            self.failure = FAILURES["call"]
        else:
            order = self.shop.random.randrange(10000, 99999)
            self.log("INFO", self.view.logger, f"order {order} paid", "shop/checkout.py:77")

    def look_into_cache(self) -> None:
        """Ask the cache, in every other request."""
        if self.view.name == "unresolved" or self.shop.random.random() < 0.5:
            return
        took = self.happened("cache", "default.get", self.shop.about(0.3))
        outcome = "hit" if self.shop.random.random() < 0.8 else "miss"
        self.measure(f"cache.default.get:{took:.3f}|ms", f"cache.{outcome}.default:1|c")

    def fail(self, name: str, message: str, place: str) -> None:
        """Answer with an error page, as Django does, and log it as Django does."""
        self.status = 404 if name == "DoesNotExist" else 500
        file, _, line = place.partition(":")
        stack = (
            f'Traceback (most recent call last):\n  File "{file}", line {line}, in handle\n'
            f"{name}: {message}"
        )
        what = "Not Found" if self.status == 404 else "Internal Server Error"
        self.log(
            "WARNING" if self.status == 404 else "ERROR",
            "django.request",
            f"{what}: {self.view.path}",
            "django/core/handlers/exception.py:124",
            exception={"class": name, "message": message, "stack": stack},
        )
        self.measure(f"exception.{name}.{part(self.view.name)}:1|c")

    def total(self, kind: str) -> float:
        """Milliseconds spent on one kind of event."""
        return sum(event["ms"] for event in self.events if event["kind"] == kind)

    def measure_request(self) -> None:
        """Send the request's own metrics."""
        queue = self.shop.about(20 if self.is_incident else 1.5)
        queries = sum(event["kind"] == "db" for event in self.events)
        self.measure(
            f"request:{self.clock:.3f}|ms",
            f"view.{part(self.view.name)}.{self.view.method}:{self.clock:.3f}|ms",
            f"response.{self.status}:1|c",
            f"request.first_byte:{self.clock * 0.97:.3f}|ms",
            f"request.queue:{queue:.3f}|ms",
            f"request.db_queries:{queries}|ms",
            *(
                f"request.{kind}:{self.total(kind):.3f}|ms"
                for kind in ("db", "template", "http", "cache")
            ),
        )

    def canonical_line(self, parent: str | None) -> dict[str, Any]:
        """The line about the whole request."""
        view, rnd = self.view, self.shop.random
        queries = [event for event in self.events if event["kind"] == "db"]
        line = {
            **self.common,
            "level": "INFO",
            "logger": "introspect.request",
            "message": f"{view.method} {view.path} {self.status}",
            "kind": "request",
            "span_id": f"{rnd.getrandbits(64):016x}",
            "method": view.method,
            "path": view.path.format(n=rnd.randrange(1, 500)),
            "route": view.path.replace("{n}", "<int:pk>").lstrip("/"),
            "view": view.name,
            "status": self.status,
            "duration_ms": round(self.clock, 3),
            "first_byte_ms": round(self.clock * 0.97, 3),
            "queue_ms": round(self.shop.about(1.5), 3),
            "cpu_ms": round(self.clock * 0.3, 3),
            "db_ms": round(self.total("db"), 3),
            "db_queries": len(queries),
            "db_duplicates": len(queries) - len({event["statement"] for event in queries}),
            "template_ms": round(self.total("template"), 3),
            "http_ms": round(self.total("http"), 3),
            "http_calls": sum(event["kind"] == "http" for event in self.events),
            "cache_hits": sum(event["kind"] == "cache" for event in self.events),
            "cache_misses": 0,
            "response_bytes": rnd.randrange(400, 90_000),
        }
        if parent is not None:
            line["parent_id"] = parent
        if view.service == "front" and rnd.random() < 0.4:
            line["user_id"] = str(rnd.randrange(1, 400))
        if queries:
            worst = max(queries, key=lambda event: event["ms"])
            line["slowest_query"] = {key: worst[key] for key in ("ms", "name", "statement")}
        if self.failure is not None:
            name, message, place = self.failure
            line["exception"] = {"class": name, "message": message, "place": place}
        if self.shop.all_events or self.status >= 500 or self.clock > 400:
            line["events"] = self.events
            line["events_dropped"] = 0
        return line


def hostile(at: float) -> Moment:
    """One request in which everything that can be hostile is."""
    return Moment(
        at,
        [f"evil.{HOSTILE}:1|c"],
        [
            {
                "timestamp": rfc3339(at),
                "level": "ERROR",
                "logger": HOSTILE,
                "message": HOSTILE,
                "service": "evil<b>",
                "env": "prod",
                "version": "1",
                "host": HOSTILE,
                "pid": 1,
                "correlation_id": "0ddba11-<script>",
                "exception": {"class": HOSTILE, "message": HOSTILE, "stack": HOSTILE},
                "extra": {HOSTILE: HOSTILE},
            },
            {
                "timestamp": rfc3339(at),
                "level": "ERROR",
                "logger": "introspect.request",
                "message": "x",
                "service": "evil<b>",
                "env": "prod",
                "version": HOSTILE,
                "host": "h",
                "pid": 1,
                "correlation_id": "0ddba11-<script>",
                "kind": "request",
                "method": "GET",
                "path": "/" + HOSTILE,
                "route": HOSTILE,
                "view": HOSTILE,
                "status": 500,
                "duration_ms": 12.5,
                "db_ms": 1,
                "db_queries": 1,
                "user_id": HOSTILE,
                "exception": {"class": HOSTILE, "message": HOSTILE, "place": HOSTILE},
                "events": [
                    {"offset_ms": 1, "kind": "db", "name": HOSTILE, "ms": 1, "statement": HOSTILE}
                ],
                "events_dropped": 0,
            },
        ],
    )


def send(
    moments: Iterable[Moment],
    statsd: tuple[str, int],
    logs: tuple[str, int],
    pace: Callable[[float], None] = lambda _: None,
) -> int:
    """Send moments to receivers, StatsD by UDP and lines by TCP; return how many there were."""
    sent = 0
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets,
        socket.create_connection(logs) as stream,
    ):
        for moment in moments:
            pace(moment.time)
            packet = b""
            for line in moment.statsd:
                if len(packet) + len(line) > 1400:
                    packets.sendto(packet, statsd)
                    packet = b""
                packet += (b"\n" if packet else b"") + line.encode()
            if packet:
                packets.sendto(packet, statsd)
            stream.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in moment.lines))
            sent += 1
    return sent


def at_their_time(moment: float) -> None:
    """Wait until a moment has come."""
    time.sleep(max(0.0, moment - time.time()))


def fill(store: Store, moments: Iterable[Moment], every: float = 10.0) -> int:
    """Put the past into a file as if it had been received at its time; return how many moments."""
    aggregate, batch, due, filled = Aggregate(), Batch(), 0.0, 0

    def write(now: float) -> None:
        nonlocal batch
        batch.add_taken(aggregate.take(now))
        store.write(batch, now)
        batch = Batch()

    for moment in moments:
        if due == 0:
            due = moment.time // every * every + every
        if moment.time >= due:
            write(due - 0.001)
            due = moment.time // every * every + every
        aggregate.feed("\n".join(moment.statsd).encode(), moment.time)
        for line in moment.lines:
            read = read_line(json.dumps(line).encode(), moment.time + 60, 0)
            (batch.works if isinstance(read, Work) else batch.logs).append(read)
        filled += 1
    write(due - 0.001)
    return filled
