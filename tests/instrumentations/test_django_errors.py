"""Superusers see the technical 500 page, everybody else the site's own, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import io
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django import VERSION
from django.http import HttpRequest, HttpResponse, HttpResponseServerError
from django.urls import path, re_path
from django.views import debug
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from introspect.agent import work
from introspect.bootstrap import start
from introspect.instrumentations import django_errors
from tests.instrumentations import handlers
from tests.instrumentations.handlers import Answer

# Django's ASGI handler leaves the file of the request's body open when an exception leaves it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

Start = Callable[..., Any]

TITLE = "ValueError at /boom/"


def boom(request: HttpRequest) -> HttpResponse:
    """Fail."""
    raise ValueError("no such value")


@sensitive_post_parameters("pin")
@sensitive_variables("private")
def confide(request: HttpRequest) -> HttpResponse:
    """Fail with what a form says in variables: the source, which a page shows, says none of it."""
    private, shelf = request.POST["pin"] + "-too", request.POST["shelf"] + "-too"
    raise ValueError(f"no such value ({len(private)}, {len(shelf)})")


async def boom_async(request: HttpRequest) -> HttpResponse:
    """Fail in the event loop, where the database must not be asked."""
    raise ValueError("no such value")


class Stubborn:
    """An object whose text nobody can ask for."""

    def __repr__(self) -> str:
        """Fail."""
        raise LookupError("in __repr__")


def stubborn_locals(request: HttpRequest) -> HttpResponse:
    """Fail with such an object in a local variable, which the technical page shows."""
    thing = Stubborn()
    raise ValueError(f"{type(thing).__name__}")


def boom_after_user(request: HttpRequest) -> HttpResponse:
    """Fail after having looked at the user."""
    raise ValueError(f"asked by {request.user.is_authenticated}")


async def boom_after_auser(request: HttpRequest) -> HttpResponse:
    """Fail after having looked at the user from the event loop."""
    user = await request.auser()
    raise ValueError(f"asked by {user.is_authenticated}")


def fine(request: HttpRequest) -> HttpResponse:
    """Answer without a look at anybody."""
    return HttpResponse("fine")


def database_error(request: HttpRequest) -> HttpResponse:
    """Fail as a view does whose database has gone away."""
    from django.db import OperationalError

    raise OperationalError("server closed the connection unexpectedly")


def database_error_after_user(request: HttpRequest) -> HttpResponse:
    """Fail as a view does whose database has gone away after it had looked at the user."""
    request.user.is_authenticated  # noqa: B018  it is lazy
    return database_error(request)


def chained(error: BaseException, *, how: str) -> None:
    """Raise what a layer above the database makes of *error*; it ends in a cycle, as none should."""
    try:
        raise error
    except type(error) as caught:
        if how == "from":
            raise ValueError("no such value") from caught
        if how == "from another":
            raise ValueError("no such value") from LookupError("of the layer's own")
        if how == "from None":
            raise ValueError("no such value") from None
        if how == "in a cycle":
            caught.__context__ = LookupError("around")
            caught.__context__.__cause__ = caught
        if how == "far away":
            for number in range(10):
                following = ValueError(f"layer {number}")
                following.__cause__, caught = caught, following  # type: ignore[assignment]
        raise ValueError("no such value") from caught


def database_error_below(request: HttpRequest, how: str) -> HttpResponse:
    """Fail with another exception, made of that of a database that has gone away."""
    from django.db import OperationalError

    chained(OperationalError("server closed the connection unexpectedly"), how=how)
    return HttpResponse()


def other_error_below(request: HttpRequest, how: str) -> HttpResponse:
    """Fail with an exception that was made of one that has nothing to do with the database."""
    chained(KeyError("isbn"), how=how)
    return HttpResponse()


def broken_sql(request: HttpRequest) -> HttpResponse:
    """Fail for a mistake in a statement, which the database has told us."""
    from django.db import connection

    connection.cursor().execute("SELECT nobody FROM nowhere")
    return HttpResponse()


def lazy_locals(request: HttpRequest) -> HttpResponse:
    """Fail with a query in a local variable, which the technical page evaluates."""
    from django.contrib.auth.models import User

    users = User.objects.all()
    raise ValueError(f"{type(users).__name__}")


def custom_500(request: HttpRequest) -> HttpResponse:
    """Answer with the site's own page."""
    return HttpResponseServerError("our own page")


