"""The pages that `overhead.py` measures, each heavy in one kind of operation."""

from __future__ import annotations

import itertools
import logging
import os
from typing import TYPE_CHECKING

import requests
from django.db import connection, models
from django.db.models import Avg
from django.http import HttpResponse
from django.shortcuts import render
from django.template import Context, Template
from django.urls import path
from overhead_plan import PAGES
from overhead_site import NESTED_TEMPLATES

if TYPE_CHECKING:
    from django.http import HttpRequest

OTHER_SERVICE = os.environ.get("OVERHEAD_OTHER_SERVICE", "")

logger = logging.getLogger(__name__)


class Author(models.Model):
    """Somebody who writes."""

    name = models.CharField(max_length=100)

    class Meta:
        """Belongs to the settings module, for want of an application."""

        app_label = "overhead_site"

    def __str__(self) -> str:
        return self.name


class Book(models.Model):
    """What an author has written."""

    title = models.CharField(max_length=100)
    author = models.ForeignKey(Author, models.CASCADE)
    price = models.DecimalField(max_digits=8, decimal_places=2)

    class Meta:
        """Belongs to the settings module, for want of an application."""

        app_label = "overhead_site"

    def __str__(self) -> str:
        return self.title


def stock() -> None:
    """Fill the empty database."""
    with connection.schema_editor() as editor:
        editor.create_model(Author)
        editor.create_model(Book)
    authors = Author.objects.bulk_create([Author(name=f"author {n}") for n in range(10)])
    Book.objects.bulk_create(
        Book(title=f"book {n}", author=authors[n % 10], price=n) for n in range(100)
    )


def empty(request: HttpRequest) -> HttpResponse:
    """Do nothing."""
    return HttpResponse("ok")


def mixed(request: HttpRequest) -> HttpResponse:
    """Do what a page of a shop does."""
    books = Book.objects.all()
    first = books.get(pk=1)
    logger.info("page of %s", first.title)
    context = {
        "shop": Author.objects.get(pk=first.author_id).name,
        "count": books.count(),
        "cheap": books.filter(price__lt=20).count(),
        "books": list(books.select_related("author").order_by("-price")[:20]),
        "authors": list(Author.objects.order_by("name")),
        "average": books.aggregate(Avg("price")),
        "titles": list(books.filter(author_id=3).values_list("title", flat=True)),
        "last": books.order_by("pk").last(),
        "answer": requests.get(OTHER_SERVICE, timeout=10).text,
    }
    assert books.filter(pk=2).update(price=2) == 1
    logger.info("page done, %d books", context["count"])
    return render(request, "page.html", context)


def queries(request: HttpRequest) -> HttpResponse:
    """Run tiny statements."""
    with connection.cursor() as cursor:
        for number in range(PAGES["queries"].operations):
            cursor.execute("SELECT name FROM overhead_site_author WHERE id = %s", (number % 10,))
            cursor.fetchone()
    return HttpResponse("ok")


def templates(request: HttpRequest) -> HttpResponse:
    """Render templates, each included by the one before."""
    return render(request, f"nested{NESTED_TEMPLATES - 1}.html")


_session = requests.Session()


def calls(request: HttpRequest) -> HttpResponse:
    """Call another service over one connection."""
    for _ in range(PAGES["calls"].operations):
        _session.get(OTHER_SERVICE, timeout=10)
    return HttpResponse("ok")


def logs(request: HttpRequest) -> HttpResponse:
    """Write log records."""
    for number in range(PAGES["logs"].operations):
        logger.info("record %d of %s", number, "the page")
    return HttpResponse("ok")


_numbers = itertools.count()


def names(request: HttpRequest) -> HttpResponse:
    """Render a template whose name never came before."""
    return HttpResponse(Template("ok", name=f"template {next(_numbers)}").render(Context()))


urlpatterns = [
    path(f"{view.__name__}/", view)
    for view in (empty, mixed, queries, templates, calls, logs, names)
]
