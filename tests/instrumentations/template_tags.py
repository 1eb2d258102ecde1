"""An inclusion tag, for the tests of `django_template`."""

from __future__ import annotations

from django import template

register = template.Library()


@register.inclusion_tag("shown.html")
def shown(what: str) -> dict[str, str]:
    """Show a word by a template of its own."""
    return {"what": what}
