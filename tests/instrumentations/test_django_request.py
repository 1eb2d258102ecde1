"""Requests through Django's own handlers: what is counted, under which name, and what stays as it was."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import io
import json
import logging
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from asgiref.sync import iscoroutinefunction
from django import VERSION

from introspect.agent import work
from introspect.instrumentations import django_request
from introspect.instrumentations._django_views import callable_name
from tests.instrumentations import request_middleware as middleware
from tests.instrumentations.conftest import VIEWS, Agent
from tests.instrumentations.handlers import (
    FETCH,
    Answer,
    WsgiCall,
    call_asgi,
    environ,
    fetch_wsgi,
    scope,
    urlconf,
    wsgi_handler,
)

SESSIONS = {
    "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
    "MIDDLEWARE": [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
}


def routes(views: Any) -> list[Any]:
    """Return one route for each kind of view."""
    from django.contrib import admin
    from django.urls import path
    from rest_framework import viewsets
    from rest_framework.response import Response
    from rest_framework.views import APIView

    class Api(APIView):
        authentication_classes = ()
        permission_classes = ()

        def get(self, request: Any) -> Any:
            return Response({"api": 1})

    class Things(viewsets.ViewSet):
        authentication_classes = ()
        permission_classes = ()

        def list(self, request: Any) -> Any:
            return Response([1])

    return [
        path("", views.plain),
        path("async/", views.plain_async),
        path("class/", views.Page.as_view()),
        path("async-class/", views.AsyncPage.as_view()),
        path("partial/", functools.partial(functools.partial(views.plain), extra=1)),
        path("object/", views.Nameless()),
        path("method/", views.Nameless().method),
        path("misleading/", views.Misleading()),
        path("decorated/", views.decorated),
        path("decorated-class/", views.shout(views.Page.as_view())),
        path("lambda/", lambda request: views.plain(request)),  # noqa: PLW0108  a lambda is the point
        path("admin/", admin.site.urls),
        path("api/", Api.as_view()),
        path("things/", Things.as_view({"get": "list"})),
        path("failing/<name>/", views.failing),
        path("failing-async/<name>/", views.failing_async),
    ]


HERE = "tests_instrumentations_test_django_request_routes__locals__"

NAMES = {
    "/": f"{VIEWS}plain",
    "/async/": f"{VIEWS}plain_async",
    "/class/": f"{VIEWS}Page",
    "/async-class/": f"{VIEWS}AsyncPage",
    "/partial/": f"{VIEWS}plain",
    "/object/": f"{VIEWS}Nameless",
    "/method/": f"{VIEWS}Nameless_method",
    "/misleading/": f"{VIEWS}Misleading",
    "/decorated/": f"{VIEWS}decorated",
    "/decorated-class/": f"{VIEWS}Page",
    "/lambda/": f"{HERE}_lambda_",
    "/admin/auth/group/": "django_contrib_auth_admin_GroupAdmin_changelist_view",
    "/admin/": "django_contrib_admin_sites_AdminSite_index",
    "/api/": f"{HERE}Api",
    "/things/": f"{HERE}Things_list",
}


class TestNames:
    """Under which name a request is counted."""

    @pytest.mark.parametrize("path", NAMES)
    def test_each_kind_of_view_has_its_name(
        self,
        path: str,
        fetch: Callable[..., Answer],
        django: Callable[..., None],
        views: Any,
        agent: Agent,
    ) -> None:
        """A view is named by where it is written, a class by the class, an admin page by its ModelAdmin."""
        django(ROOT_URLCONF=urlconf(*routes(views)), **SESSIONS)

        answer = fetch(path)

        status = 302 if path.startswith("/admin/") else 200
        assert answer.status == status
        assert agent.counts("view.") == {f"view.{NAMES[path]}.GET": 1}
        assert agent.counts("re") == {
            "request": 1,
            "request.first_byte": 1,
            f"response.{status}": 1,
        }
        assert agent.counts("exception") == {}

    def test_an_unmatched_path_is_unresolved(
        self, fetch: Callable[..., Answer], django: Callable[..., None], agent: Agent
    ) -> None:
        """A path that no route matches never becomes a name."""
        django(ROOT_URLCONF=urlconf())

        answer = fetch("/wp-login.php")

        assert answer.status == 404
        assert agent.counts("view.") == {"view.unresolved.GET": 1}
        assert agent.counts("exception.") == {"exception.Resolver404.unresolved": 1}

    def test_the_route_of_the_root_is_a_slash(
        self,
        fetch: Callable[..., Answer],
        django: Callable[..., None],
        start_agent: Callable[..., Agent],
        tmp_path: Path,
    ) -> None:
        """The route that Django writes as an empty string is `/`, in SQL comments and in the log."""
        from django.http import HttpResponse
        from django.urls import path

        start_agent(LOG=f"file://{tmp_path}/log")
        said = []

        def root(request: Any) -> Any:
            unit = work.active()
            assert unit is not None
            said.append(unit.comment_parts(("route",)))
            return HttpResponse("x")

        django(ROOT_URLCONF=urlconf(path("", root)))
        fetch("/")
        lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]

        assert said == [["/"]]
        assert [line["route"] for line in lines if line.get("kind") == "request"] == ["/"]

    def test_a_language_prefix_is_no_part_of_the_name(
        self, fetch: Callable[..., Answer], django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """Each language of a route counts under the one view."""
        from django.conf.urls.i18n import i18n_patterns
        from django.urls import path

        django(
            ROOT_URLCONF=urlconf(*i18n_patterns(path("hello/", views.plain))),
            MIDDLEWARE=["django.middleware.locale.LocaleMiddleware"],
        )

        statuses = [fetch(path).status for path in ("/en/hello/", "/de/hello/", "/hello/")]

        assert statuses == [200, 200, 302]
        assert agent.counts("view.") == {f"view.{VIEWS}plain.GET": 2, "view.unresolved.GET": 1}

    def test_a_urlconf_that_middleware_chooses_is_followed(
        self, fetch: Callable[..., Answer], django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """The view is read at the end, so it is the one of the `request.urlconf` in force."""
        from django.urls import path

        django(
            ROOT_URLCONF=urlconf(path("", views.plain)),
            OTHER_URLCONF=urlconf(path("", views.decorated)),
            MIDDLEWARE=[f"{middleware.__name__}.other_urlconf"],
        )

        fetch("/")

        assert agent.counts("view.") == {f"view.{VIEWS}decorated.GET": 1}

    @pytest.mark.parametrize("method", ["HEAD", "POST", "OPTIONS", "PATCH"])
    def test_standard_methods_are_told_apart(
        self,
        method: str,
        fetch: Callable[..., Answer],
        django: Callable[..., None],
        views: Any,
        agent: Agent,
    ) -> None:
        """The method is a part of the view's name."""
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("", views.plain)))

        fetch("/", method)

        assert agent.counts("view.") == {f"view.{VIEWS}plain.{method}": 1}

    def test_methods_that_clients_invent_make_no_names(
        self, fetch: Callable[..., Answer], django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """All methods that are not standard share one name."""
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("", views.plain)))

        for method in ("BREW", "get", "X" * 500):
            fetch("/", method)

        assert agent.counts("view.") == {f"view.{VIEWS}plain._other": 3}


