"""What a view is called on metrics, log lines and in SQL comments."""

from __future__ import annotations

from functools import partial
from types import FunctionType
from typing import Any, Final

UNRESOLVED: Final = "unresolved"
"""The name of the view of a request whose path matched none."""


def view_name(django_request: Any) -> str:
    """Return the dotted name of the view that the request was routed to.

    Read at the end of the request, since middleware may change ``request.urlconf``. Class-based
    views are named by their class, the admin's by the ``ModelAdmin``, REST framework's view sets by
    class and action.
    """
    match = getattr(django_request, "resolver_match", None)
    if match is None:
        return UNRESOLVED
    return callable_name(match.func, django_request.method)


def callable_name(view: Any, method: str | None = None) -> str:
    """Return the dotted name of a view, whatever kind of callable it is."""
    if type(view) is FunctionType and not view.__dict__:
        return f"{view.__module__}.{view.__qualname__}"  # most of them
    while isinstance(view, partial):
        view = view.func
    if not isinstance(getattr(view, "__qualname__", None), str) or not hasattr(view, "__module__"):
        view = type(view)  # a callable object
    attributes = getattr(view, "__dict__", {})
    owner = attributes.get("view_class") or attributes.get("cls")  # Django's as_view, then DRF's
    if isinstance(owner, type):
        actions = attributes.get("actions")  # a view set's: {"get": "list"}
        action = actions.get((method or "").lower()) if isinstance(actions, dict) else None
        return f"{owner.__module__}.{owner.__qualname__}{f'.{action}' if action else ''}"
    admin = attributes.get("model_admin")
    if admin is not None:
        return f"{type(admin).__module__}.{type(admin).__qualname__}.{view.__name__}"
    return f"{view.__module__}.{view.__qualname__}"
