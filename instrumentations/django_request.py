"""Time every request from the handler's call until the response is closed, by view and status.

The unit of work starts in ``WSGIHandler.__call__`` and ``ASGIHandler.__call__``, before any
middleware, and ends when the response is closed: by a callback in its ``_resource_closers``, so
that the WSGI iterable is never wrapped and ``wsgi.file_wrapper`` survives. Views, middleware and
settings are left alone.
"""

from __future__ import annotations

import sys
import time
import weakref
from functools import partial
from time import perf_counter as clock
from typing import TYPE_CHECKING, Any

from introspect.agent import correlation, ending, frames, guard, work
from introspect.agent.correlation import Inbound
from introspect.agent.metrics import COUNTER, OTHER, TIMER, Metric
from introspect.agent.patching import timed
from introspect.agent.work import milliseconds
from introspect.agent.wrappers import PASS
from introspect.instrumentations._django_views import UNRESOLVED, callable_name, view_name

REQUEST = Metric("request", TIMER, "ms", (), "every request, start to close")
VIEW = Metric(
    "view",
    TIMER,
    "ms",
    ("view", "method"),
    "the same, by view (`unresolved` for unmatched paths, never the path)",
)
RESPONSE = Metric("response", COUNTER, "", ("status",), "responses by status")
FIRST_BYTE = Metric("request.first_byte", TIMER, "ms", (), "until the handler returned a response")
QUEUE = Metric(
    "request.queue", TIMER, "ms", (), "waited in front of us (`X-Request-Start` of the proxy)"
)
ABORTED = Metric(
    "request.aborted", COUNTER, "", (), "requests that ended without a response: disconnect, exit"
)
IGNORED = Metric("ignored", COUNTER, "", (), "requests to `INTROSPECT_IGNORE_PATHS`")
EXCEPTION = Metric(
    "exception", COUNTER, "", ("class", "view"), "exceptions, those Django converts to 4xx included"
)

if TYPE_CHECKING:
    from types import FrameType

    from introspect.agent.settings import Settings

# What the calls of each area took together within one request that made any.
TOTALS = {
    "db": Metric("request.db", TIMER, "ms", (), "time in the database, per request using it"),
    "template": Metric("request.template", TIMER, "ms", (), "time in templates, per request"),
    "http": Metric("request.http", TIMER, "ms", (), "time in outgoing calls, per request"),
    "cache": Metric("request.cache", TIMER, "ms", (), "time in caches, per request"),
}
QUERIES = Metric("request.db_queries", TIMER, "", (), "number of SQL statements, per request")

METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)

LONGEST_QUEUE_SECONDS = 600.0
SERVER_ERROR = 500

WSGI_QUEUE_KEY = "HTTP_X_REQUEST_START"
ASGI_QUEUE_KEY = "x-request-start"

_ignored_paths: Any = None

# The keys of a WSGI environment by which a request's own ID and queue are known, if there are any.
_of_concern: frozenset[str] = frozenset()

# Requests under way, where their lines are wanted: a server that stops may never return to them.
_unfinished: weakref.WeakValueDictionary[int, Request] = weakref.WeakValueDictionary()

_current = work.current.get
_new = tuple.__new__


def configure(settings: Settings) -> None:
    """Take the patterns of paths to ignore, and the headers to look for."""
    global _ignored_paths, _of_concern
    _ignored_paths = settings.ignore_paths
    _of_concern = frozenset({WSGI_QUEUE_KEY, *(key for key, _ in correlation.policy.wsgi_keys)})
    if settings.log:
        ending.before_end(ending.UNITS, end_unfinished)


def end_unfinished() -> None:
    """End the requests that this process leaves behind."""
    for reference in _unfinished.valuerefs():
        request = reference()
        if request is not None:
            request.end()


