"""Fill the shelves."""

from django.core.management.base import BaseCommand, CommandError

from books.models import Book


class Command(BaseCommand):
    """`manage.py restock 5`: one query for each of five rounds."""

    help = __doc__

    def add_arguments(self, parser):
        """Declare the number of rounds, and a way to fail."""
        parser.add_argument("rounds", type=int, nargs="?", default=1)
        parser.add_argument("--fail", action="store_true")

    def handle(self, *args, rounds, fail, **options):
        """Set every stock once per round."""
        for _ in range(rounds):
            Book.objects.update(stock=7)
        if fail:
            raise CommandError("the lorry broke down")
        self.stdout.write(f"restocked {rounds} times")
