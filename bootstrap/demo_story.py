"""The story of one request through both services, and who sees what when a view fails."""

from __future__ import annotations

import contextlib
import html
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from introspect.bootstrap.demo_services import DemoError, wait_for
from introspect.bootstrap.demo_traffic import HEADER, Visit, Visitor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from introspect.bootstrap.demo_services import Process

BOUGHT = Visit("/books/4/buy/", 302, "POST")
BROKEN = Visit("/coupon/?code=10%25", 500)
COMMAND = ("send_subscriptions", "1000")
SUPERUSER = "ada"

# An access line is written when the response has gone, just after the visitor has it.
SECONDS_TO_BE_WRITTEN = 5.0

_ACCESS_LOGGER = " gunicorn.access: "
_WRITES = re.compile(r"\b(INSERT|UPDATE)\b")
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)


class Traces(NamedTuple):
    """What one request left behind in one service, found by its ID."""

    service: str
    log_lines: list[str]
    statement: str
    """One that writes, as the database got it."""


def of_one_request(front: str, services: Sequence[Process], folder: str) -> str:
    """Buy a book, which both services have a part in, and tell what bears the request's ID."""
    with contextlib.closing(Visitor(front)) as visitor:
        visitor.visit(Visit("/books/4/"))  # for the form
        correlation_id = visitor.visit(BOUGHT).headers[HEADER]
    traces = [_traces(one, folder, correlation_id) for one in services]
    lines = sorted(line for one in traces for line in one.log_lines)  # they start with the time
    width = max(len(one.service) for one in traces)
    statements = [f"{one.service:<{width}}  {one.statement}" for one in traces]
    return "\n\n".join(
        [
            f"One request, {BOUGHT.method} {BOUGHT.path}\n{HEADER}: {correlation_id}",
            _under("Lines with this ID in the logs of both services:", lines),
            _under("A statement of each in its database's own log:", statements),
        ]
    )


def of_the_command(folder: str) -> str:
    """Tell what the database of ``front`` says of the management command that has run."""
    said = f"manage.py {' '.join(COMMAND)}"
    with open(_statement_log("front", folder), encoding="utf-8") as log:
        found = next((line.strip() for line in log if said in line), "")
    if not found:
        raise DemoError(f"no statement of front's database says {said!r}")
    return _under("A statement of the management command:", [found])


def of_an_error(front: str, password: str) -> str:
    """Let a view fail for a visitor and for a superuser, and tell which page each gets."""
    with contextlib.closing(Visitor(front)) as visitor:
        visitors_page = visitor.visit(BROKEN).text
    with contextlib.closing(Visitor(front)) as visitor:
        visitor.log_in(SUPERUSER, password)
        superusers_page = visitor.visit(BROKEN).text
    return _under(
        f"{BROKEN.path} fails. The title of the page, with DEBUG off, for",
        [f"visitors       {_title(visitors_page)}", f"the superuser  {_title(superusers_page)}"],
    )


def _traces(service: Process, folder: str, correlation_id: str) -> Traces:
    def log_lines() -> list[str]:
        lines = [line for line in service.output().splitlines() if correlation_id in line]
        return lines if any(_ACCESS_LOGGER in line for line in lines) else []

    def statement() -> str:
        with open(_statement_log(service.name, folder), encoding="utf-8") as log:
            return next((x.strip() for x in log if correlation_id in x and _WRITES.search(x)), "")

    found = Traces(
        service.name,
        wait_for(log_lines, SECONDS_TO_BE_WRITTEN),
        wait_for(statement, SECONDS_TO_BE_WRITTEN),
    )
    if not (found.log_lines and found.statement):
        raise DemoError(
            f"{correlation_id} is missing in the access log or the statements of {service.name}, "
            f"whose log ends:\n{service.tail()}"
        )
    return found


def _statement_log(service: str, folder: str) -> str:
    return os.path.join(folder, f"{service}.sql")


def _title(page: str) -> str:
    found = _TITLE.search(page)
    return " ".join(html.unescape(found[1]).split()) if found else "(a page without a title)"


def _under(heading: str, lines: Sequence[str]) -> str:
    return "\n".join((heading, *(f"  {line}" for line in lines)))