class Request(work.Work):
    """The unit of work of one HTTP request."""

    kind = "request"

    name = UNRESOLVED
    method = OTHER
    path = ""
    in_handler = True
    scope: Any = None
    """The WSGI environ or ASGI scope, as long as the request goes on: the same for no other."""
    task: int | None = None
    """Of an ASGI request, by its identity: the asyncio task that its handler runs in."""
    django_request: Any = None
    queue_seconds: float | None = None
    first_byte: float | None = None
    status: int | None = None
    route: str | None = None
    response_bytes: int | None = None
    user_id: str | int | None = None
    exception_id = 0

    def describe(self) -> dict[str, Any]:
        """Return what the canonical line says of a request alone."""
        fields: dict[str, Any] = {
            "method": self.method,
            "path": self.path,
            "route": self.route,
            "view": self.name,
            "status": self.status,
        }
        if self.first_byte is not None:
            fields["first_byte_ms"] = milliseconds(self.first_byte - self.started)
        if self.queue_seconds is not None:
            fields["queue_ms"] = milliseconds(self.queue_seconds)
        if self.response_bytes is not None:
            fields["response_bytes"] = self.response_bytes
        if self.user_id is not None:
            fields["user_id"] = self.user_id
        return fields

    def comment_parts(self, parts: tuple[str, ...]) -> list[str]:
        """See ``Work.comment_parts``."""
        if parts == ("path",):
            return [self.path]
        match = getattr(self.django_request, "resolver_match", None)
        texts = []
        if "path" in parts:
            texts.append(self.path)
        if "route" in parts and match is not None:
            texts.append(match.route or "/")
        if "view" in parts and match is not None:
            texts.append(callable_name(match.func))
        return texts + super().comment_parts(parts)

    def comments_are_final(self, parts: tuple[str, ...]) -> bool:
        """See ``Work.comments_are_final``: before the URL is resolved, there is no view."""
        if "route" not in parts and "view" not in parts:
            return True
        return getattr(self.django_request, "resolver_match", None) is not None

    def end(self) -> None:
        """Finish and report; called by whatever sees the end first, and again by the others."""
        if not self.finish():
            return
        if work.detail_wanted:
            _unfinished.pop(id(self), None)
        try:
            self._report(clock())
        except Exception:  # Django, which calls this from a response's `close`, would hide it
            guard.swallow(Request.end)

    def _report(self, ended: float) -> None:
        taken = (ended - self.started) * 1000
        first_byte, status = self.first_byte, self.status
        if first_byte is None and self.django_request is not None:
            self.note_view()  # nobody has answered, but a view may have begun
        self.scope = self.django_request = None
        if self.muted:
            work.process().count(IGNORED.of())
            return
        self.settle()
        ready = self._ready
        for area, seconds in list(self.seconds.items()):  # another thread may add one
            if area in TOTALS:
                ready += (TOTALS[area].series[()], seconds * 1000)
                if area == "db":  # connections and commits alone are no calls
                    ready += (QUERIES.series[()], self.calls.get(area, 0))
        ready += (REQUEST.series[()], taken, VIEW.series[self.name, self.method], taken)
        if first_byte is not None:
            ready += (FIRST_BYTE.series[()], (first_byte - self.started) * 1000)
        if self.queue_seconds is not None:
            self.time(QUEUE.of(), self.queue_seconds)
        if status is None:
            ready += (ABORTED.of(), 1)
        else:
            ready += (RESPONSE.series[(status,)], 1)
            if status >= SERVER_ERROR:
                self.failed = True
        self.send(ended)

    def note_queue(self, header: str | None) -> None:
        """Note what an ``X-Request-Start`` header says, if there is one."""
        if header:
            self.queue_seconds = waited(header, time.time())

    def note_view(self) -> None:
        """Note the view that the request was routed to, if it was, although none has answered."""
        match = getattr(self.django_request, "resolver_match", None)
        if match is not None:
            self.name = view_name(self.django_request)
            self.route = match.route or "/"  # the root's route is an empty string


def wsgi_called(args: Any, _kwargs: Any) -> Any:
    """Begin the unit of work of one WSGI request."""
    environ = args[1]
    previous = _current()
    if previous.scope is not None and _goes_on(previous, environ):
        return PASS
    if environ.keys().isdisjoint(_of_concern):  # as nearly all requests from browsers
        request = Request(_new(Inbound, (correlation.new_id(), None)))
    else:
        policy = correlation.policy
        request = Request(policy.accept(environ.get, policy.wsgi_keys))
        request.note_queue(environ.get(WSGI_QUEUE_KEY))
    request.scope = environ
    path = environ.get("PATH_INFO", "")
    if not path.isascii():  # WSGI hands a path over as bytes in Latin-1's clothes
        path = path.encode("latin-1", "replace").decode("utf-8", "replace")
    request.path = path
    _begin(request, environ.get("REQUEST_METHOD"))
    return request


