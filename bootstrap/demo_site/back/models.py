"""What lies in the warehouse, and what went in and out."""

from django.db import models


class Item(models.Model):
    """One kind of thing, by its number."""

    sku = models.CharField(max_length=20, unique=True)
    copies = models.IntegerField()
    price_cents = models.IntegerField()


class Movement(models.Model):
    """So many copies came (or went, if negative)."""

    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="movements")
    copies = models.IntegerField()
    moved = models.DateTimeField(auto_now_add=True)
