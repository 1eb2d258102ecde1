"""One scenario of `test_contract.py` in an interpreter of its own: `contract_scenario.py SCENARIO NAME`.

Prints what it found as JSON.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import sys
from typing import Any

from introspect import instrumentations
from introspect.agent import patching
from introspect.agent.patching import Patch


def current(patch: Patch) -> Any:
    """Return what stands in the owner's dictionary under the patch's attribute now."""
    owner = owner_of(patch)
    name = patch.attribute.rpartition(".")[2]
    if patch.own:  # what is inherited is another class's to patch
        return owner.__dict__.get(name)
    return owner.__dict__.get(name, getattr(owner, name, None))


def owner_of(patch: Patch) -> Any:
    """Return the class or module that has the patch's attribute."""
    path = patch.attribute.split(".")[:-1]
    return functools.reduce(getattr, path, sys.modules[patch.module])


def import_libraries(patches: tuple[Patch, ...]) -> tuple[Patch, ...]:
    """Import every module that the patches name; returns those patches that have something to replace here."""
    from django.conf import settings

    if not settings.configured:
        settings.configure()
    # As every site does, long before a database: some parts of Django cannot be imported first.
    importlib.import_module("django.db.models")
    for patch in patches:
        if is_installed(patch.module):
            importlib.import_module(patch.module)
    return tuple(
        patch
        for patch in patches
        if patch.module in sys.modules and not (patch.optional and is_lacking(patch))
    )


def is_installed(module: str) -> bool:
    """Tell whether the module can be imported here: its library is there, in a version that has it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def is_lacking(patch: Patch) -> bool:
    """Tell whether the installed version does not have what an optional patch would replace."""
    owner: Any = sys.modules[patch.module]
    for step in patch.attribute.split("."):
        owner = getattr(owner, step, None)
    return owner is None


def targets_where(patches: tuple[Patch, ...], condition: Any) -> list[str]:
    """Return the targets for which `condition` holds."""
    return [patch.target for patch in patches if condition(patch)]


def originals_of(patches: tuple[Patch, ...]) -> dict[str, Any]:
    """Return what the library itself had in each place before it was patched."""
    originals: dict[str, Any] = {}
    for patch, applied in patching._applied.items():
        originals.setdefault(patch.target, applied.original)
    return {patch.target: originals.get(patch.target, current(patch)) for patch in patches}


def import_system(patches: tuple[Patch, ...]) -> dict[str, list[str]]:
    """Return what the import system and autoreload read of each module."""
    found = {}
    for patch in patches:
        module = sys.modules[patch.module]
        assert module.__spec__ is not None
        found[patch.module] = [
            str(module.__file__),
            type(module.__loader__).__qualname__,
            type(module.__spec__.loader).__qualname__,
            str(module.__spec__.origin),
            str(module.__spec__.has_location),
        ]
    return found


def exercise(patches: tuple[Patch, ...], originals: dict[str, Any]) -> dict[str, Any]:
    """Apply again, undo, undo again, apply once more; all libraries are imported and patched."""
    replaced = {patch.target: current(patch) for patch in patches}
    found: dict[str, Any] = {
        "status": patching.status(),
        "import_system": import_system(patches),
        "replaced": targets_where(patches, lambda p: replaced[p.target] is not originals[p.target]),
    }
    patching.apply(patches)
    found["same_when_applied_again"] = targets_where(
        patches, lambda p: current(p) is replaced[p.target]
    )
    for step in ("restored", "restored_when_undone_again"):
        patching.undo_all()
        found[step] = targets_where(patches, lambda p: current(p) is originals[p.target])
    patching.apply(patches)
    found["applied_after_undo"] = targets_where(
        patches, lambda p: current(p) is not originals[p.target]
    )
    patching.undo_all()
    return found


def import_then_patch(name: str) -> dict[str, Any]:
    """The library is there first; at the end, it is one of a version without the attributes."""
    patches = instrumentations.load(name).PATCHES
    installed = import_libraries(patches)
    untouched = import_system(installed)
    originals = {patch.target: current(patch) for patch in installed}
    patching.apply(patches)
    found = exercise(installed, originals)
    return {**found, "untouched": untouched, "without_attributes": attribute_absent(installed)}


def patch_then_import(name: str) -> dict[str, Any]:
    """We are there first."""
    patches = instrumentations.load(name).PATCHES
    patching.apply(patches)
    installed = import_libraries(patches)
    return exercise(installed, originals_of(installed))


def load_all(_name: str) -> dict[str, Any]:
    """The instrumentations, and nothing else, are imported."""
    before = set(sys.modules)
    modules = {
        patch.module
        for name in instrumentations.names()
        for patch in instrumentations.load(name).PATCHES
    }
    return {"imported": sorted(modules & (set(sys.modules) - before))}


class Blocker:
    """Stands first in `sys.meta_path` and refuses the modules it is given."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse a blocked module."""
        if name in self.names:
            raise ImportError("blocked by the test")


def library_absent(name: str) -> dict[str, Any]:
    """None of the modules can be imported."""
    patches = instrumentations.load(name).PATCHES
    installed = [patch for patch in patches if is_installed(patch.module)]
    names = {patch.module for patch in patches}
    for module in names:
        sys.modules.pop(module, None)
    sys.meta_path.insert(0, Blocker(names))  # type: ignore[arg-type]
    patching.apply(patches)
    errors = []
    for patch in installed:
        try:
            importlib.import_module(patch.module)
        except ImportError as error:
            errors.append(f"{type(error).__name__}: {error}")
    found = {"status": patching.status(), "import_errors": errors}
    patching.undo_all()
    return found


def owners_of(patch: Patch) -> list[Any]:
    """Return all that have the attribute themselves: the module, or the class and those it inherits from."""
    owners = getattr(owner_of(patch), "__mro__", (owner_of(patch),))
    return [owner for owner in owners if patch.attribute.rpartition(".")[2] in owner.__dict__]


def is_python(owner: Any) -> bool:
    """Tell whether it is a module or made by a class statement: nothing can be taken from a class of C."""
    return not isinstance(owner, type) or bool(owner.__flags__ & 1 << 9)


def attribute_absent(patches: tuple[Patch, ...]) -> list[str]:
    """Return the statuses of the patches where what they want to replace is not there."""
    # A class always has, say, `__init__`.
    patches = tuple(
        patch
        for patch in patches
        if not patch.attribute.endswith("__") and all(map(is_python, owners_of(patch)))
    )
    for patch in patches:
        for owner in owners_of(patch):
            delattr(owner, patch.attribute.rpartition(".")[2])
    patching.apply(patches)
    statuses = set(patching.status().values())
    patching.undo_all()
    return sorted(statuses)


def started(name: str) -> dict[str, Any]:
    """The whole agent is started, as the environment says, and then the library is imported."""
    from introspect.bootstrap.start import start

    start()
    from django.conf import settings

    configured = settings.configured
    names = instrumentations.names() if name == "all" else [name]
    replaced = []
    for each in names:
        installed = import_libraries(instrumentations.load(each).PATCHES)
        replacements = [id(applied.replacement) for applied in patching._applied.values()]
        replaced += targets_where(installed, lambda p, r=replacements: id(current(p)) in r)
    return {"status": patching.status(), "replaced": replaced, "configured": configured}


if __name__ == "__main__":
    _, scenario, name = sys.argv
    print(json.dumps(globals()[scenario](name)))
