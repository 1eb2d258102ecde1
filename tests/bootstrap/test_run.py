"""`introspect-run`: the command is itself, whatever happens to us."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from introspect.bootstrap import run
from tests.bootstrap.launching import (
    STARTUP_FOLDER,
    environment,
    launched,
    package_called_introspect,
    plain,
    told,
)
from tests.environments import PACKAGES
from tests.helpers.processes import clean_environment, introspect_run, running, wait_until

HERE = str(STARTUP_FOLDER)


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    """Write a program."""
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Lay us out as a wheel does, without the finder of an editable installation, and return the commands' folder."""
    folder = tmp_path / "installed"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = packages_of(folder / "bin")
    (packages / "introspect").mkdir()
    for name in PACKAGES:
        (packages / "introspect" / name).symlink_to(folder_of(f"introspect.{name}"))
    (packages / "introspect_run").symlink_to(folder_of("introspect_run"))
    for command in entry_points(group="console_scripts"):
        if command.name in ("introspect", "introspect-run"):
            script(
                folder / "bin" / command.name,
                f"#!{folder}/bin/python\nimport sys\n"
                f"from {command.module} import {command.attr} as main\nsys.exit(main())\n",
            )
    return folder / "bin"


def packages_of(installed: Path) -> Path:
    """Return the folder of the packages beside the folder of the commands."""
    (packages,) = installed.parent.glob("lib/python*/site-packages")
    return packages


class TestTheCommandIsItself:
    """Exit status, signals, streams and PID are the command's own."""

    @pytest.mark.parametrize("status", [0, 1, 77, 255])
    def test_exit_status(self, status: int) -> None:
        """The exit status is the command's."""
        assert launched("sh", "-c", f"exit {status}").returncode == status

    def test_death_by_signal(self) -> None:
        """A command that a signal ends is seen to have ended by it."""
        assert launched("sh", "-c", "kill -SEGV $$").returncode == -signal.SIGSEGV

    def test_pid_is_kept(self) -> None:
        """The command has the PID that introspect-run was started with, as service managers need."""
        with running([*introspect_run(), "sh", "-c", "echo $$"]) as command:
            command.wait()

            assert int(command.stdout) == command.pid

    def test_signals_reach_the_command(self) -> None:
        """A SIGTERM sent to the process is handled by the command."""
        words = [
            "sh",
            "-c",
            "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done",
        ]
        with running([*introspect_run(), *words]) as command:
            wait_until(lambda: "ready" in command.stdout)
            command.signal(signal.SIGTERM)

            assert command.wait() == 5
            assert command.stdout == "ready\ncaught\n"

    def test_streams_pass_unchanged(self) -> None:
        """Bytes that are no text go through standard input, output and error as they are."""
        noise = bytes(range(256)) * 300
        done = launched("sh", "-c", "tee /dev/stderr", stdin=noise)

        assert done.stdout == noise
        assert done.stderr == noise

    def test_arguments_pass_unchanged(self) -> None:
        """Arguments arrive word for word, be they empty, dashed, or no valid text."""
        words = [b"", b"--info", b"a b", b"\xff", b"*", b"--"]
        code = "import sys; sys.stdout.buffer.write(b'|'.join(map(__import__('os').fsencode, sys.argv)))"
        done = launched(sys.executable, "-c", code, *map(os.fsdecode, words))

        assert done.stdout == b"|".join([b"-c", *words])

    def test_ignored_signals_are_not_inherited_from_us(self) -> None:
        """A pipe that closes ends the command, though Python, in which we are written, ignores SIGPIPE."""
        # By its path: Python 3.13 starts a program that it finds in PATH itself with other signals ignored.
        words = ["/bin/sh", "-c", "grep SigIgn /proc/self/status"]

        assert launched(*words).stdout == plain(*words).stdout

    def test_environment_is_kept_but_for_two_variables(self) -> None:
        """The command finds the environment that we were given, PYTHONPATH and our mark apart."""
        env = environment(PYTHONPATH="/elsewhere", EMPTY="", LC_ALL="C.UTF-8")
        with_agent = set(launched("env", env=env).stdout.splitlines())
        changed = {
            line.split(b"=")[0]
            for line in with_agent ^ set(plain("env", env=env).stdout.splitlines())
        }

        assert changed == {b"PYTHONPATH", b"_INTROSPECT_LAUNCH"}

    def test_nothing_is_written(self) -> None:
        """We say nothing when there is nothing to say."""
        done = launched(sys.executable, "-c", "import django.conf")

        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


