"""Commands in which the start-up file cannot run are named before they run."""

from __future__ import annotations

import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.bootstrap import obstacles, shell_words
from tests.bootstrap.launching import launched
from tests.helpers.processes import script

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
        (["nice", "-n", "5", sys.executable, "-I", "-m", "gunicorn"], "I"),
        (["flock", "-n", __file__, sys.executable, "-E", "-m", "gunicorn"], "E"),
        (["nice", "sh", "-c", f"exec {sys.executable} -E -m gunicorn"], "E"),
        (["nice", sys.executable, "-m", "gunicorn", "-E"], None),
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


@pytest.mark.parametrize(
    "words",
    [
        ["sh", "-c", "python -E x.py"],
        ["bash", "-c", "exec python3 -E -m gunicorn mysite.wsgi"],
        ["bash", "-lc", "python -E x.py"],
        ["dash", "-ec", "python -E x.py"],
        ["ash", "-e", "-u", "-c", "python -E x.py", "sh", "argument"],
        ["bash", "-eo", "pipefail", "-c", "python -E x.py"],
        ["bash", "-o", "pipefail", "-c", "--", "python -E x.py"],
        ["bash", "--norc", "--rcfile", "/x", "-c", "python -E x.py"],
        ["zsh", "-c", "+x", "python -E x.py"],
        ["sh", "-c", "cd /srv && exec python -E x.py"],
        ["sh", "-c", "set -e\n. /etc/site.env; export A=b\nexec python -E x.py\n"],
        ["sh", "-c", "A=b B='c d' python -E x.py >>/var/log/x 2>&1"],
        ["sh", "-c", "python -E x.py 2>&1 | tee log; # x"],
        ["sh", "-c", "python -E x.py &> log &"],
        ["sh", "-c", "python -E x.py || exit 1"],
        ["sh", "-c", "'python' \"-E\" x.py"],
        ["sh", "-c", "exec python \\\n  -E x.py"],
        ["sh", "-c", "exec nice -n 5 env A=b python -E x.py"],
        ["sh", "-c", "sh -c 'exec python -E x.py'"],
        ["sh", "-c", 'python -E -c "print(1); print(2)"'],
        ["sh", "-c", "command python -E x.py"],
    ],
)  # fmt: skip
def test_shells(words: list[str], python_in_path: None) -> None:
    """What a shell is told to run by `-c` is looked at: the last command of the text, which is what stays."""
    (sentence,) = obstacles.found_in(f"/bin/{words[0]}", words)

    assert "has the flag -E," in sentence


@pytest.mark.parametrize(
    "words",
    [
        ["sh"],
        ["sh", "-c"],
        ["sh", "-c", ""],
        ["sh", "start.sh", "-c", "python -E x.py"],
        ["sh", "-e", "start.sh"],
        ["sh", "-s", "python -E"],
        ["bash", "-o", "c", "python -E x.py"],
        ["sh", "--", "-c", "python -E x.py"],
        ["sh", "-c", "python x.py -E"],
        ["sh", "-c", "python -E prepare.py && exec python x.py"],
        ["sh", "-c", "python -E prepare.py; gunicorn"],
        ["sh", "-c", "python -E watch.py & exec gunicorn"],
        ["sh", "-c", "echo 'python -E'"],
        ["sh", "-c", "echo 'x; python -E y'"],
        ["sh", "-c", "echo x ';' python -E"],
        ["sh", "-c", "echo x \\; python -E"],
        ["sh", "-c", "echo `true; python -E y`"],
        ["sh", "-c", "echo $(true; python -E y)"],
        ["sh", "-c", "(python -E y; gunicorn)"],
        ["sh", "-c", "cat <<END\nx\npython -E"],
        ["sh", "-c", "gunicorn # x; python -E"],
        ["sh", "-c", "if true; then python -E x; fi"],
        ["sh", "-c", "'unbalanced; python -E x.py"],
        ["sh", "-c", "exec -a name python -E x.py"],
        ["sh", "-c", "$PYTHON -E x.py"],
        ["sh", "-c", "env PYTHONPATH=/srv:$PYTHONPATH python x.py"],
        ["sh", "-c", "PYTHONPATH=/srv:${PYTHONPATH} python x.py"],
        ["sh", "-c", "grep -E x"],
        ["sh", "-c", "A=b"],
        ["sh", "-c", "exec"],
        ["sh", "-c", "python -E " + "x" * 20_000],
    ],
)
def test_harmless_shells(words: list[str], python_in_path: None) -> None:
    """Neither a script, nor what only looks like a command, nor a text that takes a shell to understand is an obstacle."""
    assert obstacles.found_in(f"/bin/{words[0]}", words) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("PYTHONPATH=/srv exec gunicorn", "`PYTHONPATH=…`"),
        ("A=b PYTHONPATH= gunicorn", "`PYTHONPATH=…`"),
        ("cd / && exec env -i gunicorn", "`env -i`"),
        ("exec sudo gunicorn", "`sudo`"),
    ],
)
def test_shells_that_take_the_path_away(text: str, said: str) -> None:
    """So is what takes PYTHONPATH away from the command within the text."""
    (sentence,) = obstacles.found_in("/bin/sh", ["sh", "-c", text])

    assert f"{said} does not hand PYTHONPATH on" in sentence


