"""The start-up file: in every interpreter, felt in none."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import psutil
import pytest

from introspect.agent.settings import FALSE_WORDS, TRUE_WORDS
from tests.bootstrap.launching import (
    IMPORT_DJANGO,
    STARTUP_FOLDER,
    environment,
    launched,
    package_called_introspect,
    plain,
    python,
    told,
)
from tests.helpers import rawhttp
from tests.helpers.processes import introspect_run
from tests.helpers.serve import serve
from tests.helpers.site import PROJECT, Site
from tests.helpers.statsd import StatsdListener

OURS = "sorted(name for name in sys.modules if name.partition('.')[0] in ('introspect', 'wrapt', 'statsd', 'psutil'))"
FINDERS = "sum(type(finder).__name__ == 'DjangoFinder' for finder in sys.meta_path)"
PATCHED = "'introspect.agent.patching' in sys.modules and bool(sys.modules['introspect.agent.patching'].status())"


def own_sitecustomize(folder: Path, text: str) -> dict[str, str]:
    """Give the environment a sitecustomize of its own, and return the variables that say so."""
    (folder / "sitecustomize.py").write_text(text)
    return environment(PYTHONPATH=str(folder))


def beside(
    folder: Path, code: str, *flags: str, agent: bool = True
) -> subprocess.CompletedProcess[bytes]:
    """Run `code` with `folder` on PYTHONPATH for the program alone: introspect-run, a Python program too, has its own."""
    words = ["sh", "-c", 'PYTHONPATH="$PYTHONPATH:$0" exec "$@"', str(folder)]
    return (launched if agent else plain)(*words, sys.executable, *flags, "-c", code)


class TestTheFile:
    """What the file itself may contain."""

    def test_parses_on_any_python_3(self) -> None:
        """No syntax in it is younger than Python 3.4, whose interpreters may find it on their path too."""
        tree = ast.parse((STARTUP_FOLDER / "sitecustomize.py").read_text(), feature_version=(3, 4))
        younger = (
            ast.JoinedStr,
            ast.NamedExpr,
            ast.AnnAssign,
            ast.AsyncFunctionDef,
            ast.Await,
            ast.Match,
            ast.MatMult,
        )
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]

        assert not [node for node in ast.walk(tree) if isinstance(node, younger)]
        assert not [node.name for node in functions if node.returns or node.args.posonlyargs]

    def test_imports_nothing_that_is_not_loaded_already(self) -> None:
        """At its top it imports what every interpreter has imported by then."""
        tree = ast.parse((STARTUP_FOLDER / "sitecustomize.py").read_text())
        imported = [
            alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names
        ]

        assert imported == ["os", "sys"]

    def test_knows_the_words_for_off(self) -> None:
        """It reads INTROSPECT_ENABLED as the settings do, whose module it cannot afford to import."""
        text = (STARTUP_FOLDER / "sitecustomize.py").read_text()
        literals = [
            {element.value for element in node.elts if isinstance(element, ast.Constant)}
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Tuple)
        ]

        assert FALSE_WORDS in literals
        assert TRUE_WORDS in literals


class TestProcessesWithoutDjango:
    """A process that never imports Django pays for the start-up file and nothing more."""

    def test_modules(self) -> None:
        """The start-up file is the only module in such a process that would not be there without us."""
        with_agent = set(told("sorted(sys.modules)"))
        without = set(told("sorted(sys.modules)", agent=False))

        # Debian's Python has one of its own, in the place of which ours is then left.
        assert with_agent - without <= {"sitecustomize"}
        assert without <= with_agent

    def test_django_alone_does_not_start_the_agent(self) -> None:
        """`import django`, which comes before gevent's patching in many programs, does not start us."""
        assert told(OURS, first="import django") == []

    def test_standard_library_is_not_loaded_twice(self) -> None:
        """Modules of the standard library that a program holds are those that the agent uses and leaves behind."""
        first = f"import logging, socket, ssl, threading, weakref; held = dict(sys.modules)\n{IMPORT_DJANGO}, django.template"
        expression = f"[{PATCHED}, [name for name, module in held.items() if sys.modules.get(name) is not module]]"
        ours = (
            "[name for module in list(sys.modules.values()) if module.__name__.startswith('introspect.')"
            " for name, value in vars(module).items()"
            " if type(value) is type(sys) and sys.modules[value.__name__] is not value]"
        )

        assert told(f"[{expression}, {ours}]", first=f"import sys; {first}") == [[True, []], []]

    def test_finder_finds_nothing(self) -> None:
        """A module that does not exist is missed with the same message as without us."""
        code = "try: import django_no_such\nexcept ImportError as error: print(repr(error))"

        assert python(code).stdout == python(code, agent=False).stdout


