"""Time every ``Template.render`` of Django's template engine, by template name.

``render`` is called for a page and for each template it includes; the blocks of its parents are
part of the page's own call. An included template thus has a time of its own within the page's,
and only the outermost adds to the request's total.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from introspect.agent import work
from introspect.agent.metrics import TIMER, Metric
from introspect.agent.patching import timed

TEMPLATE = Metric(
    "template", TIMER, "ms", ("template",), "each `Template.render`, what it includes included"
)

AREA = "template"

record = work.record

# What a template made from a string is counted under: it has no name, or none that is text.
INLINE = "inline"

_rendering: ContextVar[bool] = ContextVar("introspect_rendering", default=False)


def render_started(_args: Any, _kwargs: Any) -> Any:
    """Return a token if this is the outermost template, else ``None``."""
    return None if _rendering.get() else _rendering.set(True)


def rendered(
    token: Any, started: float, ended: float, args: Any, _kwargs: Any, _result: Any, _error: Any
) -> None:
    """Record one render."""
    area = None
    if token is not None:
        _rendering.reset(token)  # same call, same context: reset cannot fail
        area = AREA
    name = args[0].name
    if type(name) is not str:
        name = _text(name)
    record(TEMPLATE.series[(name or INLINE,)], started, ended, area)


def _text(name: object) -> str:
    # By type: a lazy object would be evaluated, and anything else is not ours to hash or print.
    return str.__str__(name) if issubclass(type(name), str) else INLINE


PATCHES = (
    # Not `_render`: Django's own test runner replaces that one.
    timed("django.template.base:Template.render", before=render_started, after=rendered),
)
