"""Take secrets in each way that argparse knows."""

from django.core.management.base import BaseCommand
from django.db import connection


class Command(BaseCommand):
    """`manage.py keep_secret [NUMBER [TOKEN]] [-p X] [--tokens X…] [--pin-key N] [--secret-file X]`: ask once."""

    help = __doc__

    def add_arguments(self, parser):
        """Declare what tests pass."""
        parser.add_argument("number", nargs="?", type=int)
        parser.add_argument("api_token", nargs="?")
        parser.add_argument("-p", "--password", default="")
        parser.add_argument("--tokens", nargs="*")
        parser.add_argument("--pin-key", type=int)
        parser.add_argument("--secret-file")
        parser.add_argument("--url")

    def handle(self, *args, **options):
        """Ask the database, and show what it was asked: SQLite itself tells."""
        with connection.cursor() as cursor:
            connection.connection.set_trace_callback(lambda text: self.stdout.write(f"ran {text}"))
            cursor.execute("SELECT 1")
            connection.connection.set_trace_callback(None)