class TestEarlyAnswers:
    """Middleware that answers in place of the view."""

    @pytest.mark.parametrize(
        ("wish", "status", "view", "exceptions"),
        [
            ("answer", 202, "unresolved", {}),
            ("raise", 500, "unresolved", {"exception.LookupError.unresolved": 1}),
            ("process_view", 203, f"{VIEWS}plain", {}),
            ("replace", 204, f"{VIEWS}plain", {}),
        ],
    )
    def test_is_counted_once_under_what_is_known(
        self,
        wish: str,
        status: int,
        view: str,
        exceptions: dict[str, int],
        fetch: Callable[..., Answer],
        django: Callable[..., None],
        views: Any,
        agent: Agent,
    ) -> None:
        """Before the URL is resolved there is no view, behind it there is one."""
        from django.urls import path

        django(
            ROOT_URLCONF=urlconf(path("", views.plain)),
            MIDDLEWARE=[f"{middleware.__name__}.Early"],
        )

        answer = fetch("/", wish=wish)

        assert answer.status == status
        assert agent.counts("view.") == {f"view.{view}.GET": 1}
        assert agent.counts("response.") == {f"response.{status}": 1}
        assert agent.counts("exception.") == exceptions


STATUSES = {"Http404": 404, "PermissionDenied": 403, "SuspiciousOperation": 400, "ValueError": 500}


class Stopped(BaseException):
    """What a server's own way to end a request raises in the middle of it, as gevent's `GreenletExit`."""


