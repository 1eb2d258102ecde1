"""What is left to do is done however a process ends, as far as anything can run there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from introspect.agent import ending, guard
from tests.helpers.processes import clean_environment

# Steps write who runs them at once: nothing of a buffer is left to a process that ends hard.
PREAMBLE = """
import os, sys
from introspect.agent import ending, work
who = "parent"
def step():
    os.write(1, f"{who}\\n".encode())
def registered():
    ending.before_end(ending.UNITS, step)
def forked(name, inside=lambda: None, method="fork"):
    import multiprocessing
    child = multiprocessing.get_context(method).Process(target=run, args=(name, inside))
    child.start(); child.join(30)
    return child.exitcode
def run(name, inside):
    global who
    who = name
    inside()
def left_to_itself(how):
    pid = os.fork()
    if not pid:
        global who
        who = "fork"
        how(0)
    os.waitpid(pid, 0)
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` behind the preamble in an interpreter of its own to its end."""
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + code],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("registered()", ["parent"]),
        ("registered(); registered()", ["parent"]),
        ("registered(); forked('child')", ["child", "parent"]),
        ("import multiprocessing; registered(); forked('child')", ["child", "parent"]),
        ("import multiprocessing.util; forked('child', registered)", ["child"]),
        ("registered(); forked('one'); forked('two')", ["one", "two", "parent"]),
        (
            "registered(); forked('child', lambda: forked('grandchild'))",
            ["grandchild", "child", "parent"],
        ),
        ("registered(); print(forked('child', sys.exit))", ["child", "0", "parent"]),
        ("registered(); print(forked('child', lambda: 1 / 0))", ["child", "1", "parent"]),
        ("registered(); left_to_itself(sys.exit)", ["fork", "parent"]),
        ("registered(); forked('child', lambda: left_to_itself(sys.exit))", ["fork", "child", "parent"]),
        ("registered(); left_to_itself(os._exit)", ["parent"]),
    ],
)  # fmt: skip
def test_who_does_what_is_left(code: str, expected: list[str]) -> None:
    """Each process does it, one that multiprocessing or the application itself has forked included, unless it ends by os._exit."""
    done = python(code + "\nsys.stdout.flush()")

    # Twice where Python 3.13 runs exit hooks as well.
    assert list(dict.fromkeys(done.stdout.split())) == expected, done.stderr


def test_behind_the_finalizers_of_the_application() -> None:
    """In a child of multiprocessing it comes after what the application has put off until the end."""
    code = """
def inside():
    from multiprocessing.util import Finalize
    for priority in (10, 0, -100):
        Finalize(None, os.write, args=(1, b"finalizer\\n"), exitpriority=priority)
registered(); forked("child", inside)
"""
    assert python(code).stdout.split() == [*["finalizer"] * 3, "child", "parent"]


def test_multiprocessing_is_not_imported() -> None:
    """Neither registering, nor a fork, nor the end imports multiprocessing."""
    code = """
def step():
    assert not [name for name in sys.modules if name.startswith("multiprocessing")]
    os.write(1, f"{who}\\n".encode())
registered(); left_to_itself(sys.exit)
"""
    assert python(code).stdout.split() == ["fork", "parent"]


def test_a_multiprocessing_that_is_half_imported() -> None:
    """A module of which nothing is there yet, or that is somebody else's, raises nothing, in a fork neither."""
    code = """
import types
sys.modules["multiprocessing.util"] = types.ModuleType("multiprocessing.util")
registered(); left_to_itself(sys.exit)
del sys.modules["multiprocessing.util"]
forked("child")
"""
    done = python(code)

    assert (done.stdout.split(), done.stderr) == (["fork", "child", "parent"], "")


def test_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Units come ahead of lines and lines ahead of counts, also those that a step brings; one that fails keeps no other back."""
    monkeypatch.setattr(ending, "_steps", {})
    monkeypatch.setattr(guard, "_said", {})
    done: list[str] = []

    def unit_ends() -> None:
        ending.before_end(ending.COUNTS, lambda: done.append("counted by a unit"))
        done.append("unit")

    def fails() -> None:
        raise RuntimeError("nobody foresaw this")

    ending.before_end(ending.COUNTS, lambda: done.append("counts"))
    ending.before_end(ending.LINES, fails)
    ending.before_end(ending.LINES, lambda: done.append("lines"))
    ending.before_end(ending.UNITS, unit_ends)
    ending.run()

    assert done == ["unit", "lines", "counts", "counted by a unit"]
    assert "nobody foresaw this" in capsys.readouterr().err
