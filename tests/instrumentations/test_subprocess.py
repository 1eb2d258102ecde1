"""A child process inherits the ID of the unit that starts it, in an environment that is otherwise the same."""

from __future__ import annotations

import asyncio
import collections
import importlib
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from introspect.agent import correlation, work
from introspect.agent.correlation import Inbound
from tests.instrumentations.conftest import Agent

TELL = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
NAME = correlation.CHILD_VARIABLE


@pytest.fixture(autouse=True)
def _launched(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process be one that introspect-run has started, in a unit of work."""
    monkeypatch.setenv("_INTROSPECT_LAUNCH", "1|3.11|/")
    work.current.set(work.Work(Inbound("parent-0001")))


def telling(file: Path) -> list[str]:
    """Return the words of a program that writes its environment to a file, and ends with 7."""
    code = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w')); sys.exit(7)"
    return [sys.executable, "-c", code, str(file)]


def status_of(pid: int) -> int:
    """Wait for a child and return its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forked(run: Callable[[], Any]) -> int:
    """Run something in a forked child, and return the child's exit status; 127 if it came to an end."""
    pid = os.fork()
    if pid:
        return status_of(pid)
    try:
        run()
    finally:
        os._exit(127)


Start = Callable[[list[str], Any], int]

# Each starts a program with an environment and returns its exit status. Those without an `e` use the process's own.
WITH_ENVIRONMENT: dict[str, Start] = {
    "posix_spawn": lambda words, env: status_of(os.posix_spawn(words[0], words, env)),
    "posix_spawnp": lambda words, env: status_of(os.posix_spawnp(words[0], words, env)),
    "spawnve": lambda words, env: os.spawnve(os.P_WAIT, words[0], words, env),
    "spawnvpe": lambda words, env: os.spawnvpe(os.P_WAIT, words[0], words, env),
    "spawnle": lambda words, env: os.spawnle(os.P_WAIT, words[0], *words, env),
    "spawnlpe": lambda words, env: os.spawnlpe(os.P_WAIT, words[0], *words, env),
    "fork, execve": lambda words, env: forked(lambda: os.execve(words[0], words, env)),
    "fork, execvpe": lambda words, env: forked(lambda: os.execvpe(words[0], words, env)),
    "fork, execle": lambda words, env: forked(lambda: os.execle(words[0], *words, env)),
    "fork, execlpe": lambda words, env: forked(lambda: os.execlpe(words[0], *words, env)),
}
WITHOUT: dict[str, Start] = {
    "spawnv": lambda words, _: os.spawnv(os.P_WAIT, words[0], words),
    "spawnvp": lambda words, _: os.spawnvp(os.P_WAIT, words[0], words),
    "spawnl": lambda words, _: os.spawnl(os.P_WAIT, words[0], *words),
    "spawnlp": lambda words, _: os.spawnlp(os.P_WAIT, words[0], *words),
    "fork, execv": lambda words, _: forked(lambda: os.execv(words[0], words)),
    "fork, execvp": lambda words, _: forked(lambda: os.execvp(words[0], words)),
    "fork, execl": lambda words, _: forked(lambda: os.execl(words[0], *words)),
    "fork, execlp": lambda words, _: forked(lambda: os.execlp(words[0], *words)),
    "fork, fork, execv": lambda words, _: forked(
        lambda: os._exit(forked(lambda: os.execv(words[0], words)))
    ),
    "spawnv without waiting": lambda words, _: status_of(os.spawnv(os.P_NOWAIT, words[0], words)),
}


@pytest.mark.parametrize("name", [*WITH_ENVIRONMENT, *WITHOUT])
def test_functions_of_os(name: str, tmp_path: Path) -> None:
    """Each way of `os` to start a program with our environment adds the ID, and nothing else to it or to ours."""
    start = (WITH_ENVIRONMENT | WITHOUT)[name]
    before = dict(os.environ)
    status = start(telling(tmp_path / "told"), os.environ)
    found = json.loads((tmp_path / "told").read_text())

    assert status == 7
    assert found.pop(NAME) == "parent-0001"
    assert found.items() >= before.items()
    assert dict(os.environ) == before


@pytest.mark.parametrize("name", WITH_ENVIRONMENT)
def test_explicit_environments_of_functions_of_os(name: str, tmp_path: Path) -> None:
    """There, too, one made from ours gets the ID, and the dictionary itself does not; any other is left alone."""
    start = WITH_ENVIRONMENT[name]
    made = {**os.environ, "EXTRA": "1"}
    start(telling(tmp_path / "made"), made)
    start(telling(tmp_path / "own"), {"PATH": os.environ["PATH"]})
    start(telling(tmp_path / "bytes"), os.environb)

    assert (
        json.loads((tmp_path / "made").read_text()).items()
        >= {NAME: "parent-0001", "EXTRA": "1"}.items()
    )
    assert NAME not in made
    assert NAME not in json.loads((tmp_path / "own").read_text())
    assert NAME not in json.loads((tmp_path / "bytes").read_text())


def test_environment_of_bytes() -> None:
    """`os.environb` is handed on as it is, without an error of ours."""
    assert NAME not in environment(env=os.environb)


def test_a_process_that_becomes_another_program(tmp_path: Path) -> None:
    """`exec` hands on the unit that the process is in, and else nothing."""

    def within(unit: work.Work, file: Path) -> None:
        work.current.set(unit)
        os.execv(sys.executable, telling(file))

    work.leave()
    assert forked(lambda: within(work.Work(Inbound("own-0001")), tmp_path / "inside")) == 7
    assert forked(lambda: within(work.process(), tmp_path / "outside")) == 7

    assert json.loads((tmp_path / "inside").read_text())[NAME] == "own-0001"
    assert NAME not in json.loads((tmp_path / "outside").read_text())


def test_what_c_has_put_into_the_environment(tmp_path: Path) -> None:
    """A program that a process becomes has what a C library has set, which Python's own copy does not know."""

    def become() -> None:
        os.putenv("PUT_BY_C", "1")
        os.execv(sys.executable, telling(tmp_path / "told"))

    assert forked(become) == 7
    found = json.loads((tmp_path / "told").read_text())
    assert (found["PUT_BY_C"], found[NAME]) == ("1", "parent-0001")


def test_a_child_of_what_has_ended(tmp_path: Path) -> None:
    """A thread that lives on behind its unit's end hands the ID on by `fork` and `exec` no more than otherwise."""
    unit = work.active()
    assert unit is not None
    unit.finish()
    assert forked(lambda: os.execv(sys.executable, telling(tmp_path / "told"))) == 7

    assert NAME not in json.loads((tmp_path / "told").read_text())


@pytest.mark.parametrize("name", ["posix_spawn", "spawnv", "fork, execv"])
def test_threads_hand_on_their_own(name: str, tmp_path: Path) -> None:
    """Threads that start programs at the same time each hand on the ID of their own unit, or none."""
    start = (WITH_ENVIRONMENT | WITHOUT)[name]
    barrier = threading.Barrier(3)

    def run(given: str | None) -> None:
        work.current.set(work.Work(Inbound(given)) if given else work.process())
        for number in range(3):
            barrier.wait(30)
            start(telling(tmp_path / f"{given}-{number}"), os.environ)

    ids = ["thread-0001", "thread-0002", None]
    threads = [threading.Thread(target=run, args=(given,)) for given in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for given in ids:
        for number in range(3):
            assert json.loads((tmp_path / f"{given}-{number}").read_text()).get(NAME) == given


def test_mistakes_of_functions_of_os(tmp_path: Path) -> None:
    """What cannot be started fails as it did: by an exception, or by 127 from the child."""
    with pytest.raises(FileNotFoundError):
        os.posix_spawn("/nowhere/at/all", ["x"], os.environ)
    with pytest.raises(TypeError, match="posix_spawn"):
        os.posix_spawn("/bin/true")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="argv must be a tuple or a list"):
        os.spawnv(os.P_WAIT, "/bin/true", "true")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="argv first element cannot be empty"):
        os.spawnvp(os.P_WAIT, "/bin/true", [""])
    before = dict(os.environ)
    with pytest.raises(FileNotFoundError) as unknown:
        os.execv("/nowhere/at/all", ["x"])
    assert (unknown.value.filename, dict(os.environ)) == (None, before)
    with pytest.raises(FileNotFoundError):
        os.execvp("no-such-command", ["x"])
    with pytest.raises(ValueError, match=r"execv.* arg 2 must not be empty"):
        os.execv("/bin/true", [])
    assert dict(os.environ) == before
    with pytest.raises(FileNotFoundError):
        os.execve("/nowhere/at/all", argv=["x"], env=os.environ)
    with pytest.raises(TypeError, match="execv expected 2 arguments, got 3"):
        os.execv("/bin/true", ["true"], os.environ)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="execve"):
        os.execve("/bin/true")  # type: ignore[call-arg]
    assert os.spawnv(os.P_WAIT, "/nowhere/at/all", ["x"]) == 127
    assert os.spawnlp(os.P_WAIT, "no-such-command", "x") == 127


