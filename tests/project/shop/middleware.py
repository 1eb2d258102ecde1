"""Middleware that may answer in place of the view."""

from asgiref.sync import iscoroutinefunction
from django.http import HttpResponse
from django.utils.decorators import sync_and_async_middleware


@sync_and_async_middleware
def early_answer(get_response):
    """Answer a request that has the header `X-Early` without asking any view; `X-Early: raise` raises instead."""

    def early(request):
        wish = request.headers.get("X-Early")
        if wish == "raise":
            raise LookupError("the middleware was asked to raise")
        return HttpResponse("answered early\n", status=202) if wish else None

    if iscoroutinefunction(get_response):

        async def middleware(request):
            return early(request) or await get_response(request)

    else:

        def middleware(request):
            return early(request) or get_response(request)

    return middleware