class TestOwnSitecustomize:
    """The environment's own sitecustomize runs as if we were not there."""

    def test_runs_once_and_first(self, tmp_path: Path) -> None:
        """It runs once, before anything of ours that it could notice."""
        own_sitecustomize(tmp_path, f"import sys; print('own', len(sys.meta_path), {OURS})")
        done, without = (
            beside(tmp_path, "print('program')", agent=agent) for agent in (True, False)
        )

        assert done.stdout.count(b"own") == 1
        assert done.stdout == without.stdout

    def test_stays_the_module_of_that_name(self, tmp_path: Path) -> None:
        """`import sitecustomize` in the program gives theirs."""
        env = own_sitecustomize(tmp_path, "mark = 'theirs'")

        assert told("__import__('sitecustomize').mark", env=env) == "theirs"

    def test_sees_its_own_path(self, tmp_path: Path) -> None:
        """It sees the sys.path that it would see without us."""
        env = own_sitecustomize(tmp_path, "import sys; seen = list(sys.path)")
        seen = "__import__('sitecustomize').seen"

        assert told(seen, env=env) == told(seen, env=env, agent=False)

    def test_package(self, tmp_path: Path) -> None:
        """It may be a package."""
        (tmp_path / "sitecustomize").mkdir()
        (tmp_path / "sitecustomize" / "__init__.py").write_text(
            "from sitecustomize.part import mark"
        )
        (tmp_path / "sitecustomize" / "part.py").write_text("mark = 5")
        env = environment(PYTHONPATH=str(tmp_path))

        assert told("__import__('sitecustomize').mark", env=env) == 5

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("1/0", "ZeroDivisionError: division by zero"),
            ("import nothing_here", "ModuleNotFoundError: No module named 'nothing_here'"),
            ("raise ImportError('broken')", "ImportError: broken"),
            ("def", "SyntaxError: invalid syntax"),
            ("open('/no/such/file')", "FileNotFoundError: [Errno 2]"),
            ("import json; json.loads('{')", "JSONDecodeError: Expecting property name"),
            ("import helper", "SyntaxError: "),
        ],
    )
    def test_its_error_is_reported_as_theirs(self, tmp_path: Path, text: str, error: str) -> None:
        """An error in it is one line that names the file and clears us, and the program runs."""
        (tmp_path / "helper.py").write_text("def")
        own_sitecustomize(tmp_path, text)
        done = beside(tmp_path, "print('program')")
        line = done.stderr.decode()

        assert done.stdout == b"program\n"
        assert line.count("\n") == 1
        assert f"own sitecustomize ({tmp_path}/sitecustomize.py) failed" in line
        assert "nothing to do with introspect" in line
        assert error in line

    def test_its_error_does_not_keep_us_from_starting(self, tmp_path: Path) -> None:
        """The agent starts all the same."""
        done = python(
            f"{IMPORT_DJANGO}; import sys; print({PATCHED})", env=own_sitecustomize(tmp_path, "1/0")
        )

        assert done.stdout == b"True\n"

    def test_its_error_when_verbose(self, tmp_path: Path) -> None:
        """With -v its traceback is printed, as Python does."""
        own_sitecustomize(tmp_path, "1/0")
        done = beside(tmp_path, "", "-v")

        assert b"Traceback (most recent call last)" in done.stderr
        assert b"ZeroDivisionError: division by zero" in done.stderr

    @pytest.mark.parametrize("text", ["raise SystemExit(9)", "raise KeyboardInterrupt"])
    def test_its_exit_is_as_without_us(self, tmp_path: Path, text: str) -> None:
        """SystemExit and KeyboardInterrupt in it end the process as they do without us."""
        own_sitecustomize(tmp_path, text)
        done, without = (
            beside(tmp_path, "print('program')", agent=agent) for agent in (True, False)
        )

        assert done.returncode == without.returncode != 0
        assert done.stdout == without.stdout == b""

    def test_it_may_import_django(self, tmp_path: Path) -> None:
        """A sitecustomize that imports Django does not keep the agent from starting later."""
        env = own_sitecustomize(tmp_path, IMPORT_DJANGO)

        assert told(PATCHED, first="import django.template", env=env) is True

    def test_none_at_all(self) -> None:
        """Without one, the standard usercustomize and everything else go on."""
        assert python("print('program')").stdout == b"program\n"