def broken_500(request: HttpRequest) -> HttpResponse:
    """Fail while failing."""
    raise LookupError("in handler500")


class Reporter(ExceptionReporter):
    """A reporter of the site's own, which asks the site's filter as Django's does."""

    def get_traceback_html(self) -> str:
        """Return a page of the site's own."""
        return f"<p>our own, with {self.filter.cleansed_substitute}"

    def get_traceback_text(self) -> str:
        """Return a text of the site's own."""
        return f"our own, with {self.filter.cleansed_substitute}"


class Filter(SafeExceptionReporterFilter):
    """A filter of the site's own, which also hides whatever is called a shelf."""

    cleansed_substitute = "not for your eyes"
    hidden_settings = re.compile(
        f"{SafeExceptionReporterFilter.hidden_settings.pattern}|SHELF", re.IGNORECASE
    )

    def get_post_parameters(self, request: Any) -> dict[str, Any]:
        """Return the parameters of a form."""
        return self._without_shelves(super().get_post_parameters(request).items())

    def get_traceback_frame_variables(self, request: Any, tb_frame: Any) -> Any:
        """Return the variables of a frame."""
        return self._without_shelves(
            super().get_traceback_frame_variables(request, tb_frame)
        ).items()

    def _without_shelves(self, items: Any) -> dict[str, Any]:
        return {k: self.cleansed_substitute if k == "shelf" else value for k, value in items}


class BrokenReporter(ExceptionReporter):
    """A reporter that fails."""

    def get_traceback_html(self) -> str:
        """Fail."""
        raise LookupError("in the reporter")


PATTERNS = [
    path("boom/", boom),
    path("confide/", confide),
    path("boom-async/", boom_async),
    path("stubborn/", stubborn_locals),
    re_path("^boom/[^/]+/$", boom),
    path("boom-after-user/", boom_after_user),
    path("boom-after-auser/", boom_after_auser),
    path("fine/", fine),
    path("database/", database_error),
    path("database-after-user/", database_error_after_user),
    path("database-below/<how>/", database_error_below),
    path("other-below/<how>/", other_error_below),
    path("broken-sql/", broken_sql),
    path("lazy/", lazy_locals),
]


class Site:
    """A site with a database, sessions and users; `cookies` are those of each user's session."""

    def __init__(self, change: Callable[..., None]) -> None:
        self.change = change
        self.cookies: dict[str, str] = {}

    def add(self, name: str, **fields: Any) -> Any:
        """Create a user who is logged in."""
        from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
        from django.contrib.auth.models import User
        from django.contrib.sessions.backends.db import SessionStore

        user = User(username=name, **fields)
        user.save()
        session = SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.save()
        self.cookies[name] = f"sessionid={session.session_key}"
        return user


@contextlib.contextmanager
def database_file(file: Path) -> Iterator[None]:
    """Let Django's default database be a file, which any thread can open."""
    from django.db import connections

    # One of its own: Django does not close a database in memory, and would go on with it.
    memory, settings = connections["default"], connections.settings["default"]
    before = settings["NAME"]
    connections.close_all()
    del connections["default"]
    settings["NAME"] = str(file)
    yield
    connections.close_all()
    settings["NAME"] = before
    connections["default"] = memory


@pytest.fixture(autouse=True)
def _leftovers() -> Iterator[None]:
    """Let what a test leaves open be found in this test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def migrated(_django: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables and nothing in them."""
    from django.core.management import call_command

    file = tmp_path_factory.mktemp("migrated") / "empty.sqlite3"
    with database_file(file):
        call_command("migrate", verbosity=0)
    return file


@pytest.fixture
def site(django: Callable[..., None], migrated: Path, tmp_path: Path) -> Iterator[Site]:
    """The site, with DEBUG off, and its users."""
    with database_file(shutil.copy(migrated, tmp_path)):
        yield site_with_users(django)