class TestCommandsThatCannotRun:
    """Each is answered as by a shell, with what to do about it."""

    def test_not_found(self) -> None:
        """An unknown command ends with 127 and a message."""
        done = launched("no-such-command")

        assert done.returncode == 127
        assert done.stderr == b"introspect-run: no-such-command: command not found\n"

    def test_not_found_but_here(self, tmp_path: Path) -> None:
        """A file in the current folder is no command either, and the message says how to run it."""
        script(tmp_path / "manage.py", "")
        done = launched("manage.py", "check", cwd=tmp_path)

        assert done.returncode == 127
        assert b"did you mean `introspect-run python manage.py`?" in done.stderr

    def test_missing_path(self, tmp_path: Path) -> None:
        """So does a path that does not exist."""
        done = launched(tmp_path / "nothing")

        assert done.returncode == 127
        assert b"nothing: command not found" in done.stderr

    def test_not_executable(self, tmp_path: Path) -> None:
        """A script without the right to be executed ends with 126 and the command that works."""
        program = script(tmp_path / "manage.py", "print('hello')", 0o644)
        done = launched(program)

        assert done.returncode == 126
        assert done.stderr.decode() == (
            f"introspect-run: {program}: Permission denied; "
            f"did you mean `introspect-run python {program}`?\n"
        )

    def test_not_executable_in_path(self, tmp_path: Path) -> None:
        """So does a name that PATH leads to a script without that right, and to no other."""
        program = script(tmp_path / "tool.py", "", 0o644)
        (tmp_path / "last").mkdir()
        script(tmp_path / "last" / "tool.py", "", 0o644)
        path = f"/no/such/folder:{tmp_path}:{tmp_path}/last:{os.environ['PATH']}"
        done = launched("tool.py", env=environment(PATH=path))

        assert done.returncode == 126
        assert done.stderr.decode() == (
            f"introspect-run: {program}: Permission denied; "
            f"did you mean `introspect-run python {program}`?\n"
        )

    def test_executable_further_on_in_path(self, tmp_path: Path) -> None:
        """A program of that name in a later folder of PATH runs, as it does in a shell."""
        (tmp_path / "later").mkdir()
        script(tmp_path / "tool", "", 0o644)
        script(tmp_path / "later" / "tool", "#!/bin/sh\necho later\n")
        path = f"{tmp_path}:{tmp_path}/later:{os.environ['PATH']}"
        done = launched("tool", env=environment(PATH=path))

        assert (done.returncode, done.stdout, done.stderr) == (0, b"later\n", b"")

    def test_folder_in_path(self, tmp_path: Path) -> None:
        """A folder that PATH leads to is no command."""
        (tmp_path / "tool").mkdir()
        done = launched("tool", env=environment(PATH=f"{tmp_path}:{os.environ['PATH']}"))

        assert done.returncode == 127
        assert done.stderr == b"introspect-run: tool: command not found\n"

    def test_without_shebang(self, tmp_path: Path) -> None:
        """A script whose first line names no interpreter ends with 126 and the command that works."""
        done = launched(script(tmp_path / "start", "echo hello"))

        assert done.returncode == 126
        assert b"start: Exec format error; did you mean `introspect-run sh " in done.stderr

    def test_missing_interpreter(self, tmp_path: Path) -> None:
        """A script whose first line names a missing interpreter is not called missing itself."""
        done = launched(script(tmp_path / "start", "#!/no/such/python\n"))

        assert done.returncode == 127
        assert b"the interpreter named in its first line does not exist" in done.stderr

    def test_folder(self, tmp_path: Path) -> None:
        """A folder ends with 126 and one line."""
        done = launched(tmp_path)

        assert done.returncode == 126
        assert done.stderr.decode() == f"introspect-run: {tmp_path}: Permission denied\n"