COMMANDS: list[str | bytes] = [
    "",
    ":",
    "echo plain",
    "  echo blanks  ",
    "echo 'single' \"double\" `echo back` $(echo dollar) \\\\ \\'",
    "echo one; echo two >&2; exit 7",
    "exit 300",
    "no_such_command --with 'words'",
    "echo $0 $# $@ $-",
    "if true; then",
    "echo 'unclosed",
    "cat <<END\nhere '$HOME'\nEND\n",
    "# nothing but a comment",
    "echo before # behind\necho after",
    "VARIABLE=1 sh -c 'echo $VARIABLE'",
    "trap 'echo trapped' EXIT; echo body",
    "kill -TERM $$",
    "sh -c 'kill -KILL $$'",
    "exec sh -c 'kill -INT $$'",
    "cd / && pwd; echo $OLDPWD",
    "f() { echo function $1; }; f x | tr a-z A-Z",
    "echo größe 日本",
    b"printf 'bytes \\377 \xff' | od -c",
    "-x echo option",
    "--",
    "echo " + "'" * 40_000,
    "echo " + "long " * 20_000,
]


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_shell_does_what_it_did(command: str | bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """`os.system` has the same exit status and the same output as outside a unit of work, whatever the command."""
    inside = os.system(command), capfd.readouterr()
    work.leave()
    outside = os.system(command), capfd.readouterr()

    assert inside == outside


@pytest.mark.parametrize("as_it_comes", [str, os.fsencode])
def test_a_shell_hands_on_the_id(as_it_comes: Callable[[str], Any], tmp_path: Path) -> None:
    """What `os.system` runs inherits the ID, with an environment that is otherwise the same, as is ours."""
    before = dict(os.environ)
    command = shlex.join(telling(tmp_path / "inside"))
    assert os.waitstatus_to_exitcode(os.system(as_it_comes(command))) == 7
    work.leave()
    os.system(shlex.join(telling(tmp_path / "outside")))
    inside = json.loads((tmp_path / "inside").read_text())

    assert inside.pop(NAME) == "parent-0001"
    assert inside == json.loads((tmp_path / "outside").read_text())
    assert dict(os.environ) == before


def test_mistakes_with_a_shell() -> None:
    """What `os.system` refuses, it refuses as it did."""
    with pytest.raises(TypeError):
        os.system()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        os.system("true", "false")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        os.system(7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="null byte"):
        os.system("echo \0")


def environment(**options: Any) -> dict[str, str]:
    """Return the environment that a child finds."""
    done = subprocess.run(TELL, capture_output=True, check=True, **options)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_the_environment_of_a_child() -> None:
    """A child has our environment and the ID; our own environment is not touched."""
    before = dict(os.environ)
    found = environment()

    assert found.pop(NAME) == "parent-0001"
    assert found.items() >= before.items()
    assert dict(os.environ) == before


def test_explicit_environments() -> None:
    """An environment made from ours gets the ID, the caller's dictionary does not; another is left alone."""
    made = {**os.environ, "EXTRA": "1"}
    found = environment(env=made)
    assert found[NAME] == "parent-0001"
    assert found["EXTRA"] == "1"
    assert NAME not in made

    assert NAME not in environment(env={"PATH": os.environ["PATH"]})


def test_every_way_to_start_one() -> None:
    """Each of the standard library's ways that go through `Popen` carries the ID."""
    with subprocess.Popen(TELL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.load(process.stdout)[NAME] == "parent-0001"
    assert json.loads(subprocess.check_output(TELL))[NAME] == "parent-0001"
    with os.popen(f"{sys.executable} -c '{TELL[2]}'") as pipe:
        assert json.load(pipe)[NAME] == "parent-0001"


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Run a coroutine by asyncio's own event loop, and by uvloop, which starts children without `Popen`."""
    if request.param == "asyncio":
        return asyncio.run
    pytest.importorskip("uvloop", reason="uvloop is not installed")
    return uvloops_run


def uvloops_run(coroutine: Any) -> Any:
    """Run a coroutine by an event loop of uvloop's, as uvicorn makes it."""
    loop = importlib.import_module("uvloop").new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


async def told_to_asyncio(way: str, **options: Any) -> dict[str, str]:
    """Return the environment that a child finds which asyncio starts."""
    if way == "create_subprocess_exec":
        process = await asyncio.create_subprocess_exec(*TELL, stdout=subprocess.PIPE, **options)
    else:
        process = await asyncio.create_subprocess_shell(
            shlex.join(TELL), stdout=subprocess.PIPE, **options
        )
    found: dict[str, str] = json.loads((await process.communicate())[0])
    return found


@pytest.mark.parametrize("way", ["create_subprocess_exec", "create_subprocess_shell"])
def test_event_loops(run: Callable[[Any], Any], way: str) -> None:
    """Children that an event loop starts inherit the ID by the same rules: by default, and by what was made from ours."""
    before = dict(os.environ)
    made = {**os.environ, "EXTRA": "1"}
    found = run(told_to_asyncio(way))
    with_more = run(told_to_asyncio(way, env=made))
    bare = run(told_to_asyncio(way, env={"PATH": os.environ["PATH"]}))

    for told in (found, with_more):
        told["PWD"] = before.get("PWD", "")  # which a shell sets
    assert found.pop(NAME) == with_more.pop(NAME) == "parent-0001"
    assert found.items() >= before.items()
    assert with_more.items() >= made.items()
    assert NAME not in bare
    assert NAME not in made
    assert dict(os.environ) == before


def test_event_loops_outside_a_unit(run: Callable[[Any], Any]) -> None:
    """Outside any unit, what an event loop starts has nothing added."""
    work.leave()

    assert NAME not in run(told_to_asyncio("create_subprocess_exec"))


def test_tasks_hand_on_their_own(run: Callable[[Any], Any]) -> None:
    """Tasks of one event loop that start programs at the same time hand on the ID of their own unit, or none."""

    async def within(given: str | None) -> str | None:
        work.current.set(work.Work(Inbound(given)) if given else work.process())
        return (await told_to_asyncio("create_subprocess_exec")).get(NAME)

    async def together() -> list[str | None]:
        return await asyncio.gather(*map(within, ids))

    ids = ["task-0001", None, "task-0002"]

    assert run(together()) == ids


def test_mistakes_with_an_event_loop(run: Callable[[Any], Any]) -> None:
    """What an event loop refuses, it refuses as it did: of uvloop's, also an environment that is no dictionary."""

    async def outcome(*words: str, **options: Any) -> str:
        try:
            process = await asyncio.create_subprocess_exec(*words, **options)
        except Exception as error:
            return repr(error)
        return f"status {await process.wait()}"

    def outcomes() -> list[str]:
        environments = (os.environ, collections.OrderedDict(os.environ), [("A", "b")])
        made = [run(outcome("/bin/true", env=environment)) for environment in environments]
        return [*made, run(outcome("/nowhere/at/all")), run(outcome("/bin/true", bufsize=7))]

    inside = outcomes()
    work.leave()

    assert inside == outcomes()
    assert "FileNotFoundError" in inside[3]


def test_outside_a_unit() -> None:
    """Outside any unit, and after one, nothing is added."""
    work.leave()
    assert NAME not in environment()


def test_mistakes_are_as_they_were() -> None:
    """What cannot be started raises what it raised."""
    with pytest.raises(FileNotFoundError):
        subprocess.run(["/nowhere/at/all"], check=False)
    with pytest.raises(TypeError):
        subprocess.Popen()  # type: ignore[call-overload]
