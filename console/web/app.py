"""Serve the console: one file through Datasette, our pages as its plugin, behind a guard."""

import re
import socket
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import datasette
import uvicorn
from datasette.app import Datasette
from datasette.database import Database
from datasette.plugins import pm

from introspect.console.web import plugin
from introspect.console.web.guard import App, Guard, datasette_policy, is_loopback

DATABASE = "introspect"
"""Under which name Datasette serves the file: its tables are at /introspect/<table>."""

SETTINGS = {
    "sql_time_limit_ms": 1000,
    "default_page_size": 50,
    "num_sql_threads": 3,
    "suggest_facets": False,  # Trying every column of a table of millions takes seconds.
    "allow_download": False,
    "default_cache_ttl": 0,
}

METADATA = {
    "title": "introspect",
    "databases": {
        DATABASE: {
            "description": "Everything the console keeps; each table can be searched, faceted and "
            "taken away as JSON or CSV.",
            "tables": {
                # Datasette finds a full-text index by how its SQL is written; ours is named here.
                "work": {"fts_table": "work_fts", "fts_pk": "id", "sort_desc": "id", "size": 50},
                "logs": {"fts_table": "logs_fts", "fts_pk": "id", "sort_desc": "id", "size": 50},
                "events": {"sort_desc": "id"},
            },
        }
    },
}

Ready = Callable[[str, Callable[[], None]], None]


class ConsoleError(Exception):
    """The pages cannot be served as asked; the text says what to change."""


def serve(
    db_path: str | Path,
    host: str = "127.0.0.1",
    port: int = 8126,
    token: str | None = None,
    ready: Ready | None = None,
) -> None:
    """Serve the pages over an existing database until stopped; blocks.

    Args:
        db_path: The SQLite file; it must exist with the console's tables.
        host: Address to bind; anything but loopback demands a `token`.
        port: TCP port; 0 lets the system choose one.
        token: What a browser must present (`?token=`) or a program send (`Authorization: Bearer`).
        ready: Called once with the address to open and a function that stops the server, which
            may be called from any thread.

    Raises:
        ConsoleError: The address is in use, is not ours, or is not loopback and has no token.
    """
    listener = listen(host, port, token)
    config = uvicorn.Config(
        create_app(db_path, host, token),
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=1,
    )
    with listener:
        server = Server(config, address(listener, token), ready)
        server.run(sockets=[listener])


class Server(uvicorn.Server):
    """Uvicorn's server, which also tells when it is ready and how to stop it."""

    def __init__(self, config: uvicorn.Config, address: str, ready: Ready | None) -> None:
        super().__init__(config)
        self.address = address
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so."""
        await super().startup(sockets)
        if self.ready is not None and not self.should_exit:
            self.ready(self.address, self.stop)

    def stop(self) -> None:
        """End within about a second; may be called from any thread."""
        self.should_exit = True


def create_app(db_path: str | Path, host: str = "127.0.0.1", token: str | None = None) -> App:
    """Build the guarded ASGI application over the database at `db_path`."""
    # What else is installed beside us shall not change what the console serves.
    for stranger, _ in pm.list_plugin_distinfo():
        if pm.is_registered(stranger):
            pm.unregister(stranger)
    if not pm.is_registered(plugin):
        pm.register(plugin)
    folder = resources.files("introspect.console.web")
    site: Any = Datasette(
        template_dir=str(folder / "templates"),
        static_mounts=[("-/console", str(folder / "static"))],
        settings=SETTINGS,
        metadata=METADATA,
        memory=False,
    )
    site.remove_database("_memory")
    site.add_database(File(site, path=str(db_path), is_mutable=True), name=DATABASE)
    policy = datasette_policy(Path(datasette.__file__).parent / "templates")
    return Guard(site.app(), host, token, policy)


class File(Database):  # type: ignore[misc]  # Datasette is not typed
    """The console's file, of whose tables Datasette counts only what it can count at once.

    It gives up a slow count, but SQLite counts a whole table in one step that nothing interrupts.
    """

    async def execute(self, sql: str, *args: Any, **options: Any) -> Any:
        """Run a statement; a count of a whole table goes row by row and has 50 ms."""
        count = re.fullmatch(r"select count\(\*\) from (\[\w+\]|\w+) ?", sql)
        if count is not None:
            sql = f"select count(*) from (select 1 from {count[1]} limit 1000000000)"  # noqa: S608
            options["custom_time_limit"] = min(options.get("custom_time_limit") or 50, 50)
        return await super().execute(sql, *args, **options)


def listen(host: str, port: int, token: str | None) -> socket.socket:
    """Open the listening socket, or say why that cannot be done and what would help."""
    if not is_loopback(host) and not token:
        raise ConsoleError(
            f"The console would show everything it knows to whoever reaches {host}: "
            "give it a token, or bind it to 127.0.0.1."
        )
    try:
        family, kind, proto, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise ConsoleError(f"The console cannot use the address {host}: {error}.") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(target)
    except OSError as error:
        listener.close()
        raise ConsoleError(
            f"The console cannot listen on {host} port {port}: {error.strerror}. "
            "Choose another port with --port."
        ) from error
    return listener


def address(listener: socket.socket, token: str | None) -> str:
    """Say where to point a browser."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
