"""Put into an empty database what the tests find there: three authors, nine books, a superuser and a user."""

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand

from books.models import Author, Book

TITLES = {
    "Jane Austen": ["Emma", "Persuasion", "Sanditon"],
    "George Eliot": ["Middlemarch", "Romola", "Silas Marner"],
    "Mary Shelley": ["Frankenstein", "The Last Man", "Valperga"],
}


class Command(BaseCommand):
    """`manage.py stock_shop`; the users' passwords are their names."""

    help = __doc__

    def handle(self, *args, **options):
        """Create everything."""
        for name, titles in TITLES.items():
            author = Author.objects.create(name=name)
            Book.objects.bulk_create(Book(title=title, author=author, stock=7) for title in titles)
        users = get_user_model().objects
        users.create_superuser("admin", "admin@example.org", "admin")
        users.create_user("reader", "reader@example.org", "reader")