class TestOptions:
    """Our own options stand before the command."""

    def test_usage(self) -> None:
        """Without a command the usage is printed and the exit status is 2; with --help it is 0."""
        for words, status in ((), 2), (("--",), 2), (("--help",), 0), (("-h",), 0):
            done = launched(options=words)

            assert done.stdout.startswith(b"usage: introspect-run")
            assert done.returncode == status

    def test_terminal_without_unicode(self) -> None:
        """What a terminal cannot show is replaced, and keeps nothing from being printed."""
        env = environment(PYTHONIOENCODING="ascii", INTROSPECT_SERVICE="café")
        usage = launched(options=["--help"], env=env)
        info = launched("echo", "hello", options=["--info"], env=env)

        assert (usage.returncode, usage.stderr) == (0, b"")
        assert usage.stdout.startswith(b"usage: introspect-run")
        assert b"caf?" in info.stdout
        assert info.stdout.endswith(b"hello\n")
        assert info.stderr == b""

    def test_unknown_option(self) -> None:
        """An unknown option is named, and nothing runs."""
        done = launched("echo", "hello", options=["--verbose"])

        assert done.returncode == 2
        assert done.stdout == b""
        assert b"unknown option --verbose" in done.stderr

    def test_version(self) -> None:
        """--version prints the version and runs nothing."""
        from introspect.agent import __version__

        done = launched("echo", "hello", options=["--version"])

        assert done.stdout.decode() == f"introspect-run {__version__}\n"

    def test_info(self) -> None:
        """--info prints each setting, its source and what is wrong with it, and then runs the command."""
        env = environment(
            INTROSPECT_STATSD="tcp://stats:1", DD_SERVICE="front", INTROSPECT_NAMES="few"
        )
        done = launched("echo", "hello", options=["--info"], env=env)
        lines = done.stdout.decode().splitlines()

        assert lines[-1] == "hello"
        by_name = {line.split()[0]: line.split()[1:] for line in lines[:-1]}
        assert by_name["INTROSPECT_STATSD"] == ["tcp://stats:1", "(INTROSPECT_STATSD)"]
        assert by_name["INTROSPECT_SERVICE"] == ["front", "(DD_SERVICE)"]
        assert by_name["INTROSPECT_DEBUG"] == ["0", "(default)"]
        assert by_name["INTROSPECT_NAMES"] == ["1000", "(default)"]
        assert by_name["mistake:"][0].startswith("INTROSPECT_NAMES='few'")

    def test_info_of_restrictions(self) -> None:
        """Where a mistake would lift a restriction, --info prints what is in force instead, and because of what."""
        env = environment(
            INTROSPECT_SUPERUSER_ERRORS="1",
            INTROSPECT_SUPERUSER_NETWORKS="10.0.0.0/8 ::1",
            INTROSPECT_CORRELATION_HOSTS="[::1]",
        )
        text = launched("true", options=["--info"], env=env).stdout.decode()
        lines = [" ".join(line.split()) for line in text.splitlines()]

        for row in (
            "INTROSPECT_SUPERUSER_ERRORS 0 (because of the mistake in INTROSPECT_SUPERUSER_NETWORKS)",
            "INTROSPECT_CORRELATION_HOSTS off (because of the mistake in INTROSPECT_CORRELATION_HOSTS)",
        ):
            assert row in lines

    def test_info_shows_no_password(self) -> None:
        """A setting that holds a password is not printed by --info."""
        env = environment(INTROSPECT_STATSD="tcp://me:hunter2@stats:1", INTROSPECT_NAMES="a@b")
        done = launched("true", options=["--info"], env=env)

        assert b"INTROSPECT_STATSD" in done.stdout
        assert b"hunter2" not in done.stdout + done.stderr

    def test_debug(self) -> None:
        """--debug turns INTROSPECT_DEBUG on for the command."""
        done = launched("sh", "-c", "echo $INTROSPECT_DEBUG", options=["--debug"])

        assert done.stdout == b"1\n"

    def test_double_dash(self) -> None:
        """What follows `--` is the command."""
        assert launched("--", "echo", "hello").stdout == b"hello\n"

    def test_other_name(self) -> None:
        """`introspect run` is the same command."""
        introspect = Path(introspect_run()[0]).with_name("introspect")

        assert plain(introspect, "run", "echo", "hello").stdout == b"hello\n"


