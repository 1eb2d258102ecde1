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
_CLEANERS = frozenset(
    {"doas", "docker", "docker-compose", "kubectl", "pkexec", "podman", "ssh", "sudo"}
    | {"systemd-run"}
)
# They do so if asked for a login shell.
_LOGINS = frozenset({"runuser", "su"})

# Programs that start another with the environment that they have: the first of their words that is
# a program is it.
_STARTERS = frozenset(
    {"chpst", "chroot", "chrt", "dumb-init", "env", "flock", "gosu", "ionice", "nice", "nohup"}
    | {"numactl", "prlimit", "runuser", "setpriv", "setsid", "stdbuf", "strace", "su-exec"}
    | {"taskset", "time", "timeout", "tini"}
)


def found_in(program: str, command: list[str]) -> list[str]:
    """Return a sentence for each obstacle in *command*, whose file is *program*."""
    name, arguments = os.path.basename(program), command[1:]
    if _PYTHON.fullmatch(name):
        return _flags(arguments, f"`{name}`")
    if name in _CLEANERS:
        return [_dropped_by(name)]
    if name in _LOGINS and not {"-", "-l", "--login"}.isdisjoint(arguments):
        return [_dropped_by(f"{name} -")]
    if name == "env" and (cleared := _cleared_by_env(arguments)):
        return [_dropped_by(cleared)]
    if name in _STARTERS:
        return _behind(arguments)
    return _shebang(program)


def _dropped_by(words: str) -> str:
    return (
        f"`{words}` does not hand PYTHONPATH on: put introspect-run behind it, in front of the "
        "command that it starts"
    )


def _behind(words: list[str]) -> list[str]:
    """Return the obstacles in the command that is started with the end of *words*."""
    from introspect.bootstrap.run import find_program

    for index, word in enumerate(words):
        if word.startswith("-") or "=" in word:
            continue
        program = find_program(word, os.environ.get("PATH", os.defpath))
        if program is not None and os.path.isfile(program):
            return found_in(program, words[index:])
    return []


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


def _cleared_by_env(arguments: list[str]) -> str | None:
    """Return what in the arguments of ``env`` takes PYTHONPATH away from its command."""
    words = iter(arguments)
    for word in words:
        if word in ("-", "-i", "--ignore-environment"):
            return "env -i"
        if word.startswith("PYTHONPATH="):
            return "env PYTHONPATH=…"
        if word in ("-uPYTHONPATH", "--unset=PYTHONPATH"):
            return "env -u PYTHONPATH"
        if word in ("-u", "--unset") and next(words, None) == "PYTHONPATH":
            return "env -u PYTHONPATH"
        if not word.startswith("-") and "=" not in word:
            return None
    return None


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
