"""`manage.py stock_back`: make the database and fill it."""

from django.core.management import call_command
from django.core.management.base import BaseCommand

from back.models import Item

ITEMS = 12
SOLD_OUT = 12


class Command(BaseCommand):
    """Make the database and fill it."""

    help = "Make the database and fill it. The last item is sold out."

    def handle(self, *args, **options):
        call_command("migrate", verbosity=0)
        Item.objects.bulk_create(
            Item(sku=f"B{n:03}", copies=0 if n == SOLD_OUT else 20 + n, price_cents=799 + 50 * n)
            for n in range(1, ITEMS + 1)
        )
