"""Send a task."""

from django.core.management.base import BaseCommand

from tasked import tasks


class Command(BaseCommand):
    """`manage.py send_tell`: send a task, print its ID and that of this command."""

    help = __doc__

    def handle(self, *args, **options):
        """Send it."""
        self.stdout.write(f"{tasks.tell.delay().id} {tasks.logged_id()}")
