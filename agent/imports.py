"""Run a hook when a module has been imported, or at once if it already is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import wrapt

from introspect.agent import guard

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

_hooks: dict[str, list[Callable[[ModuleType], None]]] = {}


def when_imported(name: str, hook: Callable[[ModuleType], None]) -> None:
    """Call *hook* with the module *name* once it has been imported.

    An exception in a bare wrapt hook makes the application's own ``import`` fail
    (``wrapt/importer.py`` says so), hence the guard. A hook stays registered until ``forget``.
    """
    first = name not in _hooks
    _hooks.setdefault(name, []).append(hook)
    module = sys.modules.get(name)
    if module is not None:
        _run(hook, module)
    elif first:
        wrapt.register_post_import_hook(_notify, name)


def forget() -> None:
    """Drop all hooks; wrapt keeps its one entry for a name, which then does nothing."""
    for hooks in _hooks.values():
        hooks.clear()


def _notify(module: ModuleType) -> None:
    # wrapt calls this outside its lock, so that an import inside a hook deadlocks with no thread.
    # It runs once: a module that is reloaded, or dropped from sys.modules and imported anew, stays
    # as it is then, unobserved.
    for hook in tuple(_hooks.get(module.__name__, ())):
        _run(hook, module)


def _run(hook: Callable[[ModuleType], None], module: ModuleType) -> None:
    try:
        hook(module)
    except Exception:
        guard.swallow(hook)