class TestPythonPath:
    """PYTHONPATH: ours first, then theirs, whole and in order."""

    @pytest.mark.parametrize(
        ("present", "expected"),
        [
            ("", HERE),
            ("/a", f"{HERE}:/a"),
            ("/a:", f"{HERE}:/a:."),
            (":/a::/b:", f"{HERE}:.:/a:/b"),
            (":", f"{HERE}:."),
            ("/a:/b:/a", f"{HERE}:/a:/b"),
            (HERE, HERE),
            (f"/a:{HERE}:/b", f"{HERE}:/a:/b"),
            (f"/a:{HERE}/", f"{HERE}:/a"),
            (f"{HERE}::", f"{HERE}:."),
            (f"lib:{Path.cwd()}/lib", f"{HERE}:lib:{Path.cwd()}/lib"),
            (f"{Path.cwd()}:", f"{HERE}:{Path.cwd()}:."),
            ("lib:./lib:lib/", f"{HERE}:lib"),
        ],
    )
    def test_python_path(self, present: str, expected: str) -> None:
        """Ours stands first and once; what was there stays, but nothing twice and nothing empty."""
        assert run.python_path(present) == expected

    def test_a_child_in_another_folder(self, tmp_path: Path) -> None:
        """A child that changes its folder imports what it would have, from a folder that is named twice, once by its path."""
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "there.py").touch()
        (tmp_path / "elsewhere").mkdir()
        command = f"cd elsewhere && {sys.executable} -c 'import there'"
        done = subprocess.run(
            [*introspect_run(), "sh", "-c", command],
            cwd=tmp_path,
            env=clean_environment(PYTHONPATH=f"lib:{tmp_path}/lib"),
            capture_output=True,
            check=False,
        )

        assert (done.returncode, done.stderr) == (0, b"")

    def test_link_to_another_entry_is_kept(self, tmp_path: Path) -> None:
        """Two names of one folder both stay, as in Python's own list: one may be changed later."""
        link = tmp_path / "current"
        link.symlink_to(tmp_path)

        assert run.python_path(f"{tmp_path}:{link}") == f"{HERE}:{tmp_path}:{link}"

    def test_link_to_our_folder_is_dropped(self, tmp_path: Path) -> None:
        """Our folder stands there once, under whatever name an outer launch has found it."""
        link = tmp_path / "startup"
        link.symlink_to(HERE)

        assert run.python_path(f"{link}:/a") == f"{HERE}:/a"

    def test_folder_holds_nothing_but_the_start_up_file(self) -> None:
        """The folder on PYTHONPATH makes no other name importable."""
        names = {path.name for path in STARTUP_FOLDER.iterdir()} - {"__pycache__"}

        assert names == {"sitecustomize.py"}

    @pytest.mark.parametrize(
        "present",
        [None, "", "/a", "/a:/b:/a", "lib", "/a:/b/../a", ":/a", "/a:", "/a::/b", ":", "/a:.:"],
    )
    def test_sys_path_is_as_without_us(self, present: str | None) -> None:
        """The program finds its modules in the same places, in the same order, as without us."""
        env = environment() if present is None else environment(PYTHONPATH=present)

        assert told("sys.path", env=env) == told("sys.path", agent=False, env=env)

    def test_nested_launches(self) -> None:
        """introspect-run under introspect-run is introspect-run."""
        nested = launched(*introspect_run(), "sh", "-c", "echo $PYTHONPATH")

        assert nested.stdout.decode().strip() == HERE

    def test_children_find_us(self) -> None:
        """PYTHONPATH stays in the environment, for the interpreters that the program starts."""
        first = "import subprocess"
        found = told(
            "subprocess.check_output(['sh', '-c', 'echo $PYTHONPATH']).decode()", first=first
        )

        assert found.strip() == HERE


