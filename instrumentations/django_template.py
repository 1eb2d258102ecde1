"""Time every ``render`` of Django's templates and their partials, by name.

``render`` is called for a page and for each template it includes; the blocks of its parents are
part of the page's own call. An included template thus has a time of its own within the page's,
and only the outermost adds to the request's total.

A partial, which Django has from 6.0 on, counts as ``page.html#row``, by the template that defines
it and its own name: where it is the response, where it is included, and where its page has
``{% partial row %}``, which is like an include, a time of its own within the page's. What
``{% partialdef row inline %}`` shows on the spot is no ``render``, but a part of the page's.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from introspect.agent.metrics import TIMER, Metric
from introspect.agent.patching import measured

if TYPE_CHECKING:
    from introspect.agent.metrics import Series

TEMPLATE = Metric(
    "template",
    TIMER,
    "ms",
    ("template",),
    "each render of a template or a partial, what it includes included",
    area="template",
    encloses=True,
)

# What a template made from a string is counted under: it has no name, or none that is text. A
# partial of it, which does not know its template but for its origin, counts as `inline#row`.
INLINE = "inline"

_template_series = TEMPLATE.series

# What is looked up as it is: text, and Django's SafeString, once one has come, since what an
# `{% include %}` names is named by one.
_kinds_of_text: set[type] = {str}


def template_series(template: Any, *_context: Any) -> Series:
    """Return what a ``render`` counts as."""
    name = template.name
    if type(name) not in _kinds_of_text:
        name = _text(name)
    return _template_series[(name or INLINE,)]


def partial_series(partial: Any, *_context: Any) -> Series:
    """Return what a ``render`` of a partial counts as."""
    # Any object will do Django as an origin.
    template, name = getattr(partial.origin, "template_name", None), partial.name
    if type(template) not in _kinds_of_text:
        template = _text(template)
    if type(name) not in _kinds_of_text:
        name = _text(name)
    # No f-string, and no sum: they would call what a SafeString has for that in Python.
    return _template_series[("#".join((template or INLINE, name)),)]


def _text(name: object) -> str:
    # By type: a lazy object would be evaluated, and anything else is not ours to hash or print.
    kind = type(name)
    if not issubclass(kind, str):
        return INLINE
    if kind is sys.modules["django.utils.safestring"].SafeString and not hasattr(name, "__dict__"):
        _kinds_of_text.add(kind)
    return str.__str__(name)


PATCHES = (
    # Not `_render`: Django's own test runner replaces that one.
    measured("django.template.base:Template.render", template_series),
    measured("django.template.base:PartialTemplate.render", partial_series, optional=True),
)
