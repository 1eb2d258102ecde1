"""Views of every kind that Django calls, for the tests of `django_request`."""

from __future__ import annotations

import functools
from typing import Any

from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse
from django.views import View


def plain(request: HttpRequest, **captured: Any) -> HttpResponse:
    """Answer with a constant."""
    return HttpResponse("plain")


async def plain_async(request: HttpRequest) -> HttpResponse:
    """Answer with a constant from the event loop."""
    return HttpResponse("plain async")


class Page(View):
    """A class-based view."""

    async_name = "unused"

    def get(self, request: HttpRequest) -> HttpResponse:
        """Answer a GET."""
        return HttpResponse("page")


class AsyncPage(View):
    """A class-based view with a coroutine."""

    async def get(self, request: HttpRequest) -> HttpResponse:
        """Answer a GET."""
        return HttpResponse("async page")


class Nameless:
    """A callable object: it has no `__name__`."""

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a request."""
        return HttpResponse("object")

    def method(self, request: HttpRequest) -> HttpResponse:
        """Answer a request; a bound method as view."""
        return HttpResponse("method")


class Misleading(Nameless):
    """A callable object whose attributes look like those of a framework's view, and are not."""

    def __init__(self) -> None:
        self.cls = "not a class"
        self.actions = "list"


def shout(view: Any) -> Any:
    """Decorate as most people do."""

    @functools.wraps(view)
    def wrapper(request: HttpRequest) -> HttpResponse:
        response: HttpResponse = view(request)
        response.content = response.content.upper()
        return response

    return wrapper


@shout
def decorated(request: HttpRequest) -> HttpResponse:
    """Answer through a decorator."""
    return HttpResponse("decorated")


ERRORS = {
    "Http404": Http404,
    "PermissionDenied": PermissionDenied,
    "SuspiciousOperation": SuspiciousOperation,
    "ValueError": ValueError,
}


def failing(request: HttpRequest, name: str) -> HttpResponse:
    """Raise the exception named."""
    raise ERRORS[name]("as asked")


async def failing_async(request: HttpRequest, name: str) -> HttpResponse:
    """Raise the exception named, from the event loop."""
    raise ERRORS[name]("as asked")