class TestFailureOfOurs:
    """If anything of ours fails, one warning, and the command runs."""

    @pytest.mark.parametrize(
        "step", ["prepare", "_name_obstacles", "_restore_signals", "_print_info"]
    )
    def test_broken_step(self, step: str) -> None:
        """An exception in whatever we do before the command runs costs one line."""
        code = (
            "import sys; from introspect.bootstrap import run\n"
            "def broken(*_args, **_kwargs): raise RuntimeError('broken')\n"
            f"run.{step} = broken; sys.exit(run.main(['--info', 'echo', 'hello']))"
        )
        done = plain(sys.executable, "-c", code)

        assert done.returncode == 0
        assert done.stdout.endswith(b"hello\n")
        assert done.stderr.decode() == (
            "introspect-run: RuntimeError: broken; running the command without what this was for\n"
        )

    @pytest.mark.parametrize("step", ["split", "find_program", "run"])
    def test_broken_launch(self, step: str) -> None:
        """An exception in what no launch can do without costs one line and the agent."""
        done = with_broken(f"run.{step} = broken", "--debug", "sh", "-c", "echo hello; exit 3")

        assert (done.returncode, done.stdout) == (3, b"hello\n")
        assert done.stderr.decode() == (
            "introspect-run: RuntimeError: broken; running the command without the agent\n"
        )

    def test_broken_version(self) -> None:
        """A version that cannot be read is one line, and --version still runs nothing."""
        done = with_broken("sys.modules['introspect.agent'] = None", "--version", "echo", "hello")

        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.startswith(b"introspect-run: ModuleNotFoundError: ")
        assert done.stderr.count(b"\n") == 1

    def test_closed_standard_error(self) -> None:
        """A closed standard error does not keep the command from running."""
        words = " ".join(introspect_run())

        assert plain("sh", "-c", f"{words} sudo-less-command 2>&-").returncode == 127
        assert plain("sh", "-c", f"{words} env -i sh -c 'exit 3' 2>&-").returncode == 3