@given(
    st.lists(
        st.sampled_from("'\"\\;&|\n `$()<>#=-Ec") | st.sampled_from(["python", "sh -c ", "exec "]),
        max_size=40,
    )
)
def test_any_text_for_a_shell(pieces: list[str]) -> None:
    """Whatever a shell is told, finding obstacles raises nothing, and commands are words."""
    text = "".join(pieces)

    assert isinstance(obstacles.found_in("/bin/sh", ["sh", "-c", text]), list)
    assert all(isinstance(word, str) for word in shell_words.last_command(text))


@pytest.fixture
def python_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `python` and `python3` be found."""
    for name in ("python", "python3"):
        (tmp_path / name).symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


INI = "[uwsgi]\nmodule = mysite.wsgi\n"


@pytest.mark.parametrize(
    ("words", "content", "where"),
    [
        (["--no-site", "--module", "x"], "", "`uwsgi`"),
        (["--module", "x", "--no-site"], "", "`uwsgi`"),
        (["--ini", "FILE.ini"], f"{INI}no-site = true\n", "FILE.ini"),
        (["--ini=FILE.ini"], f"{INI}  no-site=1 ; comment\n", "FILE.ini"),
        (["FILE.ini"], f"{INI}no-site\n", "FILE.ini"),
        (["--master", "--ini", "FILE.ini:prod"], f"{INI}[prod]\nno-site=yes\n", "FILE.ini"),
        (["FILE.yaml"], "uwsgi:\n  module: x\n  no-site: true\n", "FILE.yaml"),
        (["--yml", "FILE.yml"], "uwsgi:\n  no-site: true\n", "FILE.yml"),
        (["-y", "FILE.yml"], "uwsgi:\n  no-site: 1\n", "FILE.yml"),
        (["--json", "FILE.json"], '{"uwsgi": {"module": "x", "no-site": true}}', "FILE.json"),
        (["--ini", "FILE.ini"], f"{INI}no-site = false\n", None),
        (["--ini", "FILE.ini"], f"{INI};no-site = true\n# no-site = true\n", None),
        (["--ini", "FILE.ini"], f"{INI}[prod]\nno-site = true\n", None),
        (["--ini", "FILE.ini"], f"{INI}no-sites = true\nenv = X=no-site\n", None),
        (["--ini", "/no/such/FILE.ini"], "", None),
        (["--touch-reload", "FILE.ini", "--module", "x"], f"{INI}no-site = true\n", None),
        (["FILE.txt"], f"{INI}no-site = true\n", None),
        (["FILE.yaml"], "uwsgi:\n  # no-site: true\n  no-site: no\n", None),
        (["FILE.json"], '{"uwsgi": {"no-site": false}}', None),
        (["--ini"], "", None),
    ],
)
def test_uwsgi(
    words: list[str],
    content: str,
    where: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The option `no-site` of uWSGI is named, on its command line or in the file that it reads, and only where it holds."""
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"FILE\.\w+", " ".join(words) if content else ""):
        Path(name).write_text(content)
    found = obstacles.found_in("/usr/bin/uwsgi", ["uwsgi", *words])

    assert len(found) == (where is not None)
    assert all(sentence.startswith(f"{where} has the option no-site,") for sentence in found)