class TestExceptions:
    """Exceptions: those Django converts, those it answers with 500, and those that get out."""

    @pytest.mark.parametrize("name", STATUSES)
    @pytest.mark.parametrize("kind", ["failing", "failing-async"])
    def test_is_counted_once_under_its_own_class(
        self,
        kind: str,
        name: str,
        fetch: Callable[..., Answer],
        django: Callable[..., None],
        views: Any,
        agent: Agent,
    ) -> None:
        """Whatever status Django makes of it, the exception keeps its class and its view."""
        django(
            ROOT_URLCONF=urlconf(*routes(views)),
            MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        )

        answer = fetch(f"/{kind}/{name}/")

        view = f"{VIEWS}{kind.replace('-', '_')}"
        assert answer.status == STATUSES[name]
        assert agent.counts("exception.") == {f"exception.{name}.{view}": 1}
        assert agent.counts("response.") == {f"response.{STATUSES[name]}": 1}
        assert agent.counts("view.") == {f"view.{view}.GET": 1}

    def test_the_same_object_raised_again_behind_a_conversion_counts_again(
        self, fetch: Callable[..., Answer], django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """What Django has converted is over: middleware that raises the same object fails anew."""
        django(
            ROOT_URLCONF=urlconf(*routes(views)),
            MIDDLEWARE=[f"{middleware.__name__}.RaiseAgain"],
        )

        fetch("/failing/ValueError/")

        assert agent.counts("exception.") == {f"exception.ValueError.{VIEWS}failing": 2}

    @pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")  # Django's, under ASGI
    def test_propagates_as_it_was(
        self, fetch: Callable[..., Answer], django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """With DEBUG_PROPAGATE_EXCEPTIONS the exception leaves the handler, and is counted once."""
        django(
            ROOT_URLCONF=urlconf(*routes(views)),
            DEBUG_PROPAGATE_EXCEPTIONS=True,
            MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        )

        with pytest.raises(ValueError, match="as asked"):
            fetch("/failing/ValueError/")
        gc.collect()

        assert agent.counts("exception.") == {f"exception.ValueError.{VIEWS}failing": 1}
        assert agent.counts("request") == {"request": 1}
        assert agent.counts("view.") == {f"view.{VIEWS}failing.GET": 1}
        assert agent.counts("response.") == {"response.500": 1}

    @pytest.mark.parametrize(
        "error", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, Stopped]
    )
    def test_an_interruption_is_no_error(
        self, error: type[BaseException], django: Callable[..., None], agent: Agent
    ) -> None:
        """A worker that is told to stop in the middle of a request has aborted it, not failed."""
        from django.urls import path

        def stopping(request: Any) -> Any:
            raise error

        stopping.__module__, stopping.__qualname__ = "site.views", "stopping"
        django(ROOT_URLCONF=urlconf(path("", stopping)))

        with pytest.raises(error):
            fetch_wsgi("/")

        assert agent.counts("view.") == {"view.site_views_stopping.GET": 1}
        assert agent.counts("exception.") == {}
        assert agent.counts("response.") == {}
        assert agent.counts("request") == {"request": 1, "request.aborted": 1}


class TestNested:
    """Requests within requests: only the outermost counts."""

    def test_a_handler_that_calls_its_base_class(
        self, django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """`super().__call__` is the same request."""
        from django.core.handlers.wsgi import WSGIHandler
        from django.urls import path

        class Handler(WSGIHandler):
            def __call__(self, environ: Any, start_response: Any) -> Any:
                return super().__call__(environ, start_response)

        django(ROOT_URLCONF=urlconf(path("", views.plain)))

        WsgiCall(environ(), Handler()).read()

        assert agent.counts("request") == {"request": 1, "request.first_byte": 1}

    def test_a_view_that_calls_a_handler(
        self, django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """A request that a view serves to itself is a part of the outer one, whose view it keeps."""
        from django.http import HttpResponse
        from django.urls import path

        def outer(request: Any) -> Any:
            assert fetch_wsgi("/failing/ValueError/").status == 500
            return HttpResponse(fetch_wsgi("/inner/").body)

        django(ROOT_URLCONF=urlconf(path("", outer), path("inner/", views.plain), *routes(views)))

        answer = fetch_wsgi("/")

        assert answer.body == b"plain"
        assert agent.counts("request")["request"] == 1
        assert agent.counts("response.") == {"response.200": 1}
        assert sum(agent.counts("view.").values()) == 1
        assert VIEWS not in "".join(agent.counts("view."))
        assert agent.counts("exception.") == {}

    # Not ASGI from within a synchronous view: the one thread that asgiref has for both is taken.
    @pytest.mark.parametrize(
        ("is_async", "inner"), [(True, "asgi"), (True, "wsgi"), (False, "wsgi")]
    )
    def test_a_view_that_calls_a_handler_under_asgi(
        self,
        inner: str,
        is_async: bool,
        django: Callable[..., None],
        views: Any,
        agent: Agent,
    ) -> None:
        """There a view runs in a task or a thread of its own; what it does behind such a call is still its own."""
        from django.http import HttpResponse
        from django.template import Context, Engine
        from django.urls import path

        template = Engine().from_string("x")
        seen = []

        def note() -> Any:
            template.render(Context())
            seen.append(work.correlation_id())
            return HttpResponse("outer")

        async def outer_async(request: Any) -> Any:
            answer = await call_asgi(scope("/inner/")) if inner == "asgi" else fetch_wsgi("/inner/")
            assert answer.body == b"plain"
            return note()

        def outer(request: Any) -> Any:
            assert FETCH[inner]("/inner/").body == b"plain"
            return note()

        view = outer_async if is_async else outer
        django(ROOT_URLCONF=urlconf(path("", view), path("inner/", views.plain)))

        assert asyncio.run(call_asgi(scope(x_request_id="outer-0001"))).body == b"outer"
        assert seen == ["outer-0001"]
        assert agent.counts("request")["request"] == 1
        assert agent.counts("request.template") == {"request.template": 1}
        assert sum(agent.counts("view.").values()) == 1

    def test_a_request_that_begins_within_the_sending_of_another(
        self, django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """Servers start the next request of a connection from within the last one's `send`: it is its own."""
        from django.core.handlers.asgi import ASGIHandler
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("<name>/", views.plain)))
        following: list[asyncio.Task[Answer]] = []

        async def run() -> None:
            messages = iter([{"type": "http.request", "body": b""}])

            async def receive() -> dict[str, Any]:
                for message in messages:
                    return message
                await asyncio.sleep(60)
                raise AssertionError("the client stays")

            async def send(message: dict[str, Any]) -> None:
                if not message.get("more_body") and message["type"] == "http.response.body":
                    following.append(asyncio.create_task(call_asgi(scope("/second/"))))
                    await asyncio.sleep(0.1)

            await ASGIHandler()(scope("/first/"), receive, send)
            assert (await following[0]).body == b"plain"

        asyncio.run(run())

        assert agent.counts("request")["request"] == 2
        assert agent.counts("view.") == {f"view.{VIEWS}plain.GET": 2}

    def test_the_test_client_is_left_alone(
        self, django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """It calls no server's handler: nothing is counted, and its responses are its own."""
        from django.test import Client
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("", views.plain), path("failing/<name>/", views.failing)))
        client = Client(headers={"host": "testserver"})

        answer = client.get("/")

        assert answer.content == b"plain"
        assert answer.resolver_match.func is views.plain
        with pytest.raises(ValueError, match="as asked"):
            client.get("/failing/ValueError/")
        assert agent.counts("re") == {}
        assert agent.counts("view.") == agent.counts("exception.") == {}

    def test_the_test_client_within_a_request(
        self, django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """What a view asks of a test client changes neither its own view nor its exceptions."""
        from django.http import HttpResponse
        from django.test import Client
        from django.urls import path

        def outer(request: Any) -> Any:
            client = Client(headers={"host": "testserver"}, raise_request_exception=False)
            return HttpResponse(str(client.get("/failing/ValueError/").status_code))

        django(ROOT_URLCONF=urlconf(path("", outer), path("failing/<name>/", views.failing)))

        answer = fetch_wsgi("/")

        assert answer.body == b"500"
        assert agent.counts("response.") == {"response.200": 1}
        assert agent.counts("exception.") == {}


class TestUntouched:
    """What the application sees is what it saw without the agent."""

    @pytest.fixture
    def agent(self, any_agent: Agent) -> Agent:
        """The agent, also with all that looks at a request switched on."""
        return any_agent

    def test_a_host_that_is_not_allowed_is_not_looked_at(
        self, fetch: Callable[..., Answer], django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """A page that never asks for the host is served whatever the host."""
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("", views.plain)), MIDDLEWARE=[])

        answer = fetch("/", host="not.allowed.example")

        assert answer.status == 200
        assert agent.counts("exception.") == {}

    def test_a_host_that_is_not_allowed_counts_where_it_is_refused(
        self, fetch: Callable[..., Answer], django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """Where middleware asks for the host, its refusal is counted under its class."""
        from django.urls import path

        django(
            ROOT_URLCONF=urlconf(path("", views.plain)),
            MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        )

        answer = fetch("/", host="not.allowed.example")

        assert answer.status == 400
        assert agent.counts("exception.") == {"exception.DisallowedHost.unresolved": 1}

    def test_user_and_session_are_not_looked_at(
        self, fetch: Callable[..., Answer], django: Callable[..., None], agent: Agent
    ) -> None:
        """No `Vary: Cookie`, no session loaded, no user asked for."""
        from django.http import HttpResponse
        from django.urls import path

        seen = []

        def view(request: Any) -> Any:
            seen.append(request)
            return HttpResponse("x")

        django(ROOT_URLCONF=urlconf(path("", view)), **SESSIONS)

        answer = fetch("/")

        assert answer.header("Vary") is None
        assert seen[0].session.accessed is False
        assert "_session_cache" not in seen[0].session.__dict__
        assert "_cached_user" not in seen[0].__dict__

    def test_the_body_is_left_to_the_view(self, django: Callable[..., None], agent: Agent) -> None:
        """The view is the first to read the request's body."""
        from django.http import HttpResponse
        from django.urls import path

        def view(request: Any) -> Any:
            assert not request._read_started
            return HttpResponse(request.read(3) + b"|" + request.read())

        django(ROOT_URLCONF=urlconf(path("", view)))
        sent = {"wsgi.input": io.BytesIO(b"abcdef"), "CONTENT_LENGTH": "6"}

        assert WsgiCall(environ("/", "POST", **sent)).read().body == b"abc|def"

    def test_a_body_that_the_view_leaves_is_left(
        self, fetch: Callable[..., Answer], django: Callable[..., None], agent: Agent
    ) -> None:
        """Nobody reads or parses a form, before the view, behind it, or when it fails."""
        from django.urls import path

        seen = []

        def view(request: Any) -> Any:
            seen.append(request)
            raise ValueError("with a form at hand")

        django(ROOT_URLCONF=urlconf(path("", view)), **SESSIONS)

        fetch("/", "POST", content_type="application/x-www-form-urlencoded", cookie="sessionid=x")

        assert not seen[0]._read_started
        assert {"_post", "_files", "_body"}.isdisjoint(vars(seen[0]))

    def test_views_and_matches_stay_what_they_are(
        self, django: Callable[..., None], views: Any, start_agent: Callable[..., Agent]
    ) -> None:
        """Views are replaced by nothing and get no attribute; a match prints as ever."""
        from django.urls import path, resolve

        django(ROOT_URLCONF=urlconf(path("x/", views.plain), path("c/", views.Page.as_view())))
        before = (repr(resolve("/x/")), dict(vars(views.Page)), vars(views.plain).copy())

        start_agent()
        fetch_wsgi("/x/")
        fetch_wsgi("/c/")

        assert resolve("/x/").func is views.plain
        assert (repr(resolve("/x/")), dict(vars(views.Page)), vars(views.plain)) == before
        assert vars(resolve("/c/").func)["view_class"] is views.Page

    @pytest.mark.parametrize("kind", FETCH)
    def test_no_middleware_and_no_application_is_added(
        self, kind: str, django: Callable[..., None], start_agent: Callable[..., Agent]
    ) -> None:
        """Settings stay as they are, and so does what the handler makes of the middleware."""
        from django.apps import apps
        from django.conf import settings
        from django.core.handlers.asgi import ASGIHandler
        from django.core.handlers.wsgi import WSGIHandler
        from django.utils.deprecation import MiddlewareMixin

        make_handler: Any = {"wsgi": WSGIHandler, "asgi": ASGIHandler}[kind]
        django(ROOT_URLCONF=urlconf(), **SESSIONS)

        def chain() -> list[Any]:
            handler = make_handler()
            found, link = [], handler._middleware_chain
            while link is not None:
                found.append(f"{type(link).__module__}.{type(link).__qualname__}")
                if type(link).__module__.startswith("django.contrib"):
                    found += [dict(vars(type(link))), dict(vars(MiddlewareMixin))]
                link = getattr(link, "__wrapped__", None) or getattr(link, "get_response", None)
            return found

        before = (
            chain(),
            list(settings.MIDDLEWARE),
            list(settings.INSTALLED_APPS),
            [*apps.app_configs],
        )
        start_agent()
        after = (
            chain(),
            list(settings.MIDDLEWARE),
            list(settings.INSTALLED_APPS),
            [*apps.app_configs],
        )

        assert after == before

    def test_the_asgi_handler_is_still_a_coroutine_function(
        self, django: Callable[..., None], agent: Agent
    ) -> None:
        """Servers ask, to tell ASGI 3 from ASGI 2 and from WSGI."""
        from asgiref.compatibility import is_double_callable
        from django.core.handlers.asgi import ASGIHandler
        from django.core.handlers.base import BaseHandler
        from django.core.handlers.wsgi import WSGIHandler

        assert inspect.iscoroutinefunction(ASGIHandler().__call__)
        assert iscoroutinefunction(ASGIHandler().__call__)
        assert iscoroutinefunction(BaseHandler().get_response_async)
        assert not is_double_callable(ASGIHandler())
        assert not iscoroutinefunction(WSGIHandler().__call__)
        assert not iscoroutinefunction(BaseHandler().get_response)

    @pytest.mark.parametrize("kind", ["failing", "failing-async"])
    @pytest.mark.parametrize("name", STATUSES)
    def test_debug_pages_are_the_same(
        self,
        name: str,
        kind: str,
        fetch: Callable[..., Answer],
        django: Callable[..., None],
        views: Any,
        start_agent: Callable[..., Agent],
    ) -> None:
        """With DEBUG on, the technical pages show no frame and no variable of ours."""
        django(ROOT_URLCONF=urlconf(*routes(views)), DEBUG=True)

        without = fetch(f"/{kind}/{name}/")
        start_agent()
        with_agent = fetch(f"/{kind}/{name}/")

        assert without.status == STATUSES[name]
        assert normalised(with_agent.body) == normalised(without.body)


def normalised(page: bytes) -> str:
    """Return a technical page without what differs from one request to the next."""
    text = re.sub(r"0x[0-9a-f]+|\d{9,}", "0x", page.decode())
    return re.sub(r"\d{1,2}:\d\d:\d\d|\w{3} \w{3} \d\d|\d{4} \d\d:\d\d:\d\d.*", "", text)


class TestAsgi:
    """What only ASGI has: scopes of other kinds, keys that may be missing, disconnects."""

    def test_keys_that_a_server_may_leave_out(
        self, django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """`query_string`, `headers`, `root_path`, `client` and `server` are optional."""
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("", views.plain_async)))
        bare = {"type": "http", "method": "GET", "path": "/"}

        assert asyncio.run(call_asgi(bare)).body == b"plain async"
        assert agent.counts("view.") == {f"view.{VIEWS}plain_async.GET": 1}

    @pytest.mark.parametrize("kind", ["websocket", "lifespan", "something-new"])
    def test_other_scopes_pass(
        self, kind: str, django: Callable[..., None], start_agent: Callable[..., Agent]
    ) -> None:
        """Django refuses them in its own words, and nothing is counted."""
        django(ROOT_URLCONF=urlconf())

        def refusal() -> str:
            with pytest.raises(ValueError, match="Django can only handle") as caught:
                asyncio.run(call_asgi({"type": kind}))
            return str(caught.value)

        without = refusal()
        agent = start_agent()

        assert refusal() == without
        assert agent.counts() == {}

    @pytest.mark.skipif(
        VERSION < (5, 0), reason="Django notices that a client has gone away from 5.0 on"
    )
    @pytest.mark.parametrize("is_async", [True, False])
    def test_a_client_that_goes_away(
        self, is_async: bool, django: Callable[..., None], agent: Agent
    ) -> None:
        """The request is aborted, not failed; a synchronous view that runs on does not hang it."""
        from django.http import HttpResponse
        from django.urls import path

        loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

        async def view_async(request: Any) -> Any:
            gone.set()
            await asyncio.sleep(30)

        def view_sync(request: Any) -> Any:
            loop, event = loops[0]
            loop.call_soon_threadsafe(event.set)
            # The loop's own time: it has long seen to the client that is gone.
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.2), loop).result(10)
            return HttpResponse("too late")

        django(ROOT_URLCONF=urlconf(path("", view_async if is_async else view_sync)))

        async def run() -> Answer:
            nonlocal gone
            gone = asyncio.Event()
            loops.append((asyncio.get_running_loop(), gone))
            return await asyncio.wait_for(call_asgi(scope(), disconnected=gone), 10)

        gone = asyncio.Event()
        answer = asyncio.run(run())

        assert answer.status == 0
        assert agent.counts("request") == {"request": 1, "request.aborted": 1}
        assert agent.counts("exception.") == {}

    @pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")  # Django's
    def test_a_server_that_cancels_while_a_sync_view_runs(
        self, django: Callable[..., None], agent: Agent
    ) -> None:
        """The cancellation reaches the server as soon as Django lets it, and the request is counted once."""
        from django.http import HttpResponse
        from django.urls import path

        started, release = threading.Event(), threading.Event()

        def view(request: Any) -> Any:
            started.set()
            release.wait(10)
            return HttpResponse("too late")

        django(ROOT_URLCONF=urlconf(path("", view)))

        async def run() -> None:
            task = asyncio.create_task(call_asgi(scope()))
            while not started.is_set():  # noqa: ASYNC110  the event is another thread's
                await asyncio.sleep(0.01)
            task.cancel()
            release.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait_for(task, 10)

        asyncio.run(run())
        gc.collect()

        counted = agent.counts("re")
        assert counted["request"] == 1
        # Which of the two depends on whether asgiref waits for the view's thread in the loop.
        assert counted.get("request.aborted", 0) + counted.get("response.200", 0) == 1
        assert agent.counts("exception.") == {}

    def test_a_client_that_goes_away_before_the_body_is_there(
        self, django: Callable[..., None], agent: Agent
    ) -> None:
        """There is no request yet, but the server has begun one: it is aborted."""
        from django.core.handlers.asgi import ASGIHandler

        django(ROOT_URLCONF=urlconf())

        async def run() -> None:
            async def receive() -> dict[str, Any]:
                return {"type": "http.disconnect"}

            async def send(message: dict[str, Any]) -> None:
                raise AssertionError("nothing may be sent")

            await ASGIHandler()(scope(), receive, send)

        asyncio.run(run())

        assert agent.counts("request") == {"request": 1, "request.aborted": 1}

    def test_a_request_that_django_cannot_read(
        self, django: Callable[..., None], agent: Agent
    ) -> None:
        """A query string that is no UTF-8 is answered with 400 before there is a request object."""
        django(ROOT_URLCONF=urlconf())

        answer = asyncio.run(call_asgi({**scope(), "query_string": b"q=\xff"}))

        assert answer.status == 400
        assert agent.counts("response.") == {"response.400": 1}
        assert agent.counts("request") == {"request": 1, "request.first_byte": 1}

    def test_requests_at_the_same_time_are_kept_apart(
        self, django: Callable[..., None], agent: Agent
    ) -> None:
        """Each of many requests in one event loop has its own view, templates and time."""
        from django.http import HttpResponse
        from django.template import Context, Engine
        from django.urls import path

        template = Engine().from_string("x")

        async def rendering(request: Any, number: int) -> Any:
            for _ in range(number):
                await asyncio.sleep(0.001)
                template.render(Context())
            return HttpResponse("x")

        django(ROOT_URLCONF=urlconf(path("<int:number>/", rendering)))

        async def run() -> None:
            await asyncio.gather(*(call_asgi(scope(f"/{number}/")) for number in range(1, 11)))

        asyncio.run(run())

        assert agent.counts("request")["request"] == 10
        assert agent.counts("request")["request.template"] == 10
        assert agent.counts("template.") == {"template.inline": 55}


