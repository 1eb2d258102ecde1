"""Reasons why the start-up file cannot run in a command, found before it is run."""

from __future__ import annotations

import os
import re

from introspect.bootstrap import file_ends

# Flags of the interpreter that make it ignore PYTHONPATH (-E, -I) or site (-S, -I).
_OBSTRUCTIVE_FLAGS = "EIS"
_FLAGS_WITH_A_VALUE = "WX"
_FLAGS_BEFORE_THE_PROGRAM = "cm"
_PYTHON = re.compile(r"(python|pypy)[0-9.]*")

_SHELLS = frozenset({"ash", "bash", "dash", "sh", "zsh"})

_UWSGI = re.compile(r"uwsgi([-_].*)?")

_SCRIPT = b"#!"
# What PyInstaller's own loader looks for in its file, from the end on.
_FROZEN = b"MEI\014\013\012\013\016"

# What has been seen to stand behind that is 2,200 bytes: the tables of an ELF file.
_FROZEN_WITHIN = 65_536

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
    found = _known(os.path.basename(program), command[1:])
    return _in_file(program) if found is None else found


def _known(name: str, arguments: list[str]) -> list[str] | None:
    """Return the obstacles in a command that is known by its name; ``None``: it is not."""
    if _PYTHON.fullmatch(name):
        return _flags(arguments, f"`{name}`")
    if name in _SHELLS:
        return _in_shell(arguments)
    if _UWSGI.fullmatch(name):
        return _in_uwsgi(name, arguments) or None  # a script of some such name has a first line
    if name in _CLEANERS:
        return [_dropped_by(name)]
    if name in _LOGINS and not {"-", "-l", "--login"}.isdisjoint(arguments):
        return [_dropped_by(f"{name} -")]
    if name == "env" and (cleared := _cleared_by_env(arguments)):
        return [_dropped_by(cleared)]
    if name in _STARTERS:
        return _behind(arguments)
    return None


def _dropped_by(words: str) -> str:
    return (
        f"`{words}` does not hand PYTHONPATH on: put introspect-run behind it, in front of the "
        "command that it starts"
    )


def _behind(words: list[str]) -> list[str]:
    """Return the obstacles in the command that is started with the end of *words*."""
    for index, word in enumerate(words):
        if word.startswith("-") or "=" in word:
            continue
        program = _program(word)
        if program is not None:
            return found_in(program, words[index:])
    return []


def _program(word: str) -> str | None:
    """Return the file that runs as *word*, if there is one; a lock's, say, does not run."""
    from introspect.bootstrap.run import find_program

    program = find_program(word, os.environ.get("PATH", os.defpath))
    if program is None or not os.path.isfile(program) or not os.access(program, os.X_OK):
        return None
    return program


def _in_shell(arguments: list[str]) -> list[str]:
    """Return the obstacles in what a shell is told to run by ``-c``, where that is plain."""
    from introspect.bootstrap import shell_words

    words = shell_words.last_command(shell_words.text_of(arguments) or "")
    while words and (words[0] in ("command", "exec") or _is_assignment(words[0])):
        word = words.pop(0)
        if _drops_the_path(word):
            return [_dropped_by("PYTHONPATH=…")]
    if not words:
        return []
    program = _program(words[0])
    if program is None or not os.path.isabs(program):  # it may go to another folder before
        return _known(os.path.basename(words[0]), words[1:]) or []
    return found_in(program, words)


def _is_assignment(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and name.isidentifier()


def _drops_the_path(assignment: str) -> bool:
    """Tell whether *assignment* replaces PYTHONPATH, and does not make it of what it was."""
    return assignment.startswith("PYTHONPATH=") and "$" not in assignment


def _in_uwsgi(name: str, arguments: list[str]) -> list[str]:
    """Return the first obstacle among the options of uWSGI."""
    from introspect.bootstrap import uwsgi_options

    for option in uwsgi_options.given(arguments):
        where = option.file or f"`{name}`"
        if option.name == "no-site" and option.is_on():
            return [_ignored_by(where, "option no-site")]
        if option.name == "env" and _drops_the_path(option.value):
            return [
                (
                    f"{where} has the option env with a PYTHONPATH of its own: make it "
                    "`env = PYTHONPATH=…:$(PYTHONPATH)`, or nothing is measured"
                )
            ]
    return []


def _flags(arguments: list[str], where: str) -> list[str]:
    flag = _obstructive_flag(arguments)
    return [] if flag is None else [_ignored_by(where, f"flag -{flag}")]


def _ignored_by(where: str, what: str) -> str:
    return (
        f"{where} has the {what}, with which Python ignores the start-up file: leave it out, or "
        "nothing is measured"
    )


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
        if _drops_the_path(word):
            return "env PYTHONPATH=…"
        if word in ("-uPYTHONPATH", "--unset=PYTHONPATH"):
            return "env -u PYTHONPATH"
        if word in ("-u", "--unset") and next(words, None) == "PYTHONPATH":
            return "env -u PYTHONPATH"
        if not word.startswith("-") and "=" not in word:
            return None
    return None


def _in_file(program: str) -> list[str]:
    beginning = file_ends.beginning(program, 512)
    if beginning.startswith(_SCRIPT):
        return _shebang(program, beginning)
    if _FROZEN in file_ends.ending(program, _FROZEN_WITHIN):
        return [
            (
                f"{program} is a frozen program (PyInstaller's): the Python in it ignores the "
                "start-up file, and nothing is measured in it. Run it from its sources"
            )
        ]
    return []


def _shebang(program: str, beginning: bytes) -> list[str]:
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
