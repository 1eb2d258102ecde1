"""Each way that work leaves the thread of its request."""

import asyncio
import logging
import logging.config
import os
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import requests
from asgiref.sync import async_to_sync, sync_to_async
from books.models import Book
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.template.loader import render_to_string
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from introspect.agent import work

logger = logging.getLogger("story")
pool = ThreadPoolExecutor(1)


def current():
    """Return the ID that a log line of this place would bear."""
    made = logging.makeLogRecord({})
    return made.correlation_id


def own(request, name=""):
    """Answer with the ID, and log it."""
    logger.info("step one")
    logging.getLogger("story.silent").info("nobody's handler gets this")
    return JsonResponse({"here": current()})


async def tasks(request):
    """Answer with the ID as tasks, threads for sync code, and loops for async code have it."""

    def in_loop_again():
        return async_to_sync(inner)()

    async def inner():
        return current()

    return JsonResponse(
        {
            "here": current(),
            "task": await asyncio.create_task(inner()),
            "gathered": (await asyncio.gather(inner(), inner()))[1],
            "sync_to_async": await sync_to_async(current)(),
            "insensitive": await sync_to_async(current, thread_sensitive=False)(),
            "to_thread": await asyncio.to_thread(current),
            "executor": await asyncio.get_running_loop().run_in_executor(None, current),
            "and back": await sync_to_async(in_loop_again)(),
        }
    )


def threads(request):
    """Answer with the ID as threads and a pool's thread have it."""
    found = {}
    thread = threading.Thread(target=lambda: found.setdefault("thread", current()))
    thread.start()
    thread.join()

    async def inner():
        return current()

    with ThreadPoolExecutor(1) as short:
        found["mapped"] = next(short.map(lambda _: current(), [1]))
    found["pool"] = pool.submit(current).result()
    found["async_to_sync"] = async_to_sync(inner)()
    # What the pool's thread has left of us when nothing of anybody's runs in it.
    found["here"] = current()
    return JsonResponse(found)


def child(request):
    """Answer with what child processes print, each started in another way."""
    command = [sys.executable, "-m", "django", "tell_id"]
    environments = {
        "inherited": {},
        "explicit": {"env": {**os.environ, "EXTRA": "1"}},
    }
    found = {
        name: subprocess.run(command, capture_output=True, text=True, check=True, **more).stdout
        for name, more in environments.items()
    }
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"]}
    bare["DJANGO_SETTINGS_MODULE"] = os.environ["DJANGO_SETTINGS_MODULE"]
    found["bare"] = subprocess.run(
        [sys.executable, "-c", "import os; print(sorted(os.environ))"],
        env=bare, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return JsonResponse({"here": current(), **found})


async def child_of_a_loop(request):
    """Answer with what a child process prints that the event loop starts, and whose loop that is."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "django", "tell_id", stdout=subprocess.PIPE
    )
    printed, _ = await process.communicate()
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return JsonResponse({"here": current(), "inherited": printed.decode(), "loop": loop})


def rows(request):
    """Ask the database, with parameters and literals that nobody may see."""
    list(Book.objects.filter(title="hunter2-parameter"))
    list(Book.objects.filter(title="hunter2-parameter"))
    Book.objects.extra(where=["title = 'hunter2-literal'"]).count()
    return HttpResponse("rows")


def relayed(request):
    """Call another service, and answer with the SQL that the database has been sent."""
    statements = []
    connection.ensure_connection()
    connection.connection.set_trace_callback(statements.append)
    Book.objects.count()
    connection.connection.set_trace_callback(None)
    urllib.request.urlopen(request.GET["to"]).close()
    return JsonResponse({"here": current(), "sql": statements})


def many(request, number):
    """Ask the database many times, the first time slowly."""
    for index in range(number):
        Book.objects.filter(pk=index).count()
    return HttpResponse("many")


def boom(request):
    """Ask, log and fail."""
    Book.objects.count()
    logger.info("about to fail")
    raise ValueError("hunter2-message")


@csrf_exempt
def everything(request):
    """Do all that a line tells of, with secrets from the form, and fail for what another service answers."""
    request.user = get_user_model()(pk=77)
    form = request.POST
    for _ in range(2):
        list(Book.objects.filter(title=form["parameter"]))
    connection.connection.create_function("pause", 1, time.sleep)  # to be the slowest
    Book.objects.extra(where=[f"title = '{form['literal']}' OR pause(0.01)"]).count()
    cache.get(form["password"])
    cache.set(form["password"], form["password"])
    cache.get(form["password"])
    render_to_string("books/line.html", {"book": form["password"]})
    logger.info("calling %s", form["to"], extra={"password": form["password"], "request": request})
    requests.get(form["to"]).raise_for_status()


def logged_in(request):
    """Touch the user."""
    return HttpResponse(str(request.user))


def assigned(request):
    """Set the user as REST framework's authentication and `login()` do."""
    request.user = get_user_model()(pk=77)
    return HttpResponse("assigned")


def stream(request):
    """Ask the database while the answer is on its way, slowly."""

    def parts():
        for _ in range(3):
            yield f"{Book.objects.count()}\n"
            time.sleep(0.05)

    return StreamingHttpResponse(parts(), content_type="text/plain")


def endless(request):
    """Stream until the client has gone away."""

    def parts():
        while True:
            yield "x" * 65536

    return StreamingHttpResponse(parts(), content_type="text/plain")


def slow(request):
    """Take longer than anybody waits."""
    Book.objects.count()
    logger.info("begun")
    time.sleep(float(request.GET.get("seconds", "30")))
    return HttpResponse("slow")


async def async_slow(request):
    """Take longer than anybody waits, without holding up the loop."""
    logger.info("begun")
    await asyncio.sleep(30)
    return HttpResponse("slow")


def reconfigured(request):
    """Configure logging anew, and log."""
    logging.config.dictConfig(settings.LOGGING)
    logging.getLogger("story.later").warning("after a later dictConfig")
    return HttpResponse("reconfigured")


def command(request):
    """Call a command within the request."""
    call_command("tell_id")
    return JsonResponse({"here": current(), "kind": work.current.get().kind})


urlpatterns = [
    path("own/", own),
    path("own/<slug:name>/", own),
    path("tasks/", tasks),
    path("threads/", threads),
    path("child/", child),
    path("child-of-a-loop/", child_of_a_loop),
    path("rows/", rows),
    path("relayed/", relayed),
    path("many/<int:number>/", many),
    path("boom/", boom),
    path("everything/", everything),
    path("user/", logged_in),
    path("assigned/", assigned),
    path("stream/", stream),
    path("endless/", endless),
    path("slow/", slow),
    path("async-slow/", async_slow),
    path("reconfigured/", reconfigured),
    path("command/", command),
    path("", include("shop.urls")),
]
