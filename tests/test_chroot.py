"""The run on the newest Python and Django knows that it is one, and refuses to be another."""

from __future__ import annotations

import contextlib
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import django
import pytest

from tests import chroot
from tests.environments import digest

PYTHON, DJANGO = platform.python_version(), django.__version__


def versions(*wanted: str) -> subprocess.CompletedProcess[str]:
    """Run what the chroot runs, with the Python that runs the tests."""
    command = [sys.executable, "-c", chroot.VERSIONS, *wanted]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_versions_that_are_new_enough_are_said() -> None:
    """The versions found are printed, and the status is 0 where they are those wanted, or newer."""
    as_it_is = ".".join(re.findall(r"\d+", DJANGO)[:2])
    for wanted in (["Python 3.10", "Django 4.2"], [f"Python {PYTHON}", f"Django {as_it_is}"]):
        done = versions(*wanted)

        assert (done.returncode, done.stdout) == (0, f"Python {PYTHON} and Django {DJANGO}\n")


@pytest.mark.parametrize(
    ("wanted", "found"), [("Python 3.100", f"Python {PYTHON}"), ("Django 40", f"Django {DJANGO}")]
)
def test_an_older_version_is_refused(wanted: str, found: str) -> None:
    """Numbers are compared as numbers; what is too old is named, with its version and the one wanted."""
    done = versions("Python 3.10", wanted, "Django 4.2")

    assert done.returncode == 1
    assert done.stderr == f"the chroot has {found}, and this is for {wanted} and newer\n"


def test_what_it_is_for() -> None:
    """It is for Python 3.14 and Django 6.0, or newer ones."""
    assert chroot.AT_LEAST == {"Python": "3.14", "Django": "6.0"}
    assert chroot.PYTHON == "python3.14"


Run = Callable[..., list[list[str]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the whole in a chroot that was made long ago, where the commands that hold `failing` fail."""
    commands: list[list[str]] = []
    monkeypatch.setattr(chroot, "ROOT", tmp_path)
    (tmp_path / "installed").write_text(digest(*chroot.PACKAGES))
    for name in ("make_root", "copy_source"):
        monkeypatch.setattr(chroot, name, lambda: None)
    monkeypatch.setattr(chroot, "_BORROWED", ())
    monkeypatch.setattr(chroot, "lend_services", lambda stack: ["TEST_REDIS=127.0.0.1:6379"])
    monkeypatch.setattr(chroot.os, "geteuid", lambda: 0)
    monkeypatch.setattr(chroot.signal, "signal", lambda *_: signal.SIG_DFL)

    def run_with(failing: str = "") -> list[list[str]]:
        def inside(*command: str) -> int:
            commands.append(list(command))
            return 3 if failing and failing in command else 0

        monkeypatch.setattr(chroot, "inside", inside)
        refused = pytest.raises(SystemExit, match=r"^3$")
        with refused if failing else contextlib.nullcontext():
            chroot.main(["-x"])
        return commands

    return run_with


def test_a_chroot_made_long_ago_is_brought_up_to_date(run: Run) -> None:
    """Nothing is made anew, but Django is upgraded and the versions are looked at, ahead of the tests."""
    *installing, looking, testing = run()

    assert [command[-2:] for command in installing] == [
        ["--upgrade", "django"],
        ["--no-deps", "/source"],
    ]
    assert looking[1:] == ["-c", chroot.VERSIONS, "Python 3.14", "Django 6.0"]
    assert "TEST_REDIS=127.0.0.1:6379" in testing
    assert testing[-6:] == ["/venv/bin/python", "-m", "pytest", "-m", "not host_only", "-x"]


@pytest.mark.parametrize("failing", ["--upgrade", chroot.VERSIONS])
def test_a_chroot_that_stays_old_is_refused(run: Run, failing: str) -> None:
    """Where Django cannot be upgraded, or a version is too old, no test runs, and the status says so."""
    assert not any("pytest" in command for command in run(failing))