class TestStaticFiles:
    """`runserver` serves static files by a handler around the site's own."""

    @pytest.fixture(params=["wsgi", "asgi"])
    def fetch_static(self, request: pytest.FixtureRequest, django: Any) -> Callable[..., Answer]:
        """Serve one request by the handler that runserver uses."""
        from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler, StaticFilesHandler
        from django.core.handlers.asgi import ASGIHandler

        django(DEBUG=True, ROOT_URLCONF=urlconf())
        if request.param == "wsgi":
            wrapper = {"wsgi.file_wrapper": FileWrapper}
            return lambda path: WsgiCall(
                environ(path, **wrapper), StaticFilesHandler(wsgi_handler())
            ).read()
        return lambda path: asyncio.run(
            call_asgi(scope(path), ASGIStaticFilesHandler(ASGIHandler()))
        )

    @pytest.mark.parametrize(
        ("path", "status"), [("/static/admin/css/base.css", 200), ("/static/nothing.css", 404)]
    )
    @pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")  # Django's
    def test_is_counted_with_its_status(
        self, path: str, status: int, fetch_static: Callable[..., Answer], agent: Agent
    ) -> None:
        """A file that is there, and one that is not, are requests like others."""
        answer = fetch_static(path)

        assert answer.status == status
        assert agent.counts("response.") == {f"response.{status}": 1}
        assert agent.counts("request")["request"] == 1
        assert "request.aborted" not in agent.counts("request")

    def test_a_page_behind_it_is_counted_once(
        self, fetch_static: Callable[..., Answer], django: Any, views: Any, agent: Agent
    ) -> None:
        """Two handlers, one request."""
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("", views.plain)))

        assert fetch_static("/").body == b"plain"
        assert agent.counts("view.") == {f"view.{VIEWS}plain.GET": 1}


