"""What the tests need of the machine: what is missing is found, and installed by those who may."""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import machine

# What may be there, and the packages that are missing where it is not.
NEEDED = {
    "ensurepip": ["python3-venv"],
    "Python.h": ["python3-dev"],
    "cc": ["gcc", "libc6-dev"],
    "pkg-config": ["pkg-config", "libmariadb-dev"],
    "libmariadb": ["libmariadb-dev"],
    "git": ["git"],
    "debootstrap": ["debootstrap"],
    "unshare": ["util-linux"],
    "node": ["nodejs"],
    "npm": ["npm"],
    "postgresql": ["postgresql"],
    "mariadbd": ["mariadb-server"],
    "redis-server": ["redis-server"],
    "chromium": ["chromium"],
    "valgrind": ["valgrind"],
}
NO_PROGRAMS = {"ensurepip", "Python.h", "libmariadb", "postgresql"}

Machine = Callable[[set[str]], None]


@pytest.fixture
def has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make a machine of an empty folder, on which the given things are there and nothing else is."""
    programs = tmp_path / "bin"
    programs.mkdir()
    find_spec = importlib.util.find_spec

    def program(name: str, script: str) -> None:
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)

    def make(there: set[str]) -> None:
        for name in there - NO_PROGRAMS:
            program(name, f"exit {int('libmariadb' not in there)}" if name == "pkg-config" else "")
        if "postgresql" in there:
            (tmp_path / "usr/lib/postgresql/15/bin").mkdir(parents=True)
            (tmp_path / "usr/lib/postgresql/15/bin/initdb").touch()
        (tmp_path / "include").mkdir()
        if "Python.h" in there:
            (tmp_path / "include/Python.h").touch()
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *package: (
                ("ensurepip" in there or None) if name == "ensurepip" else find_spec(name, *package)
            ),
        )

    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(machine, "_PATH", str(programs))
    monkeypatch.setattr(
        machine, "Path", lambda first, *more: Path(tmp_path, first.lstrip("/"), *more)
    )
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: "/include")
    return make


def test_nothing_is_missing_where_all_is_there(has: Machine) -> None:
    """On a machine that has everything nothing would be installed."""
    has(set(NEEDED))

    assert machine.missing_packages() == []


def test_all_is_missing_where_nothing_is_there(has: Machine) -> None:
    """On an empty machine each package is named, once."""
    has(set())

    missing = machine.missing_packages()
    assert sorted(missing) == sorted({name for names in NEEDED.values() for name in names})


@pytest.mark.parametrize("thing", NEEDED)
def test_each_thing_has_its_packages(has: Machine, thing: str) -> None:
    """Where one thing alone is missing, exactly the packages that bring it are named."""
    has(set(NEEDED) - {thing})

    assert machine.missing_packages() == NEEDED[thing]


class Apt:
    """Stands for `apt-get`: `calls` is what it was asked for; before an `update` it knows no package."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "apt.log"
        self.log.touch()
        script = folder / "bin" / "apt-get"
        script.write_text(
            f'#!/bin/sh\necho "$DEBIAN_FRONTEND $*" >> {self.log}\n'
            f"case $1 in update) : > {folder}/updated;; *) [ -e {folder}/updated ];; esac\n"
        )
        script.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """Each call's arguments, behind the front end that its environment names."""
        return self.log.read_text().splitlines()


@pytest.fixture
def apt(has: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    """Let all be there but git and Node's npm, so that statsd is not installed, and look at what happens."""
    has(set(NEEDED) - {"git", "npm"})
    monkeypatch.setattr(machine, "STATSD_PACKAGE", tmp_path / "statsd")
    return Apt(tmp_path)


def test_root_installs_what_is_missing(apt: Apt, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root has it installed, without questions, and with fresh lists where the old ones do not do."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    said: list[str] = []
    machine.install_missing(said.append)

    install = "noninteractive install --yes --no-install-recommends git npm"
    assert apt.calls == [install, "noninteractive update", install]
    assert said == ["installing git npm"]


def test_others_are_told_what_to_install(apt: Apt, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root is told the command, and nothing is installed."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said: list[str] = []
    machine.install_missing(said.append)

    assert apt.calls == []
    assert len(said) == 1
    assert "apt-get install git npm;" in said[0]
