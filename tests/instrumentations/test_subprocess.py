"""A child process inherits the ID of the unit that starts it, in an environment that is otherwise the same."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
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

    async def by_asyncio() -> bytes:
        process = await asyncio.create_subprocess_exec(*TELL, stdout=subprocess.PIPE)
        return (await process.communicate())[0]

    assert json.loads(asyncio.run(by_asyncio()))[NAME] == "parent-0001"


def test_outside_a_unit() -> None:
    """Outside any unit, and after one, nothing is added."""
    work.current.set(None)
    assert NAME not in environment()


def test_mistakes_are_as_they_were() -> None:
    """What cannot be started raises what it raised."""
    with pytest.raises(FileNotFoundError):
        subprocess.run(["/nowhere/at/all"], check=False)
    with pytest.raises(TypeError):
        subprocess.Popen()  # type: ignore[call-overload]
