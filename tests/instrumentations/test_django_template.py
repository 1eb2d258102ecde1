"""Templates of Django's engine: which renders are counted, under which name, and what they add up to."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import pytest
from django import VERSION

from tests.instrumentations.conftest import Agent
from tests.instrumentations.handlers import Answer, WsgiCall, environ, fetch_wsgi, urlconf

TEMPLATES = {
    "base.html": "<{% block main %}{% endblock %}>{% include 'footer.html' %}",
    "middle.html": "{% extends 'base.html' %}{% block main %}[{% block inner %}{% endblock %}]{% endblock %}",
    "page.html": "{% extends 'middle.html' %}{% block inner %}{{ block.super }}page{% endblock %}",
    "footer.html": "footer",
    "list.html": "{% for n in numbers %}{% include 'row.html' %}{% endfor %}",
    "row.html": "{{ n }} ",
    "nested.html": "{% include 'list.html' with numbers='ab' %}",
    "slow.html": "{% include 'pause.html' %}{% include 'pause.html' %}",
    "pause.html": "{{ pause }}",
    "tag.html": "{% load test_tags %}{% shown 'x' %}{% shown 'y' %}",
    "shown.html": "({{ what }})",
    "broken.html": "{% include 'failing.html' %}",
    "failing.html": "{{ fail }}",
    "missing.html": "{% include 'nowhere.html' %}",
    # With partials:
    "rows.html": (
        "{% partialdef row %}{{ n }} {% endpartialdef %}"
        "{% for n in numbers %}{% partial row %}{% endfor %}"
    ),
    "shows.html": "{% for n in numbers %}{% include 'rows.html#row' %}{% endfor %}",
    "inline.html": "{% partialdef note inline %}note {% endpartialdef %}{% partial note %}",
    "extends.html": (
        "{% extends 'middle.html' %}{% partialdef cell %}{% include 'footer.html' %}{% endpartialdef %}"
        "{% partialdef line %}{% partial cell %}{% endpartialdef %}"
        "{% block inner %}{% partial line %}{% endblock %}"
    ),
    "slow_rows.html": (
        "{% partialdef row %}{{ pause }}{% endpartialdef %}"
        "{% partial row %}{% include 'slow_rows.html#row' %}"
    ),
    "broken_rows.html": "{% partialdef row %}{{ fail }}{% endpartialdef %}{% partial row %}",
}

# As a site's settings have them.
IN_SETTINGS = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {"loaders": [("django.template.loaders.locmem.Loader", TEMPLATES)]},
    }
]

has_partials = pytest.mark.skipif(VERSION < (6, 0), reason="Django has partials from 6.0 on")


@pytest.fixture
def engine(django: Any) -> Any:
    """An engine with the templates above."""
    from django.template import Engine

    return Engine(
        loaders=[("django.template.loaders.locmem.Loader", TEMPLATES)],
        libraries={"test_tags": "tests.instrumentations.template_tags"},
        debug=True,
    )


def render(engine: Any, name: str, **context: Any) -> str:
    """Return what a template gives."""
    from django.template import Context

    text: str = engine.get_template(name).render(Context(context))
    return text


def serve(django: Callable[..., None], view: Callable[[Any], str]) -> Answer:
    """Serve one request by a view that returns text."""
    from django.http import HttpResponse
    from django.urls import path

    django(ROOT_URLCONF=urlconf(path("", lambda request: HttpResponse(view(request)))))
    return fetch_wsgi("/")


@pytest.mark.parametrize(
    ("name", "context", "text", "counts"),
    [
        ("footer.html", {}, "footer", {"footer_html": 1}),
        # A page is one render, however many templates it extends.
        ("page.html", {}, "<[page]>footer", {"page_html": 1, "footer_html": 1}),
        ("list.html", {"numbers": "abc"}, "a b c ", {"list_html": 1, "row_html": 3}),
        ("nested.html", {}, "a b ", {"nested_html": 1, "list_html": 1, "row_html": 2}),
        ("tag.html", {}, "(x)(y)", {"tag_html": 1, "shown_html": 2}),
    ],
)
def test_each_render_is_counted_under_its_name(
    engine: Any, agent: Agent, name: str, context: Any, text: str, counts: dict[str, int]
) -> None:
    """A page counts once, and so does each time that it includes a template."""
    assert render(engine, name, **context) == text
    assert agent.counts("template") == {f"template.{key}": n for key, n in counts.items()}


@has_partials
@pytest.mark.parametrize(
    ("name", "context", "text", "counts"),
    [
        ("rows.html#row", {"n": 1}, "1 ", {"rows_html_row": 1}),
        ("rows.html", {"numbers": "abc"}, "a b c ", {"rows_html": 1, "rows_html_row": 3}),
        ("shows.html", {"numbers": "ab"}, "a b ", {"shows_html": 1, "rows_html_row": 2}),
        # What is shown where it is defined is the page's own.
        ("inline.html", {}, "note note ", {"inline_html": 1, "inline_html_note": 1}),
        (
            "extends.html",
            {},
            "<[footer]>footer",
            {"extends_html": 1, "extends_html_line": 1, "extends_html_cell": 1, "footer_html": 2},
        ),
    ],
)
def test_each_partial_is_counted_behind_its_template(
    engine: Any, agent: Agent, name: str, context: Any, text: str, counts: dict[str, int]
) -> None:
    """A partial counts each time that it is rendered, included or put where `{% partial %}` stands."""
    assert render(engine, name, **context) == text
    assert agent.counts("template") == {f"template.{key}": n for key, n in counts.items()}


@has_partials
def test_a_response_that_is_a_partial(django: Callable[..., None], agent: Agent) -> None:
    """Where `render()` is asked for a partial, its time is the request's in templates."""
    from django.shortcuts import render
    from django.urls import path

    django(
        ROOT_URLCONF=urlconf(path("", lambda request: render(request, "rows.html#row", {"n": 1}))),
        TEMPLATES=IN_SETTINGS,
    )

    assert fetch_wsgi("/").body == b"1 "
    assert agent.counts("template.") == {"template.rows_html_row": 1}
    assert agent.values("request.template") == agent.values("template.rows_html_row")


