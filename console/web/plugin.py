"""The Datasette plugin: which address shows which page, and which gives which data as JSON."""

import functools
import hashlib
import json
import math
import sqlite3
from importlib import resources
from typing import Any
from urllib.parse import quote

from datasette.utils import sqlite_timelimit
from datasette.utils.asgi import Response
from markupsafe import Markup
from pluggy import HookimplMarker

from introspect.console.web.data import READERS
from introspect.console.web.guard import STRICT_POLICY
from introspect.console.web.span import BadAddressError

hookimpl = HookimplMarker("datasette")

STATIC = "/-/console"
PAGES = (
    ("/", "Overview"),
    ("/metrics", "Metrics"),
    ("/requests", "Requests"),
    ("/logs", "Logs"),
    ("/views", "Views"),
    ("/introspect", "Tables"),
)
"""Address and label, in the order of the menu."""

READ_LIMIT_MS = 10_000
"""A read that takes longer is given up and said, so that no address can hold a thread for ever."""


@hookimpl
def register_routes() -> list[tuple[str, Any]]:
    """Our pages and their data; Datasette keeps every other address."""
    pages = [
        (r"^/$", functools.partial(show, "overview", "Overview")),
        (r"^/metrics$", functools.partial(show, "metrics", "Metrics")),
        (r"^/requests$", functools.partial(show, "requests", "Requests")),
        (r"^/story/(?P<id>[^/]+)$", functools.partial(show, "story", "Story")),
        (r"^/logs$", functools.partial(show, "logs", "Logs")),
        (r"^/views$", functools.partial(show, "views", "Views")),
    ]
    return [*pages, (r"^/-/data/(?P<name>[a-z]+)$", answer)]


@hookimpl
def prepare_jinja2_environment(env: Any) -> None:
    """Give every page, ours, Datasette's and its errors', what `console_top.html` needs."""
    env.globals["console_pages"] = PAGES
    env.globals["console_static"] = STATIC
    env.globals["console_build"] = build()


@hookimpl
def extra_css_urls() -> list[str]:
    """Datasette's pages in our colours; ours do not extend its base and so do not get this."""
    return [f"{STATIC}/console.css?{build()}", f"{STATIC}/datasette.css?{build()}"]


@hookimpl
def render_cell(value: Any, column: str) -> Markup | None:
    """In Datasette's tables, lead from a correlation ID to its story."""
    if column != "correlation_id" or not isinstance(value, str):
        return None
    return Markup('<a href="/story/{}">{}</a>').format(quote(value, safe=""), value)


async def show(page: str, title: str, datasette: Any, request: Any) -> Response:
    """Answer with the frame of a page, which then fetches its data."""
    context = {"page": page, "title": title}
    html = await datasette.render_template("console.html", context, request=request)
    return Response.html(html, headers={"content-security-policy": STRICT_POLICY})


async def answer(datasette: Any, request: Any) -> Response:
    """Answer a data address with JSON, or with what is wrong about it."""
    reader = READERS.get(request.url_vars["name"])
    if reader is None:
        return as_json({"error": "There is no such data."}, 404)
    parameters = {name: request.args[name] for name in request.args}
    database = datasette.get_database("introspect")

    def read(connection: sqlite3.Connection) -> dict[str, Any]:
        with sqlite_timelimit(connection, READ_LIMIT_MS):
            found: dict[str, Any] = reader(connection, parameters)
            return found

    try:
        return as_json(await database.execute_fn(read))
    except BadAddressError as error:
        return as_json({"error": str(error)}, 400)
    except sqlite3.OperationalError as error:
        if "interrupted" not in str(error):
            return as_json({"error": f"The database could not be read: {error}."}, 503)
        return as_json(
            {"error": "This took too long: choose a shorter range or search for less."}, 503
        )


def as_json(value: Any, status: int = 200) -> Response:
    """Answer with JSON: dataclasses become objects, and what is no number (nan, infinity) null."""
    # PERF: `vars` writes dataclasses as they are; `dataclasses.asdict` copies every number first.
    write = functools.partial(json.dumps, default=vars, separators=(",", ":"))
    try:
        text = write(value, allow_nan=False)
    except ValueError:
        text = write(without_nan(json.loads(write(value))))
    headers = {"cache-control": "no-store"}
    return Response(text, status, headers, content_type="application/json; charset=utf-8")


def without_nan(value: Any) -> Any:
    """Copy JSON values with `None` in the place of each float that JSON cannot carry."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return value


@functools.lru_cache
def build() -> str:
    """Name this version of the scripts and styles, so that a browser keeps none of another's."""
    digest = hashlib.sha256()
    static = resources.files("introspect.console.web") / "static"
    for folder in (static, static / "js"):
        for file in sorted(folder.iterdir(), key=lambda item: item.name):
            if file.is_file():
                digest.update(file.read_bytes())
    return digest.hexdigest()[:10]