def wsgi_returned(
    request: Any,
    _started: float,
    _ended: float,
    _args: Any,
    _kwargs: Any,
    result: Any,
    error: Any,
) -> None:
    """See to it that the unit ends when the response is closed."""
    request.in_handler = False
    if error is not None:
        escaped(request, error)
        request.end()
    elif request.first_byte is None:
        # Answered by a handler of the application's own that never asked `get_response`.
        _end_on_close(request, result)


def _end_on_close(request: Request, response: Any) -> None:
    closers = getattr(response, "_resource_closers", None)
    if closers is None:
        request.end()
        return
    request.status = response.status_code
    request.first_byte = clock()
    closers.append(_closer(request, response))


def asgi_called(args: Any, _kwargs: Any) -> Any:
    """Begin the unit of work of one ASGI request; other scopes pass."""
    scope = args[1]
    if scope.get("type") != "http":
        return PASS
    task = id(sys.modules["asyncio"].current_task())
    previous = _current()
    if previous.scope is not None and _goes_on(previous, scope, task):
        return PASS
    sent = scope.get("headers") or ()
    names = {name for name, _ in sent}

    def header(name: str) -> str | None:
        key = name.encode("latin-1")
        if key not in names:
            return None
        # What is sent twice is joined, as servers do for WSGI, and then valid as no ID.
        return b",".join(value for other, value in sent if other == key).decode("latin-1")

    policy = correlation.policy
    request = Request(policy.accept(header, policy.asgi_keys))
    request.note_queue(header(ASGI_QUEUE_KEY))
    request.scope = scope
    request.task = task
    request.thread = 0  # shared with other requests: its CPU time is not this one's
    request.path = scope.get("path", "")
    _begin(request, scope.get("method"))
    return request


def asgi_returned(
    request: Any,
    _started: float,
    _ended: float,
    _args: Any,
    _kwargs: Any,
    _result: Any,
    error: Any,
) -> None:
    """End the unit: under ASGI the response has been sent and closed by now."""
    request.in_handler = False
    if error is not None and not _is_of_sending(error, request):
        escaped(request, error)
    request.end()


def _is_of_sending(error: BaseException, request: Request) -> bool:
    """Tell whether a server under ASGI would not send on, because the client has gone away.

    It then raises an ``OSError``; one that the response's own iterator raises came through Django's
    response.
    """
    if request.first_byte is None or not isinstance(error, OSError):
        return False
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == "django.http.response":
            return False
        trace = trace.tb_next
    return True


def _begin(request: Request, method: Any) -> None:
    if method in METHODS:
        request.method = method
    if _ignored_paths is not None and _ignored_paths.fullmatch(request.path) is not None:
        request.muted = True
    if work.detail_wanted:
        _unfinished[id(request)] = request
    work.current.set(request)


def _goes_on(previous: Any, scope: Any, task: int | None = None) -> bool:
    """Tell whether this call is made by a handler that we are already inside of.

    A handler's subclass calls ``super().__call__``; some applications serve requests within
    requests, from a view that runs in a task or a thread of its own. The outermost counts. But
    where a client sends its next request ahead of the answer, Uvicorn and Daphne start that one's
    task from within the first, whose context it inherits, once they have sent the first's answer.
    """
    if previous.finished:
        return False
    if previous.scope is scope:
        return True
    if previous.in_handler:
        return previous.task in (None, task) or previous.first_byte is None
    previous.end()  # its server never closed the response, and the thread has moved on
    return False


def entered(args: Any, _kwargs: Any) -> Request | None:
    """Note Django's request object: it will know the view once middleware and URLs have run."""
    django_request = args[1]
    request = _request_of(django_request)
    if request is not None:
        request.django_request = django_request
    return request


