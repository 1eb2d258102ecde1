"""Reasons why the start-up file cannot run in a command, found before it is run."""

from __future__ import annotations

import os
import re

# Flags of the interpreter that make it ignore PYTHONPATH (-E, -I) or site (-S, -I).
_OBSTRUCTIVE_FLAGS = "EIS"
_FLAGS_WITH_A_VALUE = "WX"
_FLAGS_BEFORE_THE_PROGRAM = "cm"
_PYTHON = re.compile(r"(python|pypy)[0-9.]*")

# Programs that start another with an environment of their own making.
_CLEANERS = {
    "sudo": "sudo drops PYTHONPATH: put introspect-run behind it, `sudo … introspect-run COMMAND`",
    "su": "su starts a new environment: put introspect-run into the command that su runs",
    "doas": "doas drops PYTHONPATH: put introspect-run behind it",
}


def found_in(program: str, command: list[str]) -> list[str]:
    """Return a sentence for each obstacle in *command*, whose file is *program*."""
    name = os.path.basename(program)
    obstacles = []
    if _PYTHON.fullmatch(name):
        obstacles.extend(_flags(command[1:], f"`{name}`"))
    elif name == "env" and _clears_environment(command[1:]):
        obstacles.append("`env -i` drops PYTHONPATH: put introspect-run behind it")
    elif name in _CLEANERS:
        obstacles.append(_CLEANERS[name])
    else:
        obstacles.extend(_shebang(program))
    return obstacles


def _flags(arguments: list[str], where: str) -> list[str]:
    flag = _obstructive_flag(arguments)
    if flag is None:
        return []
    return [
        (
            f"{where} has the flag -{flag}, with which Python ignores the start-up file: leave it "
            "out, or nothing is measured"
        )
    ]


def _obstructive_flag(arguments: list[str]) -> str | None:
    """Read *arguments* as the interpreter does, up to the program."""
    words = iter(arguments)
    for word in words:
        if not word.startswith("-") or word.startswith("--") or word == "-":
            return None
        for index, flag in enumerate(word[1:], 2):
            if flag in _OBSTRUCTIVE_FLAGS:
                return flag
            if flag in _FLAGS_BEFORE_THE_PROGRAM:
                return None
            if flag in _FLAGS_WITH_A_VALUE:
                if index == len(word):
                    next(words, None)
                break
    return None


def _clears_environment(arguments: list[str]) -> bool:
    for word in arguments:
        if word in ("-", "-i", "--ignore-environment"):
            return True
        if not word.startswith("-") and "=" not in word:
            return False
    return False


def _shebang(program: str) -> list[str]:
    try:
        with open(program, "rb") as file:
            beginning = file.read(512)
    except OSError:  # it may be executed, not read; or it is missing, which is said elsewhere
        return []
    if not beginning.startswith(b"#!"):
        return []
    line = beginning[2:].split(b"\n", 1)[0].decode("utf-8", "replace").split()
    while line and not _PYTHON.fullmatch(os.path.basename(line[0])):
        line.pop(0)  # /usr/bin/env -S
    if not line:
        return []
    if b"\nPK\x03\x04" in beginning:
        return [
            (
                f"{program} is a zipped application (PEX or the like), which may ignore "
                f"PYTHONPATH: if nothing arrives, run `introspect-run python {program}`, or set "
                "PEX_INHERIT_PATH=prefer"
            )
        ]
    return _flags(line[1:], f"the first line of {program}")
