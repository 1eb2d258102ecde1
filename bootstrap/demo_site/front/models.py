"""Authors and their books, and who has ordered or subscribed."""

from django.db import models


class Author(models.Model):
    """Somebody who writes."""

    name = models.CharField(max_length=100)

    def __str__(self):
        return self.name


class Book(models.Model):
    """What is for sale; `back` knows by its `sku` what it costs and how many there are."""

    title = models.CharField(max_length=200)
    sku = models.CharField(max_length=20, unique=True)
    author = models.ForeignKey(Author, on_delete=models.CASCADE, related_name="books")

    class Meta:
        ordering = ("title",)

    def __str__(self):
        return self.title


class Order(models.Model):
    """One copy of a book, sold."""

    book = models.ForeignKey(Book, on_delete=models.CASCADE, related_name="orders")
    placed = models.DateTimeField(auto_now_add=True)


class Subscriber(models.Model):
    """Somebody who gets the newsletter."""

    address = models.EmailField(unique=True)