def answered(
    request: Request | None,
    _started: float,
    ended: float,
    args: Any,
    _kwargs: Any,
    result: Any,
    _error: Any,
) -> None:
    """Note view, status and time of Django's answer; runs behind all middleware."""
    if request is None or request.finished or request.first_byte is not None:
        return
    if result is None:  # an exception gets out, as when a server ends a view that takes too long
        request.note_view()
        return
    request.first_byte = ended
    request.status = result.status_code
    # First of all: whatever fails below, the unit must end.
    if request.task is None:  # WSGI: what ASGI has begun ends in asgi_returned
        # Django offers no other way.
        result._resource_closers.append(_closer(request, result))  # noqa: SLF001
    request.name = view_name(args[1])
    _answer_with_id(request, result)
    if work.detail_wanted:
        _note_detail(request, args[1], result)


def _closer(request: Request, response: Any) -> Any:
    """Return what is to be called when *response* is closed."""
    if getattr(response, "streaming", False):
        return partial(_stream_closed, request, id(_under_way()))
    return request.end


def _stream_closed(request: Request, before: int) -> None:
    """End a request whose answer was a stream, which may have raised: WSGI servers close it then.

    *before* is the identity of the exception that somebody further out handled already when the
    request was answered; of ``None``, as a rule.
    """
    try:
        error = _under_way()
        if (
            error is not None
            and id(error) != before
            and not request.muted
            and not _is_the_servers(error)
        ):
            escaped(request, error)
    except Exception:  # Django, which calls this, would hide it
        guard.swallow(_stream_closed)
    request.end()


def _under_way() -> BaseException | None:
    """Return the exception that is being handled.

    Before it closes a response, uWSGI has printed what the stream raised. Where it serves several
    requests at once, what was printed last may be of another one.
    """
    error = sys.exc_info()[1]
    if error is None and getattr(sys.modules.get("uwsgi"), "cores", 0) == 1:
        error = getattr(sys, "last_value", None)
    return error


def _is_the_servers(error: BaseException) -> bool:
    """Tell whether a server that closes a stream has raised *error* itself: the client is gone.

    Where it cannot be told, what is an ``OSError`` is the server's.
    """
    trace = error.__traceback__
    if trace is None or sys.exc_info()[1] is None:  # uWSGI's own have no traceback
        return trace is None
    # From the function that closes: the server's, or that of a middleware of WSGI's.
    passed = []
    while trace is not None:
        passed.append(trace.tb_frame)
        trace = trace.tb_next
    if any(map(frames.is_application, passed)):
        return False
    if len(passed) == 1:  # C: a socket's method, or an iterator
        return isinstance(error, OSError)
    # A server may leave its socket to another library, but what else it raises, it raises itself.
    decisive = passed[1 if isinstance(error, OSError) else -1]
    return _package_of(decisive) == _package_of(passed[0])


def _package_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def created(
    _started: float, ended: float, args: Any, _kwargs: Any, result: Any, _error: Any
) -> None:
    """Note the status of an ASGI request that Django cannot read, and answers by itself."""
    request = _current()
    if isinstance(request, Request) and request.scope is args[1] and result[0] is None:
        request.first_byte = ended
        request.status = result[1].status_code
        _answer_with_id(request, result[1])


_ID_SET = "_introspect_correlation_id"
"""The attribute of a response that says which ID we have set its header to."""


def _answer_with_id(request: Request, response: Any) -> None:
    """Set the response header, unless the application has."""
    policy = correlation.policy
    name = policy.header
    if name is None:
        return
    # Its dictionary by lower-case name, which also holds the name as it is written: what the
    # mapping itself does for a header that is not there raises an exception inside, and what it
    # does to set one looks for line ends and characters that no ID has.
    headers = response.headers._store  # noqa: SLF001
    present = headers.get(policy.header_key)
    if present is not None and present[1] != response.__dict__.get(_ID_SET):
        return
    # Some sites answer with one response object for ever: what it bears may be the last request's.
    response.__dict__[_ID_SET] = request.correlation_id
    headers[policy.header_key] = (name, request.correlation_id)
    if "access-control-expose-headers" in headers:
        _expose(name, response)


def _expose(name: str, response: Any) -> None:
    """Name our header to scripts of other origins, where the site names its headers to them."""
    exposed = response.headers["Access-Control-Expose-Headers"]
    names = {word.strip().lower() for word in exposed.split(",")}
    if not names & {"*", name.lower()}:
        response.headers["Access-Control-Expose-Headers"] = (
            f"{exposed}, {name}" if exposed.strip() else name
        )


