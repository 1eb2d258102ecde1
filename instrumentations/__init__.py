"""One instrumented library per file, found by listing this folder.

An instrumentation is a module with

- a docstring whose first line says what it measures (it stands in the README's table),
- its ``Metric`` declarations,
- ``PATCHES``, a tuple of ``Patch``: what is replaced, as data,
- the observers that the patches name, as short functions;
- if it has settings, ``configure(settings)``; if some of its patches are for some settings only,
  ``patches(settings)``, which returns those.

It imports nothing of its library: targets are strings, and observers get the library's objects as
arguments. ``INTROSPECT_DISABLE`` leaves it out by its file's name. Its test is
``tests/instrumentations/test_<name>.py``; ``test_contract.py`` runs every instrumentation through
all orders of import, patch and undo.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def names() -> list[str]:
    """Every instrumentation's name, sorted; a file whose name begins with ``_`` is none."""
    return sorted(
        found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")
    )


def load(name: str) -> ModuleType:
    """Import the instrumentation *name*."""
    return importlib.import_module(f"{__name__}.{name}")