NOW = 1_700_000_000.0


class TestQueue:
    """The time that a request has waited in a proxy."""

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            ("1699999999.5", 0.5),
            ("t=1699999999.5", 0.5),
            (" t=1699999999.5 ", 0.5),
            ("1699999999500", 0.5),
            ("t=1699999999500", 0.5),
            ("1699999999500000", 0.5),
            ("t=1699999999500000", 0.5),
            ("1700000000", 0.0),
            ("1699999400", 600.0),
        ],
    )
    def test_seconds_milliseconds_and_microseconds(self, header: str, seconds: float) -> None:
        """Each unit that a proxy writes is recognised by its size."""
        assert django_request.waited(header, NOW) == pytest.approx(seconds)

    @pytest.mark.parametrize(
        "header",
        [
            "", "t=", "now", "-5", "nan", "inf", "-inf", "0", "1699999399", "1700000001", "١٢٣",
            "1e400", "1" * 5000, "2026-11-23T11:00:00Z", "t=t=1699999999",
        ],
    )  # fmt: skip
    def test_what_is_implausible_is_not_reported(self, header: str) -> None:
        """A time in the future, an hour ago, or none at all, makes no measurement."""
        assert django_request.waited(header, NOW) is None

    def test_is_reported_with_the_request(
        self, fetch: Callable[..., Answer], django: Callable[..., None], views: Any, agent: Agent
    ) -> None:
        """What the proxy's header says arrives as `request.queue`."""
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("", views.plain)))

        fetch("/", x_request_start=f"t={time.time() - 3:.3f}")

        assert 2900 <= agent.values("request.queue")[0] < 10_000


