"""Hooks that run when a module has been imported."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from introspect.agent import imports

COUNTER = iter(range(1_000_000))


class Hooked:
    """A module that is written, imported and forgotten by one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"introspect_test_module_{next(COUNTER)}"
        self.seen: list[ModuleType] = []

    def write(self, text: str = "") -> None:
        """Make the module importable."""
        (self.folder / f"{self.name}.py").write_text(text)
        importlib.invalidate_caches()

    def load(self) -> ModuleType:
        """Import it."""
        return importlib.import_module(self.name)

    def hook(self, module: ModuleType) -> None:
        """Take note."""
        self.seen.append(module)


@pytest.fixture
def hooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hooked]:
    """A module that is not there yet."""
    monkeypatch.syspath_prepend(tmp_path)
    module = Hooked(tmp_path)
    yield module
    sys.modules.pop(module.name, None)


def test_before_the_import(hooked: Hooked) -> None:
    """A hook set before the import runs once, with the whole module."""
    hooked.write("mark = 5")
    imports.when_imported(hooked.name, lambda module: hooked.seen.append(module.mark))
    assert hooked.seen == []
    hooked.load()
    hooked.load()

    assert hooked.seen == [5]


def test_after_the_import(hooked: Hooked) -> None:
    """A hook set after the import runs at once."""
    hooked.write()
    module = hooked.load()
    imports.when_imported(hooked.name, hooked.hook)

    assert hooked.seen == [module]


def test_several(hooked: Hooked) -> None:
    """Several hooks of one module all run, in the order in which they were set."""
    hooked.write()
    order: list[int] = []
    for number in range(3):
        imports.when_imported(hooked.name, lambda _module, number=number: order.append(number))
    hooked.load()

    assert order == [0, 1, 2]


def test_faulty_hook(hooked: Hooked, capsys: pytest.CaptureFixture[str]) -> None:
    """An exception in a hook does not reach the import, nor the other hooks."""

    def faulty(_module: ModuleType) -> None:
        raise RuntimeError("of ours")

    hooked.write()
    imports.when_imported(hooked.name, faulty)
    imports.when_imported(hooked.name, hooked.hook)
    module = hooked.load()

    assert hooked.seen == [module]
    assert "RuntimeError: of ours" in capsys.readouterr().err


def test_import_that_fails_at_first(hooked: Hooked) -> None:
    """A module that fails to import is hooked when it succeeds."""
    imports.when_imported(hooked.name, hooked.hook)
    with pytest.raises(ModuleNotFoundError):
        hooked.load()
    hooked.write("1/0")
    with pytest.raises(ZeroDivisionError):
        hooked.load()
    assert hooked.seen == []
    hooked.write("# longer than before")
    hooked.load()

    assert len(hooked.seen) == 1


def test_forget(hooked: Hooked) -> None:
    """Forgotten hooks do not run, and new ones of the same module do."""
    hooked.write()
    imports.when_imported(hooked.name, hooked.hook)
    imports.forget()
    imports.when_imported(hooked.name, hooked.hook)
    hooked.load()

    assert len(hooked.seen) == 1


def test_imports_in_a_hook(hooked: Hooked) -> None:
    """A hook may set further hooks, for other modules."""
    hooked.write()
    imports.when_imported(
        hooked.name, lambda _module: imports.when_imported("json.tool", hooked.hook)
    )
    hooked.load()
    importlib.import_module("json.tool")

    assert [module.__name__ for module in hooked.seen] == ["json.tool"]


def test_circular_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is imported while its own import is under way is hooked once, when it is whole."""
    name = f"introspect_test_package_{next(COUNTER)}"
    (tmp_path / name).mkdir()
    for part, text in {
        "__init__": f"from {name}.user import Thing",
        "user": f"from {name} import leaf; Thing = leaf.Thing",
        "leaf": f"import {name}.user_of_leaf\nclass Thing: pass",
        "user_of_leaf": f"import {name}, {name}.leaf; from {name} import leaf; seen = set(vars(leaf))",
    }.items():
        (tmp_path / name / f"{part}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[bool] = []
    imports.when_imported(f"{name}.leaf", lambda module: seen.append(hasattr(module, "Thing")))
    package = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, f"{name}.leaf")

    assert "Thing" not in package.user_of_leaf.seen
    assert seen == [True]


def test_imports_in_threads(hooked: Hooked) -> None:
    """Threads that import at the same time neither deadlock nor run a hook twice."""
    hooked.write("import time; time.sleep(0.05)")
    imports.when_imported(hooked.name, hooked.hook)
    threads = [threading.Thread(target=hooked.load) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert not any(thread.is_alive() for thread in threads)
    assert len(hooked.seen) == 1


def test_reload(hooked: Hooked) -> None:
    """`importlib.reload` runs no hook again: a reloaded module is left as it is."""
    hooked.write()
    imports.when_imported(hooked.name, hooked.hook)
    module = hooked.load()
    importlib.reload(module)

    assert len(hooked.seen) == 1