def site_with_users(django: Callable[..., None]) -> Site:
    """Return the site with one user of each kind."""
    django(
        DEBUG=False,
        ROOT_URLCONF=handlers.urlconf(*PATTERNS),
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
    )
    made = Site(django)
    made.add("root", is_superuser=True)
    made.add("reader")
    made.add("staff", is_staff=True)
    made.add("retired", is_superuser=True, is_active=False)
    work.leave()
    return made


@pytest.fixture(params=["wsgi", "asgi"])
def fetch(request: pytest.FixtureRequest) -> Callable[..., Answer]:
    """Serve a request by WSGI, and by ASGI; both say that the client is at 127.0.0.1."""
    return fetch_asgi if request.param == "asgi" else fetch_wsgi


FORM = "application/x-www-form-urlencoded"


def fetch_wsgi(url: str, form: bytes = b"", **headers: str) -> Answer:
    """Serve a request by WSGI, with a `form` a POST."""
    more: dict[str, Any] = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    if form:
        more.update(CONTENT_TYPE=FORM, CONTENT_LENGTH=str(len(form)))
        more["wsgi.input"] = io.BytesIO(form)
    environ = handlers.environ(url, "POST" if form else "GET", REMOTE_ADDR="127.0.0.1", **more)
    return handlers.WsgiCall(environ).read()


def fetch_asgi(url: str, form: bytes = b"", **headers: str) -> Answer:
    """Serve a request by ASGI, with a `form` a POST."""
    if form:
        headers = {**headers, "content_type": FORM, "content_length": str(len(form))}
    scope = handlers.scope(url, "POST" if form else "GET", **headers)
    return asyncio.run(handlers.call_asgi(scope, body=form))


def text_of(answer: Answer) -> str:
    """Return the text of an answer, white space made single spaces."""
    return " ".join(answer.body.decode().split())


Fetch = Callable[..., Answer]


def get(fetch: Fetch, url: str, cookie: str = "", accept: str = "text/html", **more: Any) -> Answer:
    """Fetch a page with a cookie."""
    headers = {"accept": accept, **more}
    return fetch(url, **headers, **({"cookie": cookie} if cookie else {}))