class TestNothingOfOursGetsOut:
    """Agent trouble is one warning; the program runs."""

    @pytest.mark.parametrize(
        "trouble",
        [
            "raise RuntimeError('broken')",
            "raise SystemExit(3)",
            "import nothing_here",
            "def",
            "1/0",
        ],
    )
    def test_agent_that_cannot_be_imported(self, tmp_path: Path, trouble: str) -> None:
        """Whatever goes wrong while we are imported, SystemExit included, is one warning."""
        (tmp_path / "wrapt.py").write_text(trouble)
        env = environment(PYTHONPATH=str(tmp_path))
        done = python("import django.conf, django.template; print('program')", env=env)

        assert (done.returncode, done.stdout) == (0, b"program\n")
        assert done.stderr.count(b"\n") == 1
        assert b"the agent could not be started, the program runs without it" in done.stderr

    def test_working_directory_that_is_gone(self, tmp_path: Path, other_python: Path) -> None:
        """Where a relative path on sys.path leads nowhere any more, nothing is raised, and theirs runs."""
        # Editable installations put such an entry there, which is no path at all.
        (packages,) = other_python.parents[1].glob("lib/python*/site-packages")
        entry = packages / "relative.pth"
        entry.write_text("import sys; sys.path.append('a.relative.entry')\n")
        own_sitecustomize(tmp_path, "print('own')")
        script = 'mkdir "$1" && cd "$1" && rmdir "$1" && PYTHONPATH="$PYTHONPATH:$2" exec "$0" -c "print(1)"'
        try:
            done = launched("sh", "-c", script, other_python, tmp_path / "gone", tmp_path)
        finally:
            entry.unlink()

        assert done.stdout == b"own\n1\n"
        assert b"Error in sitecustomize" not in done.stderr

    def test_package_of_our_name(self, tmp_path: Path) -> None:
        """An application's own package called `introspect` is imported when it says so, and named as being in the way."""
        theirs = package_called_introspect(tmp_path)
        code = f"{IMPORT_DJANGO}; print('Django'); import introspect; print(introspect.mark)"
        done = beside(tmp_path, code)

        assert (done.returncode, done.stdout) == (0, b"Django\nimported\ntheirs\n")
        assert done.stderr.decode() == (
            f"introspect: {theirs} is in the way of our own package `introspect`: the program runs without the "
            "agent. Rename that package, or leave its folder out of sys.path\n"
        )

    def test_package_of_our_name_that_is_imported_before_django(self, tmp_path: Path) -> None:
        """The same, where it has been imported by then."""
        theirs = package_called_introspect(tmp_path)
        done = beside(tmp_path, f"import introspect; {IMPORT_DJANGO}; print(introspect.mark)")

        assert (done.returncode, done.stdout) == (0, b"imported\ntheirs\n")
        assert done.stderr.decode().startswith(f"introspect: {theirs} is in the way")
        assert done.stderr.count(b"\n") == 1

    def test_package_of_our_name_that_is_found_only_later(self, tmp_path: Path) -> None:
        """A program that adds the folder of such a package to sys.path once we run finds it there, and we run on."""
        package_called_introspect(tmp_path)
        code = (
            f"{IMPORT_DJANGO}, sys; sys.path.insert(0, {str(tmp_path)!r})\n"
            "import introspect; print(introspect.mark)\n"
            "from introspect.agent import patching, canonical\n"
            "from introspect import instrumentations; instrumentations.load('requests')\n"
            "print(bool(patching.status()))"
        )
        done = python(code)

        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == b"imported\ntheirs\nTrue\n"

    def test_interrupt_during_start_is_the_programs(self, tmp_path: Path) -> None:
        """A Ctrl-C that arrives while we start belongs to the program."""
        (tmp_path / "wrapt.py").write_text("raise KeyboardInterrupt")
        done = python(f"{IMPORT_DJANGO}", env=environment(PYTHONPATH=str(tmp_path)))

        assert done.returncode != 0
        assert b"KeyboardInterrupt" in done.stderr

    def test_bad_settings(self) -> None:
        """Wrong settings are one line each, and the agent starts with the defaults."""
        env = environment(
            INTROSPECT_NAMES="many", INTROSPECT_SERVCE="x", INTROSPECT_ENABLED="maybe"
        )
        done = python(f"{IMPORT_DJANGO}; import sys; print({PATCHED})", env=env)

        assert done.stdout == b"True\n"
        assert done.stderr.decode().splitlines() == [
            "introspect: INTROSPECT_ENABLED='maybe' is not a switch; write 1 or 0; using 1",
            "introspect: INTROSPECT_NAMES='many' is not a whole number from 1; write e.g. 1000; using 1000",
            "introspect: INTROSPECT_SERVCE is not a setting; did you mean INTROSPECT_SERVICE?",
        ]

    @pytest.mark.parametrize(
        "flags", [["-X", "dev"], ["-W", "error"], ["-X", "dev", "-W", "error", "-bb"]]
    )
    def test_no_warning_of_ours(
        self, flags: list[str], stocked_site: Site, statsd: StatsdListener
    ) -> None:
        """In Python's development mode, with every warning an error, we add nothing to what is printed."""
        env = stocked_site.environment(INTROSPECT_STATSD=statsd.address)
        code = (
            "from django.core.wsgi import get_wsgi_application as make\n"
            "from wsgiref.util import setup_testing_defaults as complete\n"
            "environ = {'PATH_INFO': '/'}; complete(environ)\n"
            "response = make()(environ, lambda status, headers: print(status))\n"
            "print(len(b''.join(response))); response.close()"
        )
        done, without = (python(code, flags=flags, env=env, agent=agent) for agent in (True, False))

        assert (done.stdout, done.stderr) == (without.stdout, without.stderr)
        assert done.stdout.startswith(b"200 OK")
        statsd.wait_for_count("shop.request", 1)