class Pause:
    """Takes 20 ms to be shown."""

    def __str__(self) -> str:
        time.sleep(0.02)
        return "."


def test_a_request_sums_outermost_templates_only(
    engine: Any, django: Callable[..., None], agent: Agent
) -> None:
    """What a page includes is a part of its time: the request's sum is no more than its duration."""

    def view(request: Any) -> str:
        return render(engine, "slow.html", pause=Pause()) + render(engine, "footer.html")

    assert serve(django, view).body == b"..footer"
    outermost = agent.values("template.slow_html") + agent.values("template.footer_html")
    assert agent.values("request.template") == [pytest.approx(sum(outermost), abs=0.01)]
    assert agent.values("request.template")[0] >= 40
    assert agent.values("request.template")[0] <= agent.values("request")[0]


@has_partials
def test_a_request_sums_outermost_partials_only(
    engine: Any, django: Callable[..., None], agent: Agent
) -> None:
    """The same holds for a page's partials; one that is rendered by itself is an outermost."""

    def view(request: Any) -> str:
        page = render(engine, "slow_rows.html", pause=Pause())
        return page + render(engine, "slow_rows.html#row", pause="alone")

    assert serve(django, view).body == b"..alone"
    first, second, alone = agent.values("template.slow_rows_html_row")
    (page,) = agent.values("template.slow_rows_html")
    assert min(first, second) >= 20
    assert page >= first + second
    assert agent.values("request.template") == [pytest.approx(page + alone, abs=0.01)]
    assert agent.values("request.template")[0] <= agent.values("request")[0]


def test_a_template_that_fails_is_counted_and_leaves_nothing_behind(
    engine: Any, django: Callable[..., None], agent: Agent
) -> None:
    """The exception is the template's own; the next template of the thread is an outermost again."""

    def fail() -> str:
        raise LookupError("in a template")

    def view(request: Any) -> str:
        with pytest.raises(LookupError, match="in a template") as caught:
            render(engine, "broken.html", fail=fail)
        assert caught.value.template_debug["name"].endswith("failing.html")  # type: ignore[attr-defined]
        return render(engine, "footer.html")

    assert serve(django, view).body == b"footer"
    assert agent.counts("template.") == {
        "template.broken_html": 1,
        "template.failing_html": 1,
        "template.footer_html": 1,
    }
    sums = agent.values("template.broken_html") + agent.values("template.footer_html")
    assert agent.values("request.template") == [pytest.approx(sum(sums), abs=0.01)]