TRACE = "0af7651916cd43dd8448eb211c80319c"
TWICE = [
    (
        "traceparent",
        [f"00-{TRACE}-b7ad6b7169203331-01", "00-badc0ffee0badc0ffee0badc0ffee0ba-b7ad6b7169203331-01"],
    ),
    ("X-Request-ID", ["inbound-0001", "inbound-0002"]),
]  # fmt: skip


class TestInbound:
    """Which of the headers that a request brings say what its ID is."""

    @pytest.fixture(autouse=True)
    def _site(self, django: Callable[..., None], views: Any) -> None:
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("", views.plain)))

    @pytest.mark.parametrize(("name", "values"), TWICE)
    def test_a_header_that_is_sent_twice_is_refused(
        self, name: str, values: list[str], agent: Agent
    ) -> None:
        """Of two IDs or two `traceparent`s under ASGI neither counts, as under WSGI, which joins them."""
        twice = scope()
        twice["headers"] += [(name.lower().encode(), value.encode()) for value in values]

        by_asgi = asyncio.run(call_asgi(twice)).header("X-Request-ID")
        key = f"HTTP_{name.upper().replace('-', '_')}"
        by_wsgi = WsgiCall(environ(**{key: ",".join(values)})).read().header("X-Request-ID")

        for made in (by_asgi, by_wsgi):
            assert str(uuid.UUID(made)) == made
            assert uuid.UUID(made).version == 4

    def test_the_same_header_sent_once_is_accepted(self, agent: Agent) -> None:
        """Under ASGI a header that is there once counts, however often others are."""
        once = scope(x_request_id="inbound-0001")
        once["headers"] += [(b"cookie", b"a=1"), (b"cookie", b"b=2")]

        assert asyncio.run(call_asgi(once)).header("X-Request-ID") == "inbound-0001"

    def test_another_list_of_headers(
        self, fetch: Callable[..., Answer], start_agent: Callable[..., Agent]
    ) -> None:
        """With `X-Trace` as the only header it is what is taken and answered with, and no default is."""
        start_agent(CORRELATION_HEADERS="X-Trace")

        given = fetch("/", x_trace="inbound-0001", x_request_id="ignored-0001")
        made = fetch("/", x_request_id="ignored-0001", traceparent=TWICE[0][1][0])

        assert given.header("X-Trace") == "inbound-0001"
        assert uuid.UUID(made.header("X-Trace")).version == 4
        assert given.header("X-Request-ID") is made.header("X-Request-ID") is None