class TestOff:
    """INTROSPECT_ENABLED=0: nothing is patched, nothing of ours is loaded."""

    @pytest.mark.parametrize("word", ["0", "false", "No", " off "])
    def test_off(self, word: str) -> None:
        """No module beyond the start-up file, no finder, and Django's functions are Django's."""
        env = environment(INTROSPECT_ENABLED=word)
        first = "import django.conf, django.template.base as base, django.db.backends.utils as db"
        expression = f"[{OURS}, len(sys.meta_path), base.Template.render.__code__.co_filename, db.CursorWrapper._execute.__code__.co_filename]"

        assert told(expression, first=first, env=env) == told(expression, first=first, agent=False)


class TestChildren:
    """INTROSPECT_CHILDREN decides which interpreters started by the program are instrumented."""

    CHILD = f"import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', '{IMPORT_DJANGO}, sys; print(\"introspect.agent\" in sys.modules)']).decode(), end='')"

    @pytest.mark.parametrize(
        ("children", "instrumented"),
        [("", True), ("same-python", True), ("all", True), ("none", False)],
    )
    def test_child_of_the_same_python(self, children: str, instrumented: bool) -> None:
        """A child of the same Python is, unless the setting says `none`."""
        done = python(self.CHILD, env=environment(INTROSPECT_CHILDREN=children))

        assert done.stdout.decode().strip() == str(instrumented)

    def test_the_command_itself(self) -> None:
        """With `none` the command itself is, also when a shell has become it by `exec`."""
        env = environment(INTROSPECT_CHILDREN="none")
        code = f"{IMPORT_DJANGO}, sys; print(bool({OURS}))"
        words = ["sh", "-c", 'exec "$0" -c "$1"', sys.executable, code]

        assert launched(*words, env=env).stdout == b"True\n"

    def test_child_of_a_reloader(self) -> None:
        """With `none` the child of runserver's reloader is, for it is the server."""
        env = environment(INTROSPECT_CHILDREN="none", RUN_MAIN="true")

        assert python(self.CHILD, env=env).stdout == b"True\n"


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python of another environment, in which Django is installed and we are not."""
    import django

    folder = tmp_path_factory.mktemp("other")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    packages.joinpath("django").symlink_to(Path(django.__file__).parent)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def equipped_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python of another environment, in which all is installed that is in this one, we included."""
    folder = tmp_path_factory.mktemp("equipped")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    ours = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    packages.joinpath("ours.pth").write_text(f"import site; list(map(site.addsitedir, {ours!r}))\n")
    return folder / "bin" / "python"


