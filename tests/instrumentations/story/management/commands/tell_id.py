"""Tell the ID of this process."""

import logging

from books.models import Book
from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    """`manage.py tell_id [WORD…] [--password X] [--fail] [--threads N]`: print the ID that log lines bear."""

    help = __doc__

    def add_arguments(self, parser):
        """Declare what tests pass."""
        parser.add_argument("words", nargs="*")
        parser.add_argument("--password")
        parser.add_argument("--url")
        parser.add_argument("--fail", action="store_true")
        parser.add_argument("--queries", type=int, default=0)

    def handle(self, *args, fail, queries, **options):
        """Print the ID."""
        for _ in range(queries):
            Book.objects.count()
        logging.getLogger("story").info("told")
        made = logging.makeLogRecord({})
        if fail:
            raise CommandError("failed on request")
        self.stdout.write(made.correlation_id)
