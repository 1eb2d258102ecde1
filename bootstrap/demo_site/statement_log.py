"""A log of all statements as SQLite gets them; other databases keep one themselves."""

import os

import shared
from django.apps import AppConfig
from django.db.backends.signals import connection_created

PATH = os.path.join(shared.FOLDER, f"{shared.SERVICE}.sql")


class StatementLog(AppConfig):
    """Write each statement to `<service>.sql` beside the database."""

    name = "statement_log"

    def ready(self):
        connection_created.connect(listen)


def listen(connection, **kwargs):
    """Have SQLite tell of every statement on a new connection."""
    connection.connection.set_trace_callback(write)


def write(statement):
    """Append one statement as one line."""
    with open(PATH, "a", encoding="utf-8") as log:
        log.write(" ".join(statement.split()) + "\n")
