"""What visitors see: some of it quick, some slow, some broken."""

import logging

import requests
from django.conf import settings
from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST
from django.views.generic import DetailView

from front.models import Author, Book, Order

logger = logging.getLogger("front")

STOCK_SECONDS = 2


def ask_back(path, method="GET"):
    """Return what the warehouse answers, as an object."""
    response = requests.request(method, settings.BACK + path, timeout=10)
    response.raise_for_status()
    return response.json()


def index(request):
    """Show all books, with prices that may be two seconds old."""
    stock = cache.get("stock")
    if stock is None:
        stock = ask_back("/stock/")
        cache.set("stock", stock, STOCK_SECONDS)
    books = list(Book.objects.select_related("author"))
    for book in books:
        book.stock = stock.get(book.sku)
    return render(request, "front/index.html", {"books": books})


class BookDetail(DetailView):
    """Show one book and what is left of it."""

    queryset = Book.objects.select_related("author")

    def get_context_data(self, **kwargs):
        logger.info("show %s", self.object.sku)
        stock = ask_back(f"/stock/{self.object.sku}/")
        return super().get_context_data(
            **kwargs, stock=stock, sold=Order.objects.filter(book=self.object).count()
        )


@require_POST
def buy(request, pk):
    """Sell one copy."""
    book = get_object_or_404(Book, pk=pk)
    ask_back(f"/stock/{book.sku}/reserve/", "POST")
    order = Order.objects.create(book=book)
    logger.info("sold %s, order %d", book.sku, order.pk)
    return redirect("book", pk=pk)


def search(request):
    """Find books by their titles."""
    words = request.GET.get("q", "")
    books = Book.objects.select_related("author").filter(title__icontains=words)
    return render(request, "front/index.html", {"books": books, "words": words})


def report(request):
    """List the sales of each author: a query for each, and a slow answer from the warehouse."""
    rows = [
        {"author": author, "sold": Order.objects.filter(book__author=author).count()}
        for author in Author.objects.all()
    ]
    return render(request, "front/report.html", {"rows": rows, "audit": ask_back("/audit/")})


def coupon(request):
    """Tell what a coupon is worth. Whoever tried this out wrote `10`; a visitor writes `10%`."""
    percent = int(request.GET["code"])
    return HttpResponse(f"{percent} per cent less\n", content_type="text/plain")


def staff(request):
    """Let superusers in."""
    if not request.user.is_superuser:
        raise PermissionDenied
    return HttpResponse("Welcome.\n", content_type="text/plain")
