"""A process that multiprocessing starts has the ID of the unit that starts it, on its log lines."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from introspect.agent import work
from introspect.instrumentations.multiprocessing import child_prepares
from tests.agent.test_outputs import TcpServer
from tests.helpers.processes import clean_environment, introspect_run, wait_until
from tests.helpers.statsd import StatsdListener
from tests.instrumentations.conftest import Agent

PROGRAM = """
import logging, multiprocessing, os, sys
{top}

def tell(sender, argument):
    {inside}
    from introspect.agent import correlation, work
    record = logging.makeLogRecord({{}})
    sender.send((record.correlation_id, work.active(), correlation.CHILD_VARIABLE in os.environ, argument))

def told(context):
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=tell, args=(sender, "argument"))
    child.start()
    assert receiver.poll(30)
    print(*receiver.recv())
    child.join()
    assert child.exitcode == 0

if __name__ == "__main__":
    import django.conf
    from introspect.agent import work
    from introspect.agent.correlation import Inbound
    context = multiprocessing.get_context(sys.argv[1])
    if sys.argv[1] == "forkserver":
        context.set_forkserver_preload(["{preloaded}"])
    for given in ("parent-0001", None, "parent-0002"):
        work.current.set(work.Work(Inbound(given)) if given else work.process())
        told(context)
"""

DJANGO_IMPORTED = {
    "by the main module": {"top": "import django.conf", "inside": "", "preloaded": "json"},
    "by what it runs": {"top": "", "inside": "import django.conf", "preloaded": "json"},
    "by the fork server": {"top": "", "inside": "import django.conf", "preloaded": "django.conf"},
}


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("imported", DJANGO_IMPORTED)
def test_a_child_has_the_id_of_its_starter(method: str, imported: str, tmp_path: Path) -> None:
    """By each start method a child's log records have the ID of the unit that starts it, and none outside one."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(**DJANGO_IMPORTED[imported]))
    done = subprocess.run(
        [*introspect_run(), sys.executable, str(program), method],
        env=clean_environment(INTROSPECT_STATSD="off"),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"{given} None False argument" for given in ("parent-0001", "-", "parent-0002")
    ]


def test_what_is_no_id_is_not_taken(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not valid as an ID, or not there at all, leaves the process's own as it was."""
    monkeypatch.setattr(work.process(), "correlation_id", "own-0001")
    for told in ({"introspect_correlation_id": "\n forged"}, {"name": "a process"}):
        child_prepares((told,), {})

        assert work.process().correlation_id == "own-0001"


ENDING_AT_ONCE = """
import logging, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import django.conf

logging.basicConfig(handlers=[logging.NullHandler()])

def tell(name):
    for number in range(50):
        logging.warning("%s %d", name, number)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    children = [context.Process(target=tell, args=(name,)) for name in ("first", "second")]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(tell, "pool").result(60)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_child_that_ends_at_once_loses_nothing(
    method: str, tmp_path: Path, statsd: StatsdListener
) -> None:
    """By each start method, all lines and counts of a child have left when it ends right behind them."""
    program = tmp_path / "program.py"
    program.write_text(ENDING_AT_ONCE)
    with contextlib.closing(TcpServer()) as tcp:
        done = subprocess.run(
            [*introspect_run(), sys.executable, str(program), method],
            env=clean_environment(
                INTROSPECT_STATSD=statsd.address,
                INTROSPECT_LOG=tcp.address,
                INTROSPECT_SERVICE="shop",
            ),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        wait_until(lambda: len(tcp.lines) >= 150)
        messages = [json.loads(line)["message"] for line in tcp.lines]
    statsd.wait_for_count("shop.log.warning", 150)

    assert sorted(messages) == sorted(
        f"{name} {number}" for name in ("first", "second", "pool") for number in range(50)
    )
    assert statsd.count("shop.log.warning") == 150
