"""`introspect check` tells whether measurements would arrive, from what it has tried."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.helpers.ports import free_port
from tests.helpers.processes import clean_environment, script
from tests.helpers.statsd import StatsdListener


def check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [script("introspect"), "check", *arguments],
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_is_well(statsd: StatsdListener) -> None:
    """With a StatsD that listens, it exits with 0, and the test counter arrives there."""
    done = check(INTROSPECT_STATSD=statsd.address)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "takes what it is sent" in done.stdout
    assert "Django " in done.stdout
    statsd.wait_for(lambda listener: listener.named("introspect.check"))


def test_nobody_listens() -> None:
    """Without a StatsD it exits with 1, and names the address and the remedy."""
    address = f"udp://127.0.0.1:{free_port()}"
    done = check(INTROSPECT_STATSD=address)

    assert done.returncode == 1
    assert f"nobody takes metrics at {address}" in done.stdout
    assert "introspect console" in done.stdout


def test_mistakes_are_shown(statsd: StatsdListener) -> None:
    """A bad value stands in the report, with what is expected."""
    done = check(INTROSPECT_STATSD=statsd.address, INTROSPECT_NAMES="many")

    assert "INTROSPECT_NAMES='many' is not a whole number" in done.stdout


def test_an_agent_that_cannot_start_is_said(statsd: StatsdListener, tmp_path: Path) -> None:
    """What the start of the agent complains of in a process of its own is passed on."""
    (tmp_path / "wrapt.py").write_text("raise ImportError('not this one')\n")
    done = check(INTROSPECT_STATSD=statsd.address, PYTHONPATH=str(tmp_path))

    assert done.returncode == 1
    assert "not this one" in done.stdout + done.stderr


def test_what_the_installed_version_lacks(statsd: StatsdListener, tmp_path: Path) -> None:
    """A target that is missing is said to be, but for one that only newer versions have."""
    (tmp_path / "uvicorn").mkdir()
    for name in ("__init__", "server"):
        (tmp_path / "uvicorn" / f"{name}.py").touch()
    done = check(INTROSPECT_STATSD=statsd.address, PYTHONPATH=str(tmp_path))

    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if "not there" in line] == [
        "  uvicorn.server:signal.raise_signal: not there in the installed version"
    ]


def test_help_and_mistaken_arguments() -> None:
    """`--help` explains; anything else is answered with that and 2."""
    assert check("--help").returncode == 0
    assert "usage: introspect check" in check("--help").stdout
    assert check("now").returncode == 2
