"""Take secrets in each way that argparse knows."""

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """`manage.py keep_secret [NUMBER [TOKEN]] [-p X] [--tokens X…] [--pin-key N] [--secret-file X]`: do nothing."""

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
        """Do nothing."""
