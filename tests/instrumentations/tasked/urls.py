"""Views that send tasks."""

from celery.result import EagerResult
from django.http import JsonResponse
from django.urls import path

from tasked import tasks


def send(request):
    """Send a task, with a header of its own if asked to."""
    headers = {"tenant": request.GET["tenant"]} if "tenant" in request.GET else None
    before = dict(headers or {})
    result = tasks.tell.apply_async(headers=headers)
    assert (headers or {}) == before
    return JsonResponse(
        {"task": result.id, "told": result.result if isinstance(result, EagerResult) else None}
    )


def send_failing(request):
    """Send a task that fails."""
    return JsonResponse({"task": tasks.fail.delay().id})


urlpatterns = [path("send/", send), path("send-failing/", send_failing)]
