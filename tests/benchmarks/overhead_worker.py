"""One measured process: it serves pages in-process through Django's WSGI handler, as it is told.

It reads `<page> <requests>` lines and answers each with a line of JSON; before the first it says
what its start has cost, the first response included. `patches off` puts the application's own
functions back, `patches on` the agent's in their places; `gc off` collects no more garbage but
between blocks. It ends with its standard input.
"""

from __future__ import annotations

import gc
import io
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

KIB = 1024


def main() -> None:
    """Start Django as a server does, then obey."""
    from django.core.wsgi import get_wsgi_application

    application = get_wsgi_application()
    if os.environ.get("OVERHEAD_FLOOR"):
        import overhead_floor

        overhead_floor.install()
    if os.environ.get("OVERHEAD_IDS_OFF"):
        _leave_out_ids()
    if sys.argv[1:] == ["stock"]:
        import overhead_pages

        overhead_pages.stock()
        return
    _serve(application, "empty", 1)
    _say(startup_cpu_ms=time.process_time_ns() / 1e6)
    for line in sys.stdin:
        page, requests = line.split()
        if page == "patches":
            _put_patches(on=requests == "on")
        elif page == "gc":
            gc.disable()
        else:
            _say(**_measured(application, page, int(requests)))


def _put_patches(*, on: bool) -> None:
    from introspect.agent import patching

    for patch in patching._applied.values():
        setattr(patch.owner, patch.name, patch.replacement if on else patch.original)


def _leave_out_ids() -> None:
    """Neither look for an ID nor make one, answer with none and send none on."""
    from introspect.agent import correlation, outgoing
    from introspect.instrumentations import django_request

    nobodys = correlation.Inbound(correlation.NONE)
    correlation.Policy.accept = lambda *_: nobodys  # type: ignore[method-assign]
    correlation.new_id = lambda: correlation.NONE
    django_request._answer_with_id = lambda *_: None
    outgoing.add_headers = lambda *_: None


def _measured(application: Callable[..., Any], page: str, requests: int) -> dict[str, Any]:
    gc.collect()
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    each = _serve(application, page, requests)
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    return {
        "cpu_us": cpu / 1e3 / requests,
        "cpu_us_each": each,
        "wall_us": wall / 1e3 / requests,
        "rss_kib": _resident_kib(),
        "modules": len(sys.modules),
    }


def _serve(application: Callable[..., Any], page: str, requests: int) -> list[float]:
    """Serve *page* so many times; return the CPU microseconds of each request."""
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": f"/{page}/",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "HTTP_ACCEPT": "text/html",
        "HTTP_USER_AGENT": "benchmark",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.url_scheme": "http",
    }
    statuses = set()
    each = []
    for _ in range(requests):
        began = time.process_time_ns()
        response = application(dict(environ), lambda status, headers: statuses.add(status))
        for _chunk in response:
            pass
        response.close()
        each.append((time.process_time_ns() - began) / 1e3)
    assert statuses == {"200 OK"}, statuses
    return each


def _resident_kib() -> float:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / KIB


def _say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