class TestBrokenInstallation:
    """If our packages cannot be imported, one warning, and the command runs."""

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            (None, "ImportError: cannot import name 'run'"),
            ("def main(:", "SyntaxError: "),
            ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
            ("", "AttributeError: "),
            ("raise SystemExit(0)", "SystemExit: 0"),
            ("def main(): raise RuntimeError('broken')", "RuntimeError: broken"),
        ],
    )
    def test_the_command_runs(self, installed: Path, text: str | None, what: str) -> None:
        """The command runs with the streams, status, signals and environment that it would have, and one line says why."""
        replace_run(installed, text)
        words = ["/bin/sh", "-c", "env; cat; grep SigIgn /proc/self/status; exit 3"]
        done = plain(installed / "introspect-run", *words, stdin=b"in")

        assert done.returncode == 3
        assert done.stdout == plain(*words, stdin=b"in").stdout
        assert done.stderr.decode().startswith(f"introspect-run: {what}")
        assert done.stderr.endswith(b"; running the command without the agent\n")
        assert done.stderr.count(b"\n") == 1

    def test_as_a_module(self, installed: Path) -> None:
        """`python -m introspect_run`, by which the console starts its command, is `introspect-run`, broken or not."""
        words = [
            installed / "python",
            "-m",
            "introspect_run",
            "--",
            "sh",
            "-c",
            "echo $0; exit 3",
            "-",
        ]
        whole = plain(*words)
        replace_run(installed, None)
        broken = plain(*words)

        assert (whole.returncode, whole.stdout, whole.stderr) == (3, b"-\n", b"")
        assert (broken.returncode, broken.stdout) == (3, b"-\n")
        assert broken.stderr.startswith(b"introspect-run: ImportError: ")

    @pytest.mark.parametrize("package", ["bootstrap", "."])
    def test_missing_package(self, installed: Path, package: str) -> None:
        """So it does if a package of ours is missing, or all of them."""
        ours = packages_of(installed) / "introspect"
        ours.joinpath(package).rename(installed / "away")
        done = plain(installed / "introspect-run", "echo", "hello")

        assert (done.returncode, done.stdout) == (0, b"hello\n")
        assert done.stderr.startswith(b"introspect-run: ModuleNotFoundError: ")
        assert done.stderr.count(b"\n") == 1

    @pytest.mark.parametrize("options", [["--debug", "--info"], ["--debug", "--"], ["--"]])
    def test_options(self, installed: Path, options: list[str]) -> None:
        """Our options are no part of the command, and its own are."""
        replace_run(installed, None)
        words = ["env", "echo", "--debug", "--"]

        assert plain(installed / "introspect-run", *options, *words).stdout == b"--debug --\n"

    def test_other_name(self, installed: Path) -> None:
        """`introspect run` runs the command as well; what else `introspect` does has failed."""
        replace_run(installed, None)
        run_command = plain(installed / "introspect", "run", "--debug", "echo", "hello")
        tables = plain(installed / "introspect", "tables")

        assert (run_command.returncode, run_command.stdout) == (0, b"hello\n")
        assert run_command.stderr.count(b"\n") == 1
        assert (tables.returncode, tables.stdout) == (1, b"")

    @pytest.mark.parametrize(
        "words",
        [[], ["--"], ["--info"], ["--help"], ["--version", "echo", "hello"], ["--verbose", "echo"]],
    )
    def test_nothing_to_run(self, installed: Path, words: list[str]) -> None:
        """Without a command, or with an option that keeps it from running, one line and the status 2."""
        replace_run(installed, None)
        done = plain(installed / "introspect-run", *words)

        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.startswith(b"introspect-run: ImportError: ")
        assert done.stderr.count(b"\n") == 1

    def test_closed_standard_error(self, installed: Path) -> None:
        """Nor does a closed standard error keep the command from running then."""
        replace_run(installed, None)
        line = f"{installed}/introspect-run sh -c 'exit 3' 2>&-"

        assert plain("sh", "-c", line).returncode == 3

    @pytest.mark.parametrize(
        ("name", "text", "status", "message"),
        [
            ("no-such-command", None, 127, "command not found"),
            ("./nothing", None, 127, "command not found"),
            ("./file/below", "", 127, "command not found"),
            ("", None, 127, "command not found"),
            ("./lost", "#!/no/such/python\n", 127, "No such file or directory"),
            ("./plain", None, 126, "Permission denied"),
            ("plain", None, 126, "Permission denied"),
            ("./no-shebang", "echo hello", 126, "Exec format error"),
        ],
    )
    def test_commands_that_cannot_run(
        self,
        tmp_path: Path,
        installed: Path,
        name: str,
        text: str | None,
        status: int,
        message: str,
    ) -> None:
        """A command that cannot run is answered as ever, behind the line on what failed of ours."""
        replace_run(installed, None)
        script(tmp_path / "plain", "", 0o644)
        if text is not None:
            script(tmp_path / name.split("/")[1], text)
        env = environment(PATH=f"{tmp_path}:{os.environ['PATH']}")
        done = plain(installed / "introspect-run", name, cwd=tmp_path, env=env)

        assert done.returncode == status
        assert done.stderr.decode().splitlines()[1:] == [f"introspect-run: {name}: {message}"]