class TestIgnoredPaths:
    """INTROSPECT_IGNORE_PATHS."""

    def test_is_counted_as_ignored_and_nothing_else(
        self,
        fetch: Callable[..., Answer],
        django: Callable[..., None],
        views: Any,
        start_agent: Callable[..., Agent],
    ) -> None:
        """Neither the request nor what happens in it is reported; a path that only begins so is."""
        from django.urls import path

        django(ROOT_URLCONF=urlconf(path("healthz", views.plain), path("<path:any>", views.plain)))
        agent = start_agent(IGNORE_PATHS="/healthz,/assets/*")

        for url in ("/healthz", "/assets/", "/assets/a/b.css", "/healthz/"):
            assert fetch(url).status == 200

        assert agent.counts("ignored") == {"ignored": 3}
        assert agent.counts("request")["request"] == 1
        assert agent.counts("response.") == {"response.200": 1}


class TestBounds:
    """What clients choose makes neither names nor memory."""

    def test_a_hundred_thousand_random_paths(
        self, django: Callable[..., None], agent: Agent
    ) -> None:
        """A scan for paths that do not exist leaves names and memory as they were."""
        from django.http import HttpResponseNotFound

        def not_found(request: Any, exception: Exception) -> Any:
            return HttpResponseNotFound()

        django(ROOT_URLCONF=urlconf(handler404=not_found))
        logging.disable()
        handler, listener = wsgi_handler(), agent.listener
        base = environ()

        def scan(first: int, last: int) -> int:
            for number in range(first, last):
                handler({**base, "PATH_INFO": f"/{number:x}/wp-login.php"}, _ignore).close()
                if number % 500 == 0:
                    listener.clear()
            listener.settle()
            listener.clear()
            gc.collect()
            # Not the resident size, which grows with the heap's fragments by megabytes.
            return sys.getallocatedblocks()

        try:
            before = scan(0, 20_000)
            after = scan(20_000, 100_000)
        finally:
            logging.disable(logging.NOTSET)

        assert after - before < 1_000
        fetch_wsgi("/last/")
        assert {"view.unresolved.GET", "response.404"} <= set(agent.counts())
        assert len(agent.counts()) < 20


def _ignore(status: str, headers: list[tuple[str, str]]) -> None:
    """Stand for a server's `start_response`."""


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(view, id=type(view).__name__)
        for view in (
            None,
            5,
            "text",
            len,
            str.upper,
            object(),
            type,
            [].append,
            functools.partial(len),
        )
    ],
)
def test_any_object_has_a_name(view: Any) -> None:
    """Whatever a URL pattern holds, naming it does not fail."""
    assert isinstance(callable_name(view, "GET"), str)
