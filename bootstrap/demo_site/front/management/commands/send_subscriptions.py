"""`manage.py send_subscriptions 1000`: send the newsletter."""

from django.core.mail import send_mail
from django.core.management.base import BaseCommand
from django.template.loader import render_to_string

from front.models import Book, Subscriber


class Command(BaseCommand):
    """Send the newsletter."""

    help = "Send the newsletter to so many subscribers at most."

    def add_arguments(self, parser):
        parser.add_argument("limit", type=int)

    def handle(self, *args, **options):
        books = list(Book.objects.all()[:3])
        sent = 0
        for subscriber in Subscriber.objects.all()[: options["limit"]]:
            text = render_to_string("front/newsletter.txt", {"books": books})
            sent += send_mail("New books", text, "shop@example.org", [subscriber.address]) or 0
        self.stdout.write(f"sent {sent} newsletters")
