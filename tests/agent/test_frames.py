"""Which line of the application something came from."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import django
import pytest
from asgiref.sync import sync_to_async

from introspect.agent import frames


@pytest.fixture
def views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module `shop.views` of an application."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "views.py").write_text(
        "import json\n"
        "def calls(function):\n"
        "    return function()\n"
        "def breaks():\n"
        "    return json.loads('{')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("shop", "shop.views"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("shop.views")
    # Not by monkeypatch, which would put these back.
    del sys.modules["shop.views"], sys.modules["shop"]
    return module


def test_the_caller(views: ModuleType) -> None:
    """The caller is the innermost frame that is the application's, by its package's path."""
    assert views.calls(frames.caller) == "shop/views.py:3"


def test_the_caller_behind_django(views: ModuleType) -> None:
    """Django's frames are passed over."""
    from django.utils.functional import SimpleLazyObject

    assert views.calls(lambda: str(SimpleLazyObject(frames.caller))).startswith("tests/agent/")


def test_the_caller_behind_the_standard_library(views: ModuleType) -> None:
    """What the standard library runs on somebody's behalf is asked by that somebody."""
    assert views.calls(weakref.finalize(views, frames.caller)) == "shop/views.py:3"


def test_no_caller_in_a_thread_of_its_own() -> None:
    """Where there are `asgiref` and the standard library alone, as under the async ORM, there is no caller."""
    assert asyncio.run(sync_to_async(frames.caller)()) == ""


def test_no_caller_but_the_server(views: ModuleType) -> None:
    """Beyond Django's handler nobody is looked for: what Django asks by itself is not the server's."""
    source = str(Path(django.__file__).parent / "core" / "handlers" / "wsgi.py")
    names: dict[str, Any] = {}
    exec(compile("def handle(function): return function()", source, "exec"), names)

    assert names["handle"](frames.caller) == ""
    assert names["handle"](lambda: views.calls(frames.caller)) == "shop/views.py:3"


def test_whose_a_frame_is(views: ModuleType) -> None:
    """A frame of the application's is told from those of libraries, Django's and ours."""
    from django.utils.functional import SimpleLazyObject

    seen: list[bool] = []

    def look() -> str:
        frame = sys._getframe(1)
        seen.append(frames.is_application(frame))
        assert frame.f_back is not None
        seen.append(frames.is_application(frame.f_back))
        return ""

    views.calls(look)
    str(SimpleLazyObject(look))

    assert seen == [True, True, False, False]


def test_the_place_of_an_error(views: ModuleType) -> None:
    """An error of a library's is placed at the application's line that called it."""
    with pytest.raises(json.JSONDecodeError) as caught:
        views.breaks()

    assert frames.place_of(caught.value.__traceback__) == "shop/views.py:5"


def test_the_place_of_an_error_in_django_alone() -> None:
    """An error that no application's code was in has no place."""
    source = str(Path(django.__file__).with_name("made_up.py"))
    names: dict[str, Any] = {}
    exec(compile("def fail(): raise ValueError", source, "exec"), names)
    try:
        names["fail"]()
    except ValueError as error:
        trace = error.__traceback__
    assert trace is not None

    assert frames.place_of(trace.tb_next) is None
    assert frames.place_of(None) is None


def test_the_same_code_in_two_files(tmp_path: Path) -> None:
    """A function that stands alike on the same line of a library and of the application is each one's own."""
    kinds = []
    for folder in ("site-packages", "dist-packages", "application"):
        names: dict[str, Any] = {}
        file = tmp_path / folder / "module.py"
        exec(compile("import sys\ndef f(): return sys._getframe()", str(file), "exec"), names)
        kinds.append(frames.is_application(names["f"]()))

    assert kinds == [False, False, True]


def test_files_are_remembered_within_bounds() -> None:
    """Code of ever more files, as templates that are compiled make it, is not remembered without end."""
    for number in range(5_000):
        names: dict[str, Any] = {}
        exec(compile("def f(g): return g()", f"/made/up/{number}.py", "exec"), names)
        names["f"](frames.caller)

    assert frames._kind_of.cache_info().currsize <= 4096
    assert frames._short.cache_info().currsize <= 4096
