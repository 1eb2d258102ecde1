"""Middleware that answers, raises, or chooses other URLs, for the tests of `django_request`."""

from __future__ import annotations

from typing import Any


class Early:
    """Do what the request's header `Wish` says; synchronous, as most middleware is."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        """Answer early, raise, or replace the view's answer."""
        from django.http import HttpResponse

        wish = request.headers.get("Wish")
        if wish == "answer":
            return HttpResponse("early", status=202)
        if wish == "raise":
            raise LookupError("as asked")
        response = self.get_response(request)
        return HttpResponse(status=204) if wish == "replace" else response

    def process_view(self, request: Any, *_view: Any) -> Any:
        """Answer once the view is known."""
        from django.http import HttpResponse

        if request.headers.get("Wish") == "process_view":
            return HttpResponse("process_view", status=203)
        return None


class RaiseAgain:
    """Raise the exception that the view has raised once Django has converted it."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        self.raised: Exception | None = None

    def __call__(self, request: Any) -> Any:
        """Raise what `process_exception` has seen."""
        self.get_response(request)
        assert self.raised is not None
        raise self.raised

    def process_exception(self, request: Any, exception: Exception) -> None:
        """Keep the exception."""
        self.raised = exception


def other_urlconf(get_response: Any) -> Any:
    """Serve each request from the URLs of `settings.OTHER_URLCONF`."""

    def middleware(request: Any) -> Any:
        from django.conf import settings

        request.urlconf = settings.OTHER_URLCONF
        return get_response(request)

    return middleware


def unrendered(get_response: Any) -> Any:
    """Answer with a template that nobody has rendered, as a middleware may by mistake."""

    def middleware(request: Any) -> Any:
        from django.template.response import TemplateResponse

        return TemplateResponse(request, "nowhere.html")

    return middleware


def bare(get_response: Any) -> Any:
    """Answer with the least that Django calls a response."""

    def middleware(request: Any) -> Any:
        from django.http.response import HttpResponseBase

        return HttpResponseBase()

    return middleware