@has_partials
def test_a_partial_that_fails_is_counted(
    engine: Any, django: Callable[..., None], agent: Agent
) -> None:
    """The exception is the partial's own; the next template is an outermost again."""

    def fail() -> str:
        raise LookupError("in a partial")

    def view(request: Any) -> str:
        with pytest.raises(LookupError, match="in a partial") as caught:
            render(engine, "broken_rows.html#row", fail=fail)
        assert caught.value.template_debug["name"].endswith("broken_rows.html")  # type: ignore[attr-defined]
        return render(engine, "footer.html")

    assert serve(django, view).body == b"footer"
    assert agent.counts("template.") == {
        "template.broken_rows_html_row": 1,
        "template.footer_html": 1,
    }
    sums = agent.values("template.broken_rows_html_row") + agent.values("template.footer_html")
    assert agent.values("request.template") == [pytest.approx(sum(sums), abs=0.01)]


def test_a_template_that_includes_none_that_exists(engine: Any, agent: Agent) -> None:
    """Django's own exception comes out."""
    from django.template import TemplateDoesNotExist

    with pytest.raises(TemplateDoesNotExist, match=r"nowhere\.html"):
        render(engine, "missing.html")

    assert agent.counts("template.") == {"template.missing_html": 1}


class Unprintable:
    """A name that must not be printed, compared or tested for truth."""

    def __bool__(self) -> bool:
        raise AssertionError("tested for truth")

    __str__ = __repr__ = __hash__ = __bool__  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        (None, "inline"),
        ("", "inline"),
        (5, "inline"),
        (["a", "list"], "inline"),
        (PurePosixPath("a/b.html"), "inline"),
        (Unprintable(), "inline"),
        ("mail/né:w|@#\n.html", "mail_n__w_____html"),
        ("x" * 500, "x" * 71 + "_"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_names_of_every_kind(django: Any, agent: Agent, name: Any, counted: str) -> None:
    """A template from a string has no name; one that is no text is not printed to make one."""
    from django.template import Context, Engine
    from django.template.base import Template

    assert Template("text", name=name, engine=Engine()).render(Context()) == "text"
    (found,) = agent.counts("template.")
    assert found.startswith(f"template.{counted}")


class Shouting(str):
    """Text whose own methods must not be asked what it says."""

    __slots__ = ()

    def __str__(self) -> str:
        raise AssertionError("printed")

    __bool__ = __len__ = __iter__ = __hash__ = __str__  # type: ignore[assignment]

    def __format__(self, _spec: str) -> str:
        raise AssertionError("formatted")


@has_partials
@pytest.mark.parametrize(
    ("template", "name", "counted"),
    [
        ("a/b.html", "row", "a_b_html_row"),
        (None, "row", "inline_row"),
        ("", "row", "inline_row"),
        (Unprintable(), "row", "inline_row"),
        ("b.html", Unprintable(), "b_html_inline"),
        (Shouting("b.html"), Shouting("row"), "b_html_row"),
        ("b.html", "né:w|@#\n.", "b_html_n__w_____"),
        ("x" * 500, "row", "x" * 71 + "_"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_names_of_partials_of_every_kind(
    django: Any, agent: Agent, template: Any, name: Any, counted: str
) -> None:
    """Names that are no text are not printed, and those that are tell template and partial."""
    from django.template import Context
    from django.template.base import NodeList, Origin, PartialTemplate

    origin = Origin("/a/file", template_name=template)
    assert PartialTemplate(NodeList(), origin, name).render(Context()) == ""
    (found,) = agent.counts("template.")
    assert found.startswith(f"template.{counted}")


@has_partials
@pytest.mark.parametrize("origin", [None, "a.html"])
def test_partials_of_a_string(django: Any, agent: Agent, origin: Any) -> None:
    """A partial of a template that was made from a string has no template's name, whatever its origin is."""
    from django.template import Context, Engine
    from django.template.base import Template

    text = "{% partialdef row %}text{% endpartialdef %}{% partial row %}"
    page = Template(text, origin=origin, name="t.html", engine=Engine())

    assert page.render(Context()) == "text"
    assert agent.counts("template.") == {"template.t_html": 1, "template.inline_row": 1}


@has_partials
def test_what_a_line_calls_a_partial(engine: Any, agent: Agent) -> None:
    """Template and partial can be told apart where a name may have any character."""
    from introspect.instrumentations.django_template import partial_series, template_series

    assert template_series(engine.get_template("rows.html")).values == ("rows.html",)
    assert partial_series(engine.get_template("rows.html#row")).values == ("rows.html#row",)


def test_a_safe_string_is_a_name(django: Any, agent: Agent) -> None:
    """A safe string, or any other subclass of `str`, is a name like others."""
    from django.template import Context, Engine
    from django.template.base import Template
    from django.utils.safestring import mark_safe

    Template("text", name=mark_safe("safe.html"), engine=Engine()).render(Context())

    assert agent.counts("template.") == {"template.safe_html": 1}


def test_threads_do_not_nest_in_each_other(
    engine: Any, django: Callable[..., None], agent: Agent
) -> None:
    """A template that another thread renders meanwhile is an outermost one there."""
    other: list[str] = []

    def render_elsewhere() -> str:
        thread = threading.Thread(target=lambda: other.append(serve(django, page).body.decode()))
        thread.start()
        thread.join()
        return "outer"

    def page(request: Any) -> str:
        return render(engine, "footer.html")

    assert render(engine, "failing.html", fail=render_elsewhere) == "outer"
    assert other == ["footer"]
    assert agent.counts("request.template") == {"request.template": 1}


def test_late_rendering_belongs_to_the_request(django: Callable[..., None], agent: Agent) -> None:
    """A `TemplateResponse` is rendered behind the view, and still within its request."""
    from django.template.response import TemplateResponse
    from django.urls import path

    django(
        ROOT_URLCONF=urlconf(path("", lambda request: TemplateResponse(request, "page.html"))),
        TEMPLATES=IN_SETTINGS,
    )

    assert WsgiCall(environ()).read().body == b"<[page]>footer"
    assert agent.counts("request.template") == {"request.template": 1}
    assert agent.counts("template.") == {"template.page_html": 1, "template.footer_html": 1}


def test_django_test_runner_may_replace_its_own_hook(django: Any, agent: Agent) -> None:
    """`Template._render`, which the test environment replaces and puts back, is not ours."""
    from django.template import Context, Engine
    from django.template.base import Template
    from django.test.signals import template_rendered
    from django.test.utils import instrumented_test_render

    original = Template._render
    rendered = []

    def note(sender: Any, template: Any, **details: Any) -> None:
        rendered.append(template.name)

    template_rendered.connect(note)
    Template._render = instrumented_test_render  # type: ignore[method-assign]
    try:
        Template("text", name="t.html", engine=Engine()).render(Context())
    finally:
        Template._render = original  # type: ignore[method-assign]
        template_rendered.disconnect(note)

    assert original.__module__ == "django.template.base"
    assert not hasattr(original, "__wrapped__")
    assert rendered == ["t.html"]
    assert agent.counts("template.") == {"template.t_html": 1}


@pytest.mark.parametrize(
    "kind",
    [
        "failing.html",
        "broken.html",
        "missing.html",
        pytest.param("broken_rows.html", marks=has_partials),
        pytest.param("broken_rows.html#row", marks=has_partials),
    ],
)
def test_debug_pages_are_the_same(
    kind: str, engine: Any, django: Callable[..., None], start_agent: Callable[..., Agent]
) -> None:
    """The technical page of an error in a template shows no frame of ours."""

    def fail() -> str:
        raise LookupError("in a template")

    def view(request: Any) -> str:
        return render(engine, kind, fail=fail)

    django(DEBUG=True)
    without = serve(django, view)
    start_agent()
    with_agent = serve(django, view)

    assert without.status == with_agent.status == 500
    assert "agent/patching.py" not in with_agent.body.decode()
    assert frames(with_agent) == frames(without)


def frames(answer: Answer) -> list[str]:
    """Return the files and lines of the traceback on a technical page."""
    return re.findall(r"<code[^>]*>([^<]+)</code>, line (\d+)", answer.body.decode())
