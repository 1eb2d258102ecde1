"""The command that runs all checks tells what failed."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

import tests.__main__ as command
from tests.environments import lowest_dependencies

# What the agent may bring into other people's environments, and no more.
DEPENDENCIES = {"wrapt", "statsd", "importlib-metadata", "psutil", "requests"}


@pytest.fixture(autouse=True)
def _logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the logs of these tests out of those of the run that they are in."""
    monkeypatch.setattr(command, "LOGS", tmp_path)


def python(code: str) -> command.Step:
    """Return a step that runs `code`."""
    return command.Step(
        "sample", "a sample", lambda commands, _: commands.run([sys.executable, "-c", code])
    )


def test_step_that_passes_keeps_its_last_words() -> None:
    """A step whose command ends with 0 has passed, and its last line is what the summary shows."""
    step = python("print('first'); print('=== 3 passed in 1 s ===')")

    step.run([])

    assert (step.outcome, step.last_line) == ("passed", "3 passed in 1 s")


def test_step_that_fails_shows_its_output(capfd: pytest.CaptureFixture[str]) -> None:
    """A step whose command fails has failed, its output is shown, and so is the status of the whole."""
    step = python("import sys; print('the reason'); sys.exit(3)")

    step.run([])

    assert (step.outcome, step.last_line) == ("FAILED", "the reason")
    assert command.summarise([step], 1.0) == 1
    assert "status 3" in capfd.readouterr().out


def test_step_that_hangs_is_ended() -> None:
    """A step whose time is up is ended with all that it started, and has failed."""
    step = python("import time; time.sleep(60)")
    step.minutes = 0.005

    step.run([])

    assert step.outcome == "FAILED"
    assert step.seconds < 30


def test_all_passed_is_status_0() -> None:
    """The command ends with 0 if every step has passed."""
    step = python("")

    step.run([])

    assert command.summarise([step], 1.0) == 0


def test_lowest_dependencies_are_those_declared() -> None:
    """The lower bound of each of the five dependencies is tested, and no other is declared."""
    declared = {
        re.split(r"[<>=!~; ]", requirement)[0]
        for requirement in metadata.requires("introspect-agent") or []
        if "extra ==" not in requirement
    }

    assert declared == DEPENDENCIES
    assert {pinned.split("==")[0] for pinned in lowest_dependencies()} == DEPENDENCIES
