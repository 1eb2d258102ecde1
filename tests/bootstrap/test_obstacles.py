"""Commands in which the start-up file cannot run are named before they run."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from introspect.bootstrap import obstacles
from tests.bootstrap.launching import launched

PYTHON = "/usr/bin/python3"


def program(folder: Path, first_line: str) -> str:
    """Write a script with that first line, and return its path."""
    path = folder / "program"
    path.write_text(f"{first_line}\nprint('hello')\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["-E", "x.py"], "E"),
        (["-I", "-m", "x"], "I"),
        (["-S"], "S"),
        (["-Es", "x.py"], "E"),
        (["-sBE", "x.py"], "E"),
        (["-u", "-I", "x.py"], "I"),
        (["-X", "dev", "-W", "error", "-E", "x.py"], "E"),
        (["-Xdev", "-S", "x.py"], "S"),
    ],
)
def test_python_flags(words: list[str], flag: str) -> None:
    """A flag by which Python ignores PYTHONPATH or site is named, wherever it stands."""
    (sentence,) = obstacles.found_in(PYTHON, ["python3", *words])

    assert f"`python3` has the flag -{flag}," in sentence


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["x.py", "-E"],
        ["-c", "x", "-I"],
        ["-mEIS"],
        ["-m", "x", "-S"],
        ["-", "-S"],
        ["-X", "E", "-WI", "-W", "ignore:S", "x.py"],
        ["-uBOOsvb", "x.py"],
        ["--check-hash-based-pycs", "default"],
    ],
)
def test_harmless_python_flags(words: list[str]) -> None:
    """Other flags, flags' values and the program's own arguments are no obstacle."""
    assert obstacles.found_in(PYTHON, ["python3", *words]) == []


@pytest.mark.parametrize(
    ("first_line", "flag"),
    [
        ("#!/usr/bin/python3 -E", "E"),
        ("#! /usr/bin/python3.11 -Es", "E"),
        ("#!/usr/bin/env -S python -I", "I"),
        ("#!/opt/pypy3 -S", "S"),
        ("#!/usr/bin/python3", None),
        ("#!/usr/bin/env -S python -u", None),
        ("#!/usr/bin/env python", None),
        ("#!/bin/sh -E", None),
        ("#!", None),
        ("", None),
        ("\x7fELF", None),
    ],
)
def test_shebang(tmp_path: Path, first_line: str, flag: str | None) -> None:
    """The first line of a script is read as the kernel and `env` read it."""
    path = program(tmp_path, first_line)
    found = obstacles.found_in(path, [path])

    assert len(found) == (flag is not None)
    assert all(f"the first line of {path} has the flag -{flag}," in sentence for sentence in found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["env", "-i", "python"], "`env -i`"),
        (["env", "-", "python"], "`env -i`"),
        (["env", "A=1", "-i", "python"], "`env -i`"),
        (["env", "-v", "--ignore-environment", "python"], "`env -i`"),
        (["env", "-u", "PYTHONPATH", "python"], "`env -u PYTHONPATH`"),
        (["env", "--unset=PYTHONPATH", "python"], "`env -u PYTHONPATH`"),
        (["env", "A=1", "PYTHONPATH=/srv", "python"], "`env PYTHONPATH=…`"),
        (["env", "-u", "HOME", "A=1", "python"], None),
        (["env", "A=1", "grep", "-i", "x"], None),
        (["env", "grep", "PYTHONPATH=x"], None),
        (["env"], None),
    ],
)
def test_env(words: list[str], said: str | None) -> None:
    """An `env` that takes PYTHONPATH away is named; the words of the command behind it are not its own."""
    found = obstacles.found_in("/usr/bin/env", words)

    assert len(found) == (said is not None)
    assert all(f"{said} does not hand PYTHONPATH on" in sentence for sentence in found)


@pytest.mark.parametrize(
    "words",
    [
        ["sudo", "gunicorn"],
        ["doas", "gunicorn"],
        ["docker", "run", "image", "gunicorn"],
        ["ssh", "web1", "gunicorn"],
        ["su", "-", "www", "-c", "gunicorn"],
        ["runuser", "-l", "www", "-c", "gunicorn"],
    ],
)
def test_programs_that_clear_the_environment(words: list[str]) -> None:
    """A program that drops the environment is named, and where introspect-run belongs instead."""
    (sentence,) = obstacles.found_in(f"/usr/bin/{words[0]}", words)

    assert sentence.startswith(f"`{words[0]}")
    assert "put introspect-run behind it" in sentence


@pytest.mark.parametrize("words", [["su", "www", "-c", "gunicorn"], ["runuser", "-u", "www", "id"]])
def test_another_user_without_a_login(words: list[str]) -> None:
    """`su` without a login shell hands the environment on, and is no obstacle."""
    assert obstacles.found_in(f"/usr/bin/{words[0]}", words) == []


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["env", "A=1", sys.executable, "-E", "x.py"], "E"),
        (["nice", "-n", "5", sys.executable, "-I", "x.py"], "I"),
        (["timeout", "-s", "KILL", "30", "nohup", sys.executable, "-S", "x.py"], "S"),
        (["nice", "-n", "5", sys.executable, "x.py", "-E"], None),
        (["nice", "-n", "5", "grep", "-E", "x"], None),
        (["timeout", "30", "no-such-command", "-E"], None),
        (["nohup"], None),
    ],
)
def test_behind_a_program_that_starts_another(words: list[str], flag: str | None) -> None:
    """What `nice`, `timeout` and their like start is looked at, too."""
    found = obstacles.found_in(f"/usr/bin/{words[0]}", words)

    assert len(found) == (flag is not None)
    assert all(f"has the flag -{flag}," in sentence for sentence in found)


def test_zipped_application(tmp_path: Path) -> None:
    """A PEX file, which may scrub PYTHONPATH, is named with both ways out."""
    path = tmp_path / "app.pex"
    with path.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("__main__.py", "print('hello')")
    (sentence,) = obstacles.found_in(str(path), [str(path)])

    assert f"`introspect-run python {path}`" in sentence
    assert "PEX_INHERIT_PATH=prefer" in sentence


@pytest.mark.parametrize("path", ["/", "/nothing/here"])
def test_unreadable_program(path: str) -> None:
    """What cannot be read is no obstacle: whether it runs is for the system to say."""
    assert obstacles.found_in(path, [path]) == []


def test_obstacle_is_said_and_the_command_runs() -> None:
    """One line names the obstacle, and the command runs all the same."""
    done = launched(sys.executable, "-E", "-c", "print('hello')")

    assert done.stdout == b"hello\n"
    assert done.stderr.count(b"\n") == 1
    assert b"has the flag -E" in done.stderr