class TestAnotherPython:
    """An interpreter of another environment is left alone, and the reason is said where it matters."""

    CODE = "import django; print('program')"

    def test_as_the_command(self, other_python: Path) -> None:
        """As the command it runs, with one line that says what to install where."""
        done = launched(other_python, "-c", self.CODE)
        line = done.stderr.decode()

        assert (done.returncode, done.stdout) == (0, b"program\n")
        assert line.count("\n") == 1
        assert str(other_python.parents[1]) in line
        assert sys.prefix in line
        assert "install introspect-agent there" in line

    def test_as_the_launcher_of_another_environment(
        self, other_python: Path, tmp_path: Path
    ) -> None:
        """The other environment's own introspect-run is what we would advise: not a word."""
        inner = tmp_path / "introspect-run"
        inner.write_text("print('inner')")
        done = launched(other_python, inner)

        assert (done.stdout, done.stderr) == (b"inner\n", b"")

    def test_as_a_child(self, other_python: Path) -> None:
        """As a child it runs without a word."""
        done = launched("sh", "-c", '"$0" -c "$1"; exit', other_python, self.CODE)

        assert (done.stdout, done.stderr) == (b"program\n", b"")

    @pytest.mark.parametrize(
        ("version", "prefix"),
        [
            ("3.4", sys.prefix),
            (f"{sys.version_info.major}.{sys.version_info.minor}", "/no/such/environment"),
        ],
    )
    def test_version_and_prefix_both_count(self, version: str, prefix: str) -> None:
        """A child of another version under one prefix, as /usr has several, is another Python as well."""
        env = environment(
            PYTHONPATH=str(STARTUP_FOLDER), _INTROSPECT_LAUNCH=f"1|{version}|{prefix}"
        )

        assert told(PATCHED, first=IMPORT_DJANGO, agent=False, env=env) is False

    def test_as_a_child_in_debug_mode(self, other_python: Path) -> None:
        """In debug mode there is a line about it."""
        words = ["sh", "-c", '"$0" -c "$1"; exit', str(other_python), self.CODE]
        done = launched(*words, options=["--debug"])

        assert b"is another Python, and is left alone" in done.stderr

    def test_all(self, other_python: Path) -> None:
        """With `all` it is tried, and that we are not installed there is one warning."""
        env = environment(INTROSPECT_CHILDREN="all")
        code = "import django.conf, django.apps; print('program')"
        done = launched("sh", "-c", '"$0" -c "$1"; exit', other_python, code, env=env)

        assert done.stdout == b""  # asgiref is missing there, with or without us
        assert done.stderr.decode().count("introspect: ") == 1
        assert "the agent could not be started" in done.stderr.decode()

    @pytest.mark.parametrize(
        ("children", "instrumented"),
        [("", False), ("same-python", False), ("none", False), ("all", True)],
    )
    def test_where_we_are_installed_as_well(
        self, equipped_python: Path, children: str, instrumented: bool
    ) -> None:
        """A child of it has the agent with `all`, and with nothing less."""
        env = environment(INTROSPECT_CHILDREN=children)
        code = f"{IMPORT_DJANGO}, sys; print({PATCHED})"
        done = launched("sh", "-c", '"$0" -c "$1"; exit', equipped_python, code, env=env)

        assert (done.stdout.decode(), done.stderr) == (f"{instrumented}\n", b"")

    def test_same_environment_by_another_path(self, tmp_path: Path) -> None:
        """A link to the environment is the same environment: releases are often switched by one."""
        link = tmp_path / "current"
        link.symlink_to(sys.prefix)
        done = launched(link / "bin" / "python", "-c", f"{IMPORT_DJANGO}, sys; print(bool({OURS}))")

        assert (done.stdout, done.stderr) == (b"True\n", b"")