class TestPackageOfOurName:
    """An application may have a package called `introspect` on PYTHONPATH, which hides ours."""

    def test_the_command_runs(self, tmp_path: Path) -> None:
        """The command runs with the streams, status and environment that it would have, and one line says what hides us."""
        theirs = package_called_introspect(tmp_path)
        env = environment(PYTHONPATH=str(tmp_path))
        words = ["/bin/sh", "-c", "env; cat; exit 3"]
        done = launched(*words, env=env, stdin=b"in")

        assert done.returncode == 3
        assert done.stdout == plain(*words, env=env, stdin=b"in").stdout
        assert done.stderr.decode() == (
            f"introspect-run: {theirs} is in the way of our own package `introspect`: the command runs without "
            "the agent. Rename that package, or leave its folder out of PYTHONPATH\n"
        )

    def test_installed_from_a_wheel(self, tmp_path: Path, installed: Path) -> None:
        """So it does where nothing but the path tells where we are; the command keeps its PID and has its own package."""
        theirs = package_called_introspect(tmp_path)
        env = environment(PYTHONPATH=str(tmp_path))
        code = "import os, django, introspect; print(os.getpid(), introspect.mark)"
        with running(
            [str(installed / "introspect-run"), sys.executable, "-c", code], env=env
        ) as command:
            assert command.wait() == 0

            assert command.stdout == f"imported\n{command.pid} theirs\n"
            assert command.stderr.count("\n") == 1
            assert str(theirs) in command.stderr

    def test_introspect_itself(self, tmp_path: Path, installed: Path) -> None:
        """The command `introspect` finds us as well, and imports nothing of theirs."""
        package_called_introspect(tmp_path)
        done = plain(
            installed / "introspect", "--version", env=environment(PYTHONPATH=str(tmp_path))
        )

        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.startswith(b"introspect 0.")

    @pytest.mark.parametrize("file", ["introspect.py", "introspect/readme.txt"])
    def test_others_of_that_name(self, tmp_path: Path, installed: Path, file: str) -> None:
        """A module is in the way as a package is; a folder without Python's mark of a package is not."""
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("")
        env = environment(PYTHONPATH=str(tmp_path))
        done = plain(installed / "introspect-run", "sh", "-c", "echo $PYTHONPATH", env=env)

        if file.endswith(".py"):
            assert done.stdout.decode() == f"{tmp_path}\n"
            assert str(tmp_path / file) in done.stderr.decode()
        else:
            assert done.stderr == b""
            assert done.stdout.decode().endswith(f"introspect/bootstrap/startup:{tmp_path}\n")

    def test_a_mark_in_our_own_folder(self, installed: Path) -> None:
        """An `__init__.py` that another distribution has put between ours hides nothing."""
        (packages_of(installed) / "introspect" / "__init__.py").write_text("")
        done = plain(installed / "introspect-run", "echo", "hello")

        assert (done.stdout, done.stderr) == (b"hello\n", b"")


def folder_of(package: str) -> Path:
    """Return the folder of a package of ours, wherever it is installed."""
    return Path(importlib.import_module(package).__path__[0])


def replace_run(installed: Path, text: str | None) -> None:
    """Leave of our package `bootstrap` nothing but a module `run` with this text, if any."""
    bootstrap = packages_of(installed) / "introspect" / "bootstrap"
    bootstrap.unlink()  # the link, not what it leads to
    bootstrap.mkdir()
    (bootstrap / "__init__.py").write_text("")
    if text is not None:
        (bootstrap / "run.py").write_text(text)


def with_broken(statement: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run `introspect-run` with these words after a statement that breaks something of ours."""
    code = (
        "import sys; import introspect_run; from introspect.bootstrap import run\n"
        "def broken(*_args, **_kwargs): raise RuntimeError('broken')\n"
        f"{statement}; sys.exit(introspect_run.run())"
    )
    return plain(sys.executable, "-c", code, *words)