@pytest.mark.parametrize(
    ("words", "is_found"),
    [
        (["--env", "PYTHONPATH=/srv"], True),
        (["--env=PYTHONPATH=/srv"], True),
        (["--env", "A=PYTHONPATH=/srv"], False),
        (["--env", "PYTHONPATH=/srv:$(PYTHONPATH)"], False),
        (["--pythonpath=/srv"], False),
    ],
)
def test_uwsgi_that_sets_the_path(words: list[str], is_found: bool, tmp_path: Path) -> None:
    """An `env` of uWSGI's that replaces PYTHONPATH is named, on its command line or in its file."""
    ini = tmp_path / "site.ini"
    ini.write_text("[uwsgi]\n" + " ".join(words).removeprefix("--").replace("env ", "env = "))
    for command in (["uwsgi", *words], ["uwsgi", "--ini", str(ini)]):
        found = obstacles.found_in("/usr/bin/uwsgi", command)

        assert len(found) == is_found
        assert all("PYTHONPATH" in sentence for sentence in found)


@pytest.mark.parametrize("flag", ["--no-site", "--ini=no.ini", "--env=PYTHONPATH=/x"])
def test_uwsgi_is_as_we_think(flag: str, tmp_path: Path) -> None:
    """The real uWSGI, with what we name as an obstacle, starts without us."""
    (tmp_path / "no.ini").write_text("[uwsgi]\nno-site = true\n")
    (tmp_path / "app.py").write_text(
        "import os, sys; os.write(2, b'%d\\n' % ('sitecustomize' in sys.modules)); os._exit(0)"
    )
    words = ["--http-socket=127.0.0.1:0", "--wsgi-file=app.py", f"--virtualenv={sys.prefix}"]
    without, with_it = (
        launched(script("uwsgi"), *words, *more, cwd=tmp_path) for more in ([], [flag])
    )

    assert b"1" in without.stderr.splitlines()
    if not ("env" in flag and sys.version_info >= (3, 14)):  # where it has read its path before
        assert b"0" in with_it.stderr.splitlines()
    assert b"introspect-run: " not in without.stderr
    assert with_it.stderr.count(b"introspect-run: ") == 1


COOKIE = b"MEI\014\013\012\013\016"


@pytest.mark.parametrize(
    ("content", "is_found"),
    [
        (b"\x7fELF" + bytes(100_000) + COOKIE + bytes(80), True),
        (b"\x7fELF" + bytes(100_000) + COOKIE + bytes(2_200), True),
        (b"\xcf\xfa\xed\xfe" + bytes(100) + COOKIE + bytes(30_000), True),
        (b"\x7fELF" + COOKIE + bytes(200_000), False),
        (b"\x7fELF" + bytes(100_000), False),
        (b"#!/bin/sh\n" + COOKIE, False),
        (b"", False),
    ],
)
def test_frozen(content: bytes, is_found: bool, tmp_path: Path) -> None:
    """A program of PyInstaller's is known by the cookie near its end; a script is none, whatever is in it."""
    path = tmp_path / "site"
    path.write_bytes(content)
    found = obstacles.found_in(str(path), [str(path)])

    assert len(found) == is_found
    assert all(f"{path} is a frozen program" in sentence for sentence in found)


def test_real_programs_are_not_frozen() -> None:
    """No program of this system is taken for a frozen one."""
    for name in ("sh", "env", "ls", "git", "node", "uwsgi"):
        path = shutil.which(name)
        assert path is None or obstacles.found_in(path, [name]) == []


def test_what_must_not_be_read(tmp_path: Path) -> None:
    """A pipe, which would make us wait, or lose what the command was to read, is not opened."""
    pipe = tmp_path / "pipe.ini"
    os.mkfifo(pipe)

    assert obstacles.found_in(str(pipe), [str(pipe)]) == []
    assert obstacles.found_in("/usr/bin/uwsgi", ["uwsgi", "--ini", str(pipe)]) == []


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