class TestReloader:
    """The parent that only watches files stays dormant."""

    @pytest.mark.parametrize(
        ("words", "variables", "patched"),
        [
            (["manage.py", "runserver"], {}, False),
            (["manage.py", "runserver_plus", "8000"], {}, False),
            (["manage.py", "runserver", "--noreload"], {}, True),
            (["manage.py", "runserver"], {"RUN_MAIN": "true"}, True),
            (["manage.py", "runserver_plus"], {"WERKZEUG_RUN_MAIN": "true"}, True),
            (["manage.py", "migrate"], {}, True),
            (["manage.py"], {}, True),
        ],
    )
    def test_dormant(self, words: list[str], variables: dict[str, str], patched: bool) -> None:
        """`runserver` without RUN_MAIN is that parent; every other command is instrumented."""
        first = f"import sys; sys.argv = {words!r}; import django.conf"

        assert told(PATCHED, first=first, env=environment(**variables)) is patched

    def test_real(self, stocked_site: Site, statsd: StatsdListener) -> None:
        """Of a real runserver and its reloader the agent starts in the one that serves, and nowhere else."""
        command = [sys.executable, str(PROJECT / "manage.py"), "runserver", "{host}:{port}"]
        env = stocked_site.environment(INTROSPECT_STATSD=statsd.address, INTROSPECT_DEBUG="1")
        with serve([*introspect_run(), *command], env, PROJECT) as server:
            assert rawhttp.get(f"{server.base_url}/plain/").status == 200
            (child,) = psutil.Process(server.pid).children()
            started = re.findall(r"started in process (\d+)", server.stderr)

        assert started == [str(child.pid)]


