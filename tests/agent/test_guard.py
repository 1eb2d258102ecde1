"""Whatever goes wrong in our code stays in our code."""

from __future__ import annotations

import sys

import pytest

from introspect.agent import guard
from introspect.agent.settings import read


def faulty() -> None:
    """Raise."""
    raise RuntimeError("of ours")


def swallowed() -> None:
    """Swallow what `faulty` raises, as our wrappers do."""
    try:
        faulty()
    except Exception:
        guard.swallow(faulty)


class Closed:
    """A standard error that is gone."""

    def write(self, _text: str) -> None:
        """Fail as a closed file does."""
        raise ValueError("I/O operation on closed file")

    flush = write


def test_swallowed_is_counted_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception is counted each time, and said in one line that names the place and the remedy."""
    counted: list[int] = []
    guard.configure(debug=False, on_error=lambda: counted.append(1))
    for _ in range(5):
        swallowed()
    said = capsys.readouterr().err

    assert len(counted) == 5
    assert said.count("\n") == 1
    assert said.startswith("introspect: ")
    assert "faulty failed with RuntimeError: of ours" in said
    assert "INTROSPECT_DEBUG=1" in said


def test_debug_prints_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """In debug mode each has its traceback."""
    guard.configure(debug=True)
    swallowed()
    swallowed()

    assert capsys.readouterr().err.count("Traceback (most recent call last)") == 2


def test_debug_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A debug line is written in debug mode alone."""
    guard.configure(debug=False)
    guard.debug("unheard")
    guard.configure(debug=True)
    guard.debug("heard")

    assert capsys.readouterr().err == "introspect: heard\n"


def test_counting_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """If even counting fails, nothing gets out."""
    guard.configure(debug=False, on_error=faulty)
    swallowed()


def test_exception_without_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception whose text cannot be made does not get out either."""

    class Mute(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise RuntimeError

    guard.configure(debug=False)
    try:
        raise Mute
    except Exception:
        guard.swallow("somewhere")


@pytest.mark.parametrize("stderr", [None, Closed()])
def test_standard_error_that_is_gone(stderr: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a daemon without a standard error nothing is said, and nothing raised."""
    monkeypatch.setattr(sys, "stderr", stderr)
    guard.say("subject", "message")
    swallowed()


def test_once_an_hour(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A subject is spoken of once an hour, each on its own."""
    now = [1000.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])
    for moment in (1000.0, 1001.0, 4599.0, 4601.0):
        now[0] = moment
        guard.say("one", "one")
        guard.say("other", "other")

    assert capsys.readouterr().err.split() == ["introspect:", "one", "introspect:", "other"] * 2


def test_subjects_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """However many subjects there are, the memory of what was said stays small."""
    for number in range(5000):
        guard.say(f"subject {number}", "message")

    assert len(guard._said) <= 1001


def test_mistakes_of_settings_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake in the settings is said once, however often it is found."""
    _, (mistake,) = read({"INTROSPECT_NAMES": "x"})
    guard.say(mistake, mistake)
    guard.say(mistake, mistake)

    assert capsys.readouterr().err == f"introspect: {mistake}\n"
