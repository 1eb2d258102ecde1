"""Every kind of view that Django can call; answers are the same bytes each time, unless a docstring says otherwise."""

import asyncio
import functools
import logging
import time
from pathlib import Path

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.cache import cache
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import connection, connections, transaction
from django.http import (
    FileResponse,
    Http404,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.shortcuts import render
from django.template.response import TemplateResponse
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET
from django.views.generic import DetailView, ListView

from books.models import Author, Book

logger = logging.getLogger("books")


def plain(request):
    """Answer with a constant, and touch nothing."""
    return HttpResponse("plain\n")


def index(request):
    """Render a template that extends one and includes others; two queries."""
    return render(
        request,
        "books/index.html",
        {"books": Book.objects.select_related("author"), "authors": Author.objects.all()},
    )


def late_template(request):
    """Return a response that is rendered only after the view."""
    return TemplateResponse(
        request, "books/index.html", {"books": Book.objects.select_related("author")}
    )


async def async_plain(request):
    """Answer with a constant from the event loop."""
    await asyncio.sleep(0)
    return HttpResponse("async plain\n")


async def async_queries(request):
    """Ask the database from the event loop; 1 + 1 queries."""
    count = await Book.objects.acount()
    first = await Book.objects.afirst()
    return HttpResponse(f"{count} books, the first is {first}\n")


async def async_error(request):
    """Raise from the event loop."""
    await asyncio.sleep(0)
    raise ValueError("async view")


def stream(request):
    """Stream five lines from a generator that asks the database for each."""
    return StreamingHttpResponse(
        (f"{number} {Book.objects.count()}\n" for number in range(5)), content_type="text/plain"
    )


def stream_error(request):
    """Stream one line from the database, then raise."""

    def lines():
        yield f"{Book.objects.count()}\n"
        raise ValueError("in the middle of a stream")

    return StreamingHttpResponse(lines(), content_type="text/plain")


def held_stream(request):
    """Stream a line, and another one when `settings.OUTGOING_URL` has answered."""

    def lines():
        yield "before\n"
        yield f"{call_with_urllib(settings.OUTGOING_URL)}\n"

    return StreamingHttpResponse(lines(), content_type="text/plain")


async def async_stream(request):
    """Stream five lines from an asynchronous generator."""

    async def lines():
        for number in range(5):
            await asyncio.sleep(0)
            yield f"{number}\n"

    return StreamingHttpResponse(lines(), content_type="text/plain")


def download(request):
    """Send a file."""
    return FileResponse(Path(__file__).with_name("models.py").open("rb"), as_attachment=True)


class Hello(View):
    """A class with a method per HTTP method."""

    def get(self, request):
        """Answer a GET."""
        return HttpResponse("hello from a class\n")

    def post(self, request):
        """Answer a POST with its length."""
        return HttpResponse(f"{len(request.body)} bytes\n")


class AsyncHello(View):
    """A class whose methods are coroutines."""

    async def get(self, request):
        """Answer a GET."""
        return HttpResponse("hello from an async class\n")


class BookList(ListView):
    """One of Django's generic views; 1 query."""

    model = Book


class BookDetail(DetailView):
    """One of Django's generic views with an argument; 1 query, or a 404."""

    model = Book


def greet(request, greeting):
    """Answer with a greeting; served as a `functools.partial`."""
    return HttpResponse(f"{greeting}\n")


class Greeter:
    """An object that is called as a view; it has no `__name__`."""

    def __call__(self, request):
        """Answer a request."""
        return HttpResponse("hello from an object\n")

    def by_method(self, request):
        """Answer a request; served as a bound method."""
        return HttpResponse("hello from a method\n")


def shouting(view):
    """Return `view` with its answers in capitals, as a decorator does that keeps the name."""

    @functools.wraps(view)
    def wrapper(request, *args, **kwargs):
        response = view(request, *args, **kwargs)
        response.content = response.content.upper()
        return response

    return wrapper


@never_cache
@require_GET
@shouting
def decorated(request):
    """Answer through three decorators; `never_cache` adds an `Expires` header that changes each second."""
    return HttpResponse("decorated\n")


@require_GET
@shouting
def shouted(request):
    """Answer through two decorators."""
    return HttpResponse("shouted\n")


@csrf_exempt
def echo(request):
    """Answer with the body of the request."""
    return HttpResponse(request.body, content_type="application/octet-stream")


def value_error(request):
    """Raise what Django answers with a 500."""
    raise ValueError("no such value")


def missing(request):
    """Raise what Django answers with a 404."""
    raise Http404("no such page")


def forbidden(request):
    """Raise what Django answers with a 403."""
    raise PermissionDenied


def suspicious(request):
    """Raise what Django answers with a 400."""
    raise SuspiciousOperation("very odd")


def gone(request):
    """Answer with a 410 of the view's own making."""
    return HttpResponse("gone\n", status=410)


def redirect(request):
    """Answer with a redirect."""
    return HttpResponseRedirect("/plain/")


def cookie(request):
    """Answer with two cookies."""
    response = HttpResponse("cookies\n")
    response.set_cookie("first", "1")
    response.set_cookie("second", "2")
    return response


def queries(request, number):
    """Run `number` queries."""
    for _ in range(number):
        Book.objects.filter(stock__gte=0).count()
    return HttpResponse(f"{number} queries\n")


def cursor(request):
    """Use a cursor without the ORM: execute with and without parameters, executemany, and another alias."""
    with connection.cursor() as default, connections["archive"].cursor() as archive:
        default.execute("SELECT '100%'")
        literal = default.fetchone()[0]
        default.execute("SELECT title FROM books_book WHERE id = %s", [1])
        title = default.fetchone()[0]
        default.executemany("UPDATE books_book SET stock = %s WHERE id = %s", [(7, 1), (7, 2)])
        archive.execute("SELECT 1")
    return JsonResponse({"literal": literal, "title": title})


def sell(request):
    """Change a book within a transaction that has a savepoint which is rolled back."""
    with transaction.atomic():
        Book.objects.filter(pk=1).update(stock=7)
        try:
            with transaction.atomic():
                raise LookupError("undo")
        except LookupError:
            pass
    return HttpResponse("sold\n")


def broken_sql(request):
    """Send the database a statement that it refuses."""
    with connection.cursor() as database:
        database.execute("SELECT nobody FROM nowhere")


def outgoing(request, library):
    """Call `settings.OUTGOING_URL` with a library, and answer with the status that came back."""
    return HttpResponse(f"{library} {CALLERS[library](settings.OUTGOING_URL)}\n")


def call_with_requests(url):
    """Return the status of a GET by requests."""
    import requests

    return requests.get(url, timeout=10).status_code


def call_with_urllib3(url):
    """Return the status of a GET by urllib3."""
    import urllib3

    with urllib3.PoolManager() as pool:
        return pool.request("GET", url, timeout=10, retries=False).status


def call_with_urllib(url):
    """Return the status of a GET by urllib, that is by http.client."""
    from urllib.request import urlopen

    with urlopen(url, timeout=10) as response:
        return response.status


CALLERS = {"requests": call_with_requests, "urllib3": call_with_urllib3, "urllib": call_with_urllib}


def slow(request, milliseconds):
    """Take at least `milliseconds`."""
    time.sleep(milliseconds / 1000)
    return HttpResponse("slow\n")


async def async_slow(request, milliseconds):
    """Take at least `milliseconds` without holding up the event loop."""
    await asyncio.sleep(milliseconds / 1000)
    return HttpResponse("slow\n")


def log(request):
    """Write a line at each of three levels, the last with a traceback."""
    logger.info("an informative line about %s", "books")
    logger.warning("a warning", extra={"shelf": 3, "request": request})
    try:
        raise KeyError("isbn")
    except KeyError:
        logger.exception("an error that the view survives")
    return HttpResponse("logged\n")


def cached(request):
    """Set, get and miss a cache key."""
    cache.set("title", "Emma", 60)
    return HttpResponse(f"{cache.get('title')} {cache.get('isbn', 'unknown')}\n")


@login_required
def whoami(request):
    """Answer with the name of the user that is logged in."""
    return HttpResponse(f"{request.user.get_username()}\n")