class TestImportSystem:
    """Modules that are hooked look as they look without us."""

    FACTS = "[type(m.__loader__).__name__, m.__spec__.origin, m.__file__, m.__loader__ is m.__spec__.loader]"

    @pytest.mark.parametrize(
        "module",
        ["django.template.base", "django.db.backends.utils", "requests.sessions", "http.client"],
    )
    def test_loader_spec_and_file(self, module: str) -> None:
        """Loader, spec and file of a hooked module are the import system's own."""
        first = f"{IMPORT_DJANGO}, {module}; import sys; m = sys.modules['{module}']"

        assert told(self.FACTS, first=first) == told(self.FACTS, first=first, agent=False)

    @pytest.mark.parametrize(
        "target",
        [
            "django.core.handlers.wsgi:WSGIHandler.__call__",
            "django.core.handlers.base:BaseHandler.get_response",
            "django.core.handlers.exception:response_for_exception",
            "django.core.management.base:BaseCommand.execute",
            "django.template.base:Template.render",
            "django.db.backends.utils:CursorWrapper._execute",
            "django.core.cache.backends.locmem:LocMemCache.get",
        ],
    )
    def test_first_module_of_all(self, target: str) -> None:
        """A module that is the first of Django to be imported is hooked too: we start before, not in its midst."""
        module = target.partition(":")[0]
        expression = f"sys.modules['introspect.agent.patching'].status()[{target!r}]"

        assert told(expression, first=f"import sys, {module}") == "applied"

    def test_zipped_module(self, tmp_path: Path) -> None:
        """The same holds for one in a zip file, which Django's autoreloader finds by its loader."""
        with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
            archive.writestr("requests/__init__.py", "")
            archive.writestr(
                "requests/sessions.py", "class Session:\n    def send(self): return 1\n"
            )
        first = (
            f"import sys; sys.path.insert(0, {str(tmp_path / 'packed.zip')!r})\n"
            "import django.conf, requests.sessions as m; from django.utils import autoreload"
        )
        facts = f"[{self.FACTS}, sorted(str(p) for p in autoreload.iter_modules_and_files((m,), frozenset()))]"

        assert told(facts, first=first) == told(facts, first=first, agent=False)
        assert told("m.Session().send.__name__", first=first) == "send"

    def test_what_a_module_sees_of_itself_while_it_is_imported(self, tmp_path: Path) -> None:
        """A hooked module that reads its own loader at its top reads the real one."""
        (tmp_path / "requests").mkdir()
        (tmp_path / "requests" / "__init__.py").write_text("")
        (tmp_path / "requests" / "sessions.py").write_text(
            "seen = type(__loader__).__name__, type(__spec__.loader).__name__"
        )
        env = environment(PYTHONPATH=str(tmp_path))
        expression = "__import__('requests.sessions').sessions.seen"

        assert told(expression, first=IMPORT_DJANGO, env=env) == told(
            expression, first=IMPORT_DJANGO, env=env, agent=False
        )

    def test_two_launchers_in_one_another(self) -> None:
        """In a launch within a launch the agent starts once and stands down once."""
        code = f"import sys; print({FINDERS}); {IMPORT_DJANGO}; print({FINDERS})"
        done = launched(*introspect_run(), sys.executable, "-c", code)

        assert (done.stdout, done.stderr) == (b"1\n0\n", b"")

    @pytest.mark.parametrize("is_first", [False, True], ids=["behind ours", "ahead of ours"])
    def test_two_startup_files(self, tmp_path: Path, is_first: bool) -> None:
        """Under two start-up files, of two environments, the agent starts once, each patch is applied once, and neither is left behind."""
        other = shutil.copytree(STARTUP_FOLDER, tmp_path / "startup")
        folders = (
            [str(other), str(STARTUP_FOLDER)] if is_first else [str(STARTUP_FOLDER), str(other)]
        )
        env = environment(PYTHONPATH=os.pathsep.join(folders), INTROSPECT_DEBUG="1")
        first = (
            f"import sys; before = {FINDERS}\n"
            f"{IMPORT_DJANGO}, inspect; from django.template import Template\n"
            "wrapped = []; inspect.unwrap(Template.render, stop=wrapped.append)"
        )
        facts = f"[before, {FINDERS}, len(wrapped), {PATCHED}, [f for f in {folders!r} if f in sys.path]]"
        done = python(f"{first}\nprint({facts})", agent=False, env=env)

        assert done.stdout.decode() == "[2, 0, 1, True, []]\n"
        assert done.stderr.count(b"started in process") == 1


@pytest.mark.parametrize("flag", ["-E", "-I", "-S"])
def test_flags_that_switch_us_off(flag: str) -> None:
    """Where Python ignores us the program runs, and one line has said so before."""
    done = launched(sys.executable, flag, "-c", "print('program')")

    assert done.stdout == b"program\n"
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "flag", ["-s", "-B", "-O", *(["-P"] if sys.version_info >= (3, 11) else [])]
)
def test_flags_that_do_not(flag: str) -> None:
    """Other flags leave us in place."""
    assert told(PATCHED, first=IMPORT_DJANGO, flags=[flag]) is True


def test_manage_py_check(stocked_site: Site) -> None:
    """`manage.py check` prints the same with the agent on, off, and broken by every observer or as the command ends."""
    words = [sys.executable, str(PROJECT / "manage.py"), "check"]
    expected = plain(*words, env=stocked_site.environment())
    for variable in ("ENABLED=1", "ENABLED=0", "TEST_FAULT=1", "TEST_FAULT=end"):
        name, _, value = variable.partition("=")
        env = stocked_site.environment(INTROSPECT_STATSD="off", **{f"INTROSPECT_{name}": value})
        done = launched(*words, env=env)

        assert (done.returncode, done.stdout) == (0, expected.stdout)
