"""`manage.py stock_front`: make the database and fill it."""

import os

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand

from front.models import Author, Book, Subscriber

BOOKS = (
    ("Mary Shelley", ("Frankenstein", "The Last Man")),
    ("Jane Austen", ("Emma", "Persuasion", "Sense and Sensibility")),
    ("Laurence Sterne", ("Tristram Shandy",)),
    ("Charlotte Brontë", ("Jane Eyre", "Villette")),
    ("Herman Melville", ("Moby-Dick", "Typee")),
    ("George Eliot", ("Middlemarch", "Silas Marner")),
)
SUBSCRIBERS = 30


class Command(BaseCommand):
    """Make the database and fill it."""

    help = "Make the database and fill it. DEMO_PASSWORD is the password of the superuser `ada`."

    def handle(self, *args, **options):
        call_command("migrate", verbosity=0)
        number = 0
        for name, titles in BOOKS:
            author = Author.objects.create(name=name)
            for title in titles:
                number += 1
                Book.objects.create(title=title, sku=f"B{number:03}", author=author)
        Subscriber.objects.bulk_create(
            Subscriber(address=f"reader{n}@example.org") for n in range(SUBSCRIBERS)
        )
        get_user_model().objects.create_superuser("ada", password=os.environ["DEMO_PASSWORD"])