def _note_detail(request: Request, django_request: Any, response: Any) -> None:
    match = getattr(django_request, "resolver_match", None)
    if match is not None:
        request.route = match.route or "/"  # the root's route is an empty string
    # A stream is the server's to read; what is not rendered, or no HttpResponse, has no content.
    if getattr(response, "streaming", None) is False and getattr(response, "is_rendered", True):
        request.response_bytes = len(response.content)
    # Only what the application has loaded itself: `request.user` would query, and add a
    # `Vary: Cookie` to the response.
    user = _loaded_user(django_request.__dict__)
    if user is not None:
        key = getattr(user, "pk", None)
        request.user_id = key if key is None or type(key) is int else str(key)


def _loaded_user(attributes: dict[str, Any]) -> Any:
    for name in ("_cached_user", "_acached_user", "user"):
        user = attributes.get(name)
        # Set by `login()` and by REST framework as what it is, by the middleware as a lazy object.
        if user is not None and type(user).__name__ != "SimpleLazyObject":
            return user
    return None


def exception_converted(
    _started: float, _ended: float, args: Any, _kwargs: Any, _result: Any, error: Any
) -> None:
    """Count an exception that Django turns into a response."""
    request = _request_of(args[0])
    if request is not None:
        _count_exception(request, args[1], view_name(args[0]))
        if error is None:
            request.exception_id = 0  # converted: whatever is raised next is another


def escaped(request: Request, error: BaseException) -> None:
    """Count an exception that left the handler (``DEBUG_PROPAGATE_EXCEPTIONS``, a broken one).

    Or that a stream has raised, which fails whatever status has been sent. What is no ``Exception``
    is no error of the application's: a client goes away, a server stops (``SystemExit``, asyncio's
    ``CancelledError``, gevent's ``GreenletExit``).
    """
    if isinstance(error, Exception):
        request.status = request.status or 500
        request.failed = True
        _count_exception(request, error, request.name)


def _count_exception(request: Request, error: BaseException, view: str) -> None:
    if request.exception_id != id(error):
        request.exception_id = id(error)
        name = type(error).__qualname__
        request.count(EXCEPTION.of(name, view))
        if work.detail_wanted:
            request.exception = {"class": name}
            place = frames.place_of(error.__traceback__)
            if place is not None:
                request.exception["place"] = place


def _request_of(django_request: Any) -> Request | None:
    """Return the unit of work of this very request; a test client's inside it has none."""
    attributes = django_request.__dict__
    scope = attributes.get("environ") or attributes.get("scope")
    current: Any = _current()  # only a request that goes on has a scope
    return current if scope is not None and scope is current.scope else None


PATCHES = (
    timed(
        "django.core.handlers.wsgi:WSGIHandler.__call__", before=wsgi_called, after=wsgi_returned
    ),
    timed(
        "django.core.handlers.asgi:ASGIHandler.__call__", before=asgi_called, after=asgi_returned
    ),
    timed("django.core.handlers.base:BaseHandler.get_response", before=entered, after=answered),
    timed(
        "django.core.handlers.base:BaseHandler.get_response_async", before=entered, after=answered
    ),
    # runserver's static files, which ask neither of the two above.
    timed(
        "django.contrib.staticfiles.handlers:StaticFilesHandlerMixin.get_response",
        before=entered,
        after=answered,
    ),
    timed(
        "django.contrib.staticfiles.handlers:StaticFilesHandlerMixin.get_response_async",
        before=entered,
        after=answered,
    ),
    timed("django.core.handlers.asgi:ASGIHandler.create_request", after=created),
    timed("django.core.handlers.exception:response_for_exception", after=exception_converted),
)


def waited(header: str, now: float) -> float | None:
    """Return the seconds since the time in an ``X-Request-Start`` header, if that is plausible.

    Proxies write ``t=`` or nothing, then seconds, milliseconds or microseconds since 1970.
    """
    try:
        stamp = float(header.strip().removeprefix("t="))
    except ValueError:
        return None
    for unit in (1.0, 1e3, 1e6):
        seconds = now - stamp / unit
        if 0 <= seconds <= LONGEST_QUEUE_SECONDS:
            return seconds
    return None
