"""A database of our own in a PostgreSQL or MariaDB server, created empty and dropped at the end."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from tests.helpers.services import MARIADB, POSTGRESQL


@dataclass(frozen=True)
class Database:
    """An empty database; `url` is what PROJECT_DATABASE takes."""

    kind: str
    host: str
    port: int
    user: str
    name: str

    @property
    def url(self) -> str:
        """The database as a URL."""
        return f"{self.kind}://{self.user}@{self.host}:{self.port}/{self.name}"


@contextlib.contextmanager
def postgresql_database() -> Iterator[Database]:
    """Give an empty PostgreSQL database; psycopg has to be installed."""
    import psycopg

    def execute(host: str, port: int, statement: str) -> None:
        with psycopg.connect(
            host=host, port=port, user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)

    def usable(host: str, port: int) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            execute(host, port, "SELECT 1")
            return True
        return False

    with POSTGRESQL.address(usable) as (host, port):
        database = Database("postgresql", host, port, "postgres", _unique_name())
        execute(host, port, f"CREATE DATABASE {database.name}")
        try:
            yield database
        finally:
            execute(host, port, f"DROP DATABASE {database.name} WITH (FORCE)")


@contextlib.contextmanager
def mariadb_database() -> Iterator[Database]:
    """Give an empty MariaDB database; mysqlclient has to be installed."""
    import MySQLdb

    def execute(host: str, port: int, statement: str) -> None:
        with contextlib.closing(MySQLdb.connect(host=host, port=port, user="root")) as connection:
            connection.query(statement)

    def usable(host: str, port: int) -> bool:
        with contextlib.suppress(MySQLdb.OperationalError):
            execute(host, port, "SELECT 1")
            return True
        return False

    with MARIADB.address(usable) as (host, port):
        database = Database("mysql", host, port, "root", _unique_name())
        execute(host, port, f"CREATE DATABASE {database.name} CHARACTER SET utf8mb4")
        try:
            yield database
        finally:
            execute(host, port, f"DROP DATABASE {database.name}")


def _unique_name() -> str:
    return f"introspect_{os.getpid()}_{uuid.uuid4().hex[:8]}"