def test_a_superuser_sees_the_technical_page(
    start_agent: Start, site: Site, fetch: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    """A superuser gets Django's page with status 500, not to be stored, and the showing is logged."""
    start_agent(SUPERUSER_ERRORS="1")

    with caplog.at_level(logging.WARNING, "introspect.errors"):
        answer = get(fetch, "/boom/", site.cookies["root"])

    assert answer.status == 500
    assert f"<title>{TITLE}</title>" in text_of(answer)
    assert answer.header("Content-Type").startswith("text/html")  # Django 6 names no charset
    assert answer.header("Cache-Control") == "private, no-store"
    [shown] = [r for r in caplog.records if r.name == "introspect.errors"]
    assert shown.levelno == logging.WARNING
    assert "user 1 " in shown.getMessage()
    assert answer.header("X-Request-ID") in shown.getMessage()
    assert shown.correlation_id == answer.header("X-Request-ID")  # type: ignore[attr-defined]


@pytest.mark.parametrize("url", ["/boom-async/", "/lazy/", "/stubborn/"])
def test_whatever_fails_has_a_page(start_agent: Start, site: Site, fetch: Fetch, url: str) -> None:
    """Views in the event loop, queries and objects without a text among the variables: all are shown."""
    start_agent(SUPERUSER_ERRORS="1")

    answer = get(fetch, url, site.cookies["root"])

    assert answer.status == 500
    assert f"<title>ValueError at {url}</title>" in text_of(answer)


@pytest.mark.parametrize(
    "url",
    [
        "/boom-after-user/",
        pytest.param(
            "/boom-after-auser/",
            marks=pytest.mark.skipif(VERSION < (5, 0), reason="Django has it from 5.0 on"),
        ),
    ],
)
def test_a_superuser_whom_the_view_has_loaded(
    start_agent: Start, site: Site, fetch: Fetch, url: str
) -> None:
    """A superuser whose user the view has already loaded sees the page."""
    start_agent(SUPERUSER_ERRORS="1")

    text = text_of(get(fetch, url, site.cookies["root"]))

    assert f"<title>ValueError at {url}</title>" in text


def test_under_debug_everybody_sees_the_page_that_django_makes(
    start_agent: Start, site: Site, fetch: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    """With DEBUG on the page is Django's own for a superuser, too: no header and no log line of ours."""
    site.change(DEBUG=True)
    start_agent(SUPERUSER_ERRORS="1")

    with caplog.at_level(logging.WARNING, "introspect.errors"):
        answer = get(fetch, "/boom/", site.cookies["root"])

    assert TITLE in text_of(answer)
    assert answer.header("Cache-Control") is None
    assert not [record for record in caplog.records if record.name == "introspect.errors"]


def test_a_path_cannot_forge_a_line_of_the_log(
    start_agent: Start, site: Site, fetch: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    """The line that tells of a showing stays one line, whatever path a superuser was lured to."""
    start_agent(SUPERUSER_ERRORS="1")

    with caplog.at_level(logging.WARNING, "introspect.errors"):
        get(fetch, "/boom/x\nERROR forged\x1b[2J\x85/", site.cookies["root"])

    [message] = [r.getMessage() for r in caplog.records if r.name == "introspect.errors"]
    assert "/boom/x" in message
    assert message.isprintable()
    assert message.splitlines() == [message]


KINDS = pytest.mark.parametrize("accept", ["text/html", "text/plain"])


def page_with_secrets(site: Site, fetch: Fetch, accept: str) -> str:
    """Return the page of an error at which secrets were at hand; none may tell those that Django hides."""
    site.change(SHELF_SETTING="hunter2-setting", SHOP_PASSWORD="hunter2-password")
    form = b"pin=hunter2-pin&shelf=hunter2-shelf"
    headers = {"x_shelf": "hunter2-header", "x_api_key": "hunter2-key"}

    page = get(fetch, "/confide/", site.cookies["root"], accept, form=form, **headers)

    body = page.body.decode()
    assert "ValueError at /confide/" in " ".join(body.split())
    for secret in ("hunter2-pin", "hunter2-key", "hunter2-password", "only for tests"):
        assert secret not in body
    assert site.cookies["root"].partition("=")[2] not in body
    assert ("<td>private</td>" in body) == (accept == "text/html")  # a text has no variables
    return body


@KINDS
def test_secrets_are_masked(start_agent: Start, site: Site, fetch: Fetch, accept: str) -> None:
    """What Django's own filter hides is hidden: settings, cookies, headers, and what views declare sensitive."""
    start_agent(SUPERUSER_ERRORS="1")

    body = page_with_secrets(site, fetch, accept)

    assert "********************" in body
    shown = {"hunter2-setting", "hunter2-shelf", "hunter2-header"}
    if accept == "text/html":
        shown.add("hunter2-shelf-too")
    assert set(re.findall(r"hunter2[a-z-]+", body)) == shown


@pytest.fixture
def own_filter(site: Site) -> Iterator[None]:
    """Let the site have a filter of its own; Django keeps the first that it has made."""
    site.change(DEFAULT_EXCEPTION_REPORTER_FILTER=f"{__name__}.Filter")
    debug.get_default_exception_reporter_filter.cache_clear()
    yield
    debug.get_default_exception_reporter_filter.cache_clear()


@KINDS
@pytest.mark.usefixtures("own_filter")
def test_the_sites_own_filter(start_agent: Start, site: Site, fetch: Fetch, accept: str) -> None:
    """What the site's DEFAULT_EXCEPTION_REPORTER_FILTER hides is hidden, in its own words."""
    start_agent(SUPERUSER_ERRORS="1")

    body = page_with_secrets(site, fetch, accept)

    assert "hunter2" not in body
    assert "not for your eyes" in body


def test_plain_text_by_accept(start_agent: Start, site: Site, fetch: Fetch) -> None:
    """Who accepts no HTML gets the page as plain text."""
    start_agent(SUPERUSER_ERRORS="1")

    answer = get(fetch, "/boom/", site.cookies["root"], accept="application/json")

    assert answer.header("Content-Type") == "text/plain; charset=utf-8"
    assert answer.body.startswith(TITLE.encode())


@pytest.mark.parametrize(
    ("accept", "body"),
    [
        ("text/html", b"<p>our own, with not for your eyes"),
        ("text/plain", b"our own, with not for your eyes"),
    ],
)
@pytest.mark.usefixtures("own_filter")
def test_the_sites_own_reporter(
    start_agent: Start, site: Site, fetch: Fetch, accept: str, body: bytes
) -> None:
    """The site's DEFAULT_EXCEPTION_REPORTER makes the page, HTML or plain text, with the site's own filter."""
    site.change(DEFAULT_EXCEPTION_REPORTER=f"{__name__}.Reporter")
    start_agent(SUPERUSER_ERRORS="1")

    answer = get(fetch, "/boom/", site.cookies["root"], accept)

    assert answer.status == 500
    assert answer.body == body


def others(site: Site) -> dict[str, str]:
    """Return the cookies of everybody who must not see more than the site's own page."""
    known = {name: site.cookies[name] for name in ("reader", "staff", "retired")}
    forged = hashlib.md5(b"forged").hexdigest()
    return {**known, "nobody": "", "forged": f"sessionid={forged}", "odd": "sessionid=%00; x=y"}


@pytest.mark.parametrize("url", ["/boom/", "/boom-after-user/", "/lazy/", "/fine/", "/nowhere/"])
def test_everybody_else_gets_the_sites_own_page(
    start_agent: Start, site: Site, fetch: Fetch, url: str
) -> None:
    """For all others the answer is, byte for byte and header for header, that of a site without the agent."""
    without = {who: get(fetch, url, cookie).comparable() for who, cookie in others(site).items()}
    start_agent(SUPERUSER_ERRORS="1")

    for who, cookie in others(site).items():
        assert get(fetch, url, cookie).comparable() == without[who], who


def test_a_session_with_an_old_password_stays_as_it_is(
    start_agent: Start, site: Site, fetch: Fetch
) -> None:
    """A session that would be ended at the first look at its user is not ended by ours."""
    from django.contrib.auth.models import User
    from django.contrib.sessions.models import Session

    User.objects.filter(username="reader").update(password="changed")
    without = get(fetch, "/boom/", site.cookies["reader"]).comparable()
    sessions = Session.objects.count()
    start_agent(SUPERUSER_ERRORS="1")

    assert get(fetch, "/boom/", site.cookies["reader"]).comparable() == without
    assert Session.objects.count() == sessions


def test_off_by_default(start_agent: Start, site: Site, fetch: Fetch) -> None:
    """Without the setting nobody sees anything, and nothing is patched."""
    start_agent()

    assert TITLE not in text_of(get(fetch, "/boom/", site.cookies["root"]))


def test_no_query_on_a_request_that_did_not_fail(
    start_agent: Start, site: Site, fetch: Fetch
) -> None:
    """A page that works asks the database nothing and reads no session, for a superuser neither."""
    agent = start_agent(SUPERUSER_ERRORS="1")
    agent.clear()

    answer = get(fetch, "/fine/", site.cookies["root"])

    assert answer.body == b"fine"
    assert answer.header("Vary") is None
    assert not agent.counts("db.default.")


def test_no_query_for_a_visitor_without_a_session(
    start_agent: Start, site: Site, fetch: Fetch
) -> None:
    """A failure of somebody without a session cookie asks the database nothing."""
    agent = start_agent(SUPERUSER_ERRORS="1")
    agent.clear()

    assert get(fetch, "/boom/").status == 500

    assert not agent.counts("db.default.")


def test_the_database_is_down(start_agent: Start, site: Site, fetch: Fetch) -> None:
    """Where the database is what broke, it is not asked, and the normal page is shown."""
    without = get(fetch, "/database/", site.cookies["root"]).comparable()
    agent = start_agent(SUPERUSER_ERRORS="1")
    agent.clear()

    assert get(fetch, "/database/", site.cookies["root"]).comparable() == without
    assert not agent.counts("db.default.")


@pytest.mark.parametrize("group", ["", "on call"])
def test_the_database_is_down_after_the_view_has_loaded_the_user(
    start_agent: Start, site: Site, fetch: Fetch, group: str
) -> None:
    """A superuser who is loaded already sees the page, as nothing needs to be asked; for a group it would, and nobody does."""
    from django.contrib.auth.models import Group, User

    url, cookie = "/database-after-user/", site.cookies["root"]
    User.objects.get(username="root").groups.add(Group.objects.create(name="on call"))
    without = get(fetch, url, cookie).comparable()
    agent = start_agent(SUPERUSER_ERRORS="1", SUPERUSER_GROUP=group)
    agent.clear()

    answer = get(fetch, url, cookie)

    if group:
        assert answer.comparable() == without
    else:
        assert f"<title>OperationalError at {url}</title>" in text_of(answer)
    assert agent.counts("db.default.") == {"db.default.select": 2}  # the view's


HOW = ["from", "from another", "from None", "in a cycle", "far away"]


@pytest.mark.parametrize("how", HOW)
def test_the_database_is_down_and_another_exception_says_so(
    start_agent: Start, site: Site, fetch: Fetch, how: str
) -> None:
    """Where an exception was raised because of the database, it is not asked either."""
    url, cookie = f"/database-below/{how}/", site.cookies["root"]
    without = get(fetch, url, cookie).comparable()
    agent = start_agent(SUPERUSER_ERRORS="1")
    agent.clear()

    assert get(fetch, url, cookie).comparable() == without
    assert not agent.counts("db.default.")


@pytest.mark.filterwarnings("ignore:Cycle in the exception chain")  # Django's page says so
@pytest.mark.parametrize("how", HOW)
def test_an_exception_with_a_cause_has_a_page(
    start_agent: Start, site: Site, fetch: Fetch, how: str
) -> None:
    """An exception that was made of any other than the database's is shown to a superuser."""
    start_agent(SUPERUSER_ERRORS="1")

    text = text_of(get(fetch, f"/other-below/{how}/", site.cookies["root"]))

    assert "<title>ValueError at /other-below/" in text


def test_a_chain_without_end_is_followed_so_far() -> None:
    """However many exceptions hang together, so many are looked at."""
    from django.db import OperationalError

    error: BaseException = OperationalError("gone")
    for _ in range(django_errors.CHAIN - 1):
        following = ValueError()
        following.__cause__ = following.__context__ = error
        error = following
    assert django_errors._is_database_trouble(error)

    for _ in range(10_000):
        following = ValueError()
        following.__cause__ = following.__context__ = error
        error = following
    assert not django_errors._is_database_trouble(error)


def test_the_database_is_gone_when_it_is_asked(
    start_agent: Start, site: Site, fetch: Fetch
) -> None:
    """Where finding out fails, the normal page is shown, and nothing is said in the site's log."""
    from django.db import connection

    cookie = site.cookies["root"]
    without = get(fetch, "/boom/", cookie).comparable()
    connection.cursor().execute("DROP TABLE django_session")
    start_agent(SUPERUSER_ERRORS="1")

    assert get(fetch, "/boom/", cookie).comparable() == without


def test_a_mistake_in_sql_is_no_outage(start_agent: Start, site: Site, fetch: Fetch) -> None:
    """A statement that the database refuses is what a superuser wants to see."""
    start_agent(SUPERUSER_ERRORS="1")

    text = text_of(get(fetch, "/broken-sql/", site.cookies["root"]))

    assert "OperationalError at /broken-sql/" in text


def test_group(start_agent: Start, site: Site, fetch: Fetch) -> None:
    """Restricted to a group, a superuser outside it gets the normal page."""
    from django.contrib.auth.models import Group, User

    site.add("other", is_superuser=True)
    group = Group.objects.create(name="on call")
    User.objects.get(username="root").groups.add(group)
    start_agent(SUPERUSER_ERRORS="1", SUPERUSER_GROUP="on call")

    assert TITLE in text_of(get(fetch, "/boom/", site.cookies["root"]))
    assert TITLE not in text_of(get(fetch, "/boom/", site.cookies["other"]))


@pytest.mark.parametrize(
    ("networks", "seen"),
    [("127.0.0.0/8", True), ("10.0.0.0/8,::1", False), ("127.0.0.1", True)],
)
def test_networks(start_agent: Start, site: Site, fetch: Fetch, networks: str, seen: bool) -> None:
    """Restricted to networks, a superuser from elsewhere gets the normal page."""
    start_agent(SUPERUSER_ERRORS="1", SUPERUSER_NETWORKS=networks)

    assert (TITLE in text_of(get(fetch, "/boom/", site.cookies["root"]))) is seen


def test_propagated_exceptions(start_agent: Start, site: Site, fetch: Fetch) -> None:
    """With DEBUG_PROPAGATE_EXCEPTIONS the exception leaves the handler as it did."""
    site.change(DEBUG_PROPAGATE_EXCEPTIONS=True)
    start_agent(SUPERUSER_ERRORS="1")

    with pytest.raises(ValueError, match="no such value"):
        get(fetch, "/boom/", site.cookies["root"])


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_test_clients(start_agent: Start, site: Site, kind: str) -> None:
    """A test client gets the exception, or the site's own page, as it did."""
    from django import test
    from django.contrib.auth.models import User

    start_agent(SUPERUSER_ERRORS="1")
    user = User.objects.get(username="root")

    def fetched(client: Any) -> Any:
        client.force_login(user)
        answer = client.get("/boom/")
        return asyncio.run(answer) if kind == "AsyncClient" else answer

    make = getattr(test, kind)
    with pytest.raises(ValueError, match="no such value"):
        fetched(make())
    assert TITLE not in fetched(make(raise_request_exception=False)).content.decode()


def test_a_custom_page(start_agent: Start, site: Site, fetch: Fetch) -> None:
    """A site's own handler500 answers everybody but a superuser."""
    site.change(ROOT_URLCONF=handlers.urlconf(*PATTERNS, handler500=custom_500))
    start_agent(SUPERUSER_ERRORS="1")

    assert get(fetch, "/boom/", site.cookies["reader"]).body == b"our own page"
    assert TITLE in text_of(get(fetch, "/boom/", site.cookies["root"]))


def test_a_broken_custom_page(start_agent: Start, site: Site, fetch: Fetch) -> None:
    """A handler500 that fails fails as it did."""
    site.change(ROOT_URLCONF=handlers.urlconf(*PATTERNS, handler500=broken_500))
    start_agent(SUPERUSER_ERRORS="1")

    with pytest.raises(LookupError, match="in handler500"):
        get(fetch, "/boom/", site.cookies["root"])


def test_a_technical_page_that_fails(start_agent: Start, site: Site, fetch: Fetch) -> None:
    """Where the technical page cannot be made, the normal one is shown."""
    without = get(fetch, "/boom/", site.cookies["root"]).comparable()
    site.change(DEFAULT_EXCEPTION_REPORTER=f"{__name__}.BrokenReporter")
    start_agent(SUPERUSER_ERRORS="1")

    assert get(fetch, "/boom/", site.cookies["root"]).comparable() == without


def test_without_sessions(start_agent: Start, site: Site, fetch: Fetch) -> None:
    """A site without sessions and users keeps its page for everybody."""
    site.change(MIDDLEWARE=[])
    start_agent(SUPERUSER_ERRORS="1")

    assert TITLE not in text_of(get(fetch, "/boom/", site.cookies["root"]))


@pytest.mark.parametrize("url", ["/boom/", "/lazy/"])
def test_no_connection_is_left_open_by_asgi(
    start_agent: Start, site: Site, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread in which ASGI makes the page closes the connection that finding out has opened there."""
    from django.db.backends.base.base import BaseDatabaseWrapper

    opened: list[Any] = []
    connect = BaseDatabaseWrapper.connect

    def noted(self: Any) -> None:
        connect(self)
        opened.append(self)

    monkeypatch.setattr(BaseDatabaseWrapper, "connect", noted)
    start_agent(SUPERUSER_ERRORS="1")

    assert (
        b"Traceback"
        in handlers.fetch_asgi(url, cookie=site.cookies["root"], accept="text/html").body
    )
    assert opened
    assert [wrapper.connection for wrapper in opened] == [None] * len(opened)


def test_stopped(start_agent: Start, site: Site, fetch: Fetch) -> None:
    """With the agent stopped, a superuser gets the site's own page again."""
    start_agent(SUPERUSER_ERRORS="1")
    assert TITLE in text_of(get(fetch, "/boom/", site.cookies["root"]))
    start.stop()

    assert TITLE not in text_of(get(fetch, "/boom/", site.cookies["root"]))
