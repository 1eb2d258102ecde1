"""Which line of the application something came from."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import django
import pytest

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
    monkeypatch.delitem(sys.modules, "shop.views")
    monkeypatch.delitem(sys.modules, "shop")
    return module


def test_the_caller(views: ModuleType) -> None:
    """The caller is the innermost frame that is neither ours nor Django's, by its package's path."""
    assert views.calls(frames.caller) == "shop/views.py:3"


def test_the_caller_behind_django(views: ModuleType) -> None:
    """Django's frames are passed over."""
    from django.utils.functional import SimpleLazyObject

    assert views.calls(lambda: str(SimpleLazyObject(frames.caller))).startswith("tests/agent/")


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


def test_code_made_at_run_time_is_bounded() -> None:
    """Functions that are made again and again are not remembered without end."""
    for number in range(10_100):
        names: dict[str, Any] = {}
        exec("def f(g): return g()", names)
        names["f"](frames.caller)
        assert len(frames._kinds) <= 10_001, number
