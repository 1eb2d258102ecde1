"""Django's own tests with the agent and without: `python3 -m tests.django_suite [MODULES]`; no outcome may differ.

The tests come from the source distribution of the Django that is installed.  They run three times: plainly, under
`introspect-run` with a StatsD that listens, and with one that does not, and without our header in responses.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import django

from tests.environments import CACHE
from tests.helpers.ports import LOOPBACK, free_port
from tests.helpers.processes import REPOSITORY, clean_environment, introspect_run
from tests.helpers.statsd import StatsdListener

# What an agent can get in the way of: requests, databases, templates, caches, signals, logs, commands, reloading.
MODULES = [
    "asgi",
    "async",
    "backends",
    "cache",
    "context_processors",
    "csrf_tests",
    "db_utils",
    "decorators",
    "dispatch",
    "file_uploads",
    "files",
    "generic_views",
    "handlers",
    "httpwrappers",
    "logging_tests",
    "mail",
    "middleware",
    "requests_tests",
    "responses",
    "servers",
    "sessions_tests",
    "shortcuts",
    "signals",
    "signed_cookies_tests",
    "staticfiles_tests",
    "template_backends",
    "template_tests",
    "test_client",
    "test_client_regress",
    "transaction_hooks",
    "transactions",
    "urlpatterns",
    "urlpatterns_reverse",
    "user_commands",
    "utils_tests",
    "view_tests",
    "wsgi",
]

# They compare all headers of a response, and so meet the one that the agent is there to add, unless it is off.
HEADER_TESTS = frozenset(
    {
        "asgi.tests.ASGITest.test_file_response",
        "asgi.tests.ASGITest.test_get_asgi_application",
        "asgi.tests.ASGITest.test_headers",
        "asgi.tests.ASGITest.test_static_file_response",
        "wsgi.tests.WSGITest.test_get_wsgi_application",
    }
)

PLAIN, DEFAULTS, NO_HEADER = "plain", "agent", "agent, no header, dead StatsD"

RECORDING = REPOSITORY / "tests" / "django_recording"

Outcomes = dict[str, str]


def main(modules: list[str]) -> int:
    """Run `modules` three times and compare; return the exit status."""
    source = django_source()
    with contextlib.closing(StatsdListener()) as listener:
        ways = {
            PLAIN: ([], {}),
            DEFAULTS: (introspect_run(), {"INTROSPECT_STATSD": listener.address}),
            NO_HEADER: (
                introspect_run(),
                {
                    "INTROSPECT_STATSD": f"udp://{LOOPBACK}:{free_port()}",
                    "INTROSPECT_CORRELATION_HEADERS": "traceparent",  # which is for requests alone
                },
            ),
        }
        outcomes = {way: run(source, modules, *how, way) for way, how in ways.items()}
        if not listener.lines:
            sys.exit(
                "nothing arrived at StatsD, so the agent was not there and the comparison says nothing"
            )
        print(
            f"{len(listener.lines)} lines arrived at StatsD, all well-formed so far: {not listener.malformed}"
        )
        compared = len(outcomes[PLAIN])
        suspects = different(outcomes)
        if suspects:
            # Some of Django's tests race with the clock: what differs must do so again, on its own.
            print(f"{len(suspects)} outcomes differ, once more: {' '.join(suspects)}", flush=True)
            labels = sorted({label(name) for name in suspects})
            outcomes = {way: run(source, labels, *how, way) for way, how in ways.items()}
            lost = [
                name for name in labels if not any(has_run(name, run) for run in outcomes.values())
            ]
            if lost:  # which is how a test that is there with the agent alone looks
                sys.exit(f"these differ, and did not run again: {' '.join(lost)}")
    return report(outcomes, compared)


def django_source() -> Path:
    """Return the folder with the source of the Django that is installed."""
    name = f"django-{django.__version__}"
    folder = CACHE / "django"
    if not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        words = ["download", "--quiet", "--no-deps", "--no-binary=django", "--dest", str(folder)]
        subprocess.run(
            [sys.executable, "-m", "pip", *words, f"django=={django.__version__}"], check=True
        )
        with (
            tempfile.TemporaryDirectory(dir=folder) as unpacked,
            tarfile.open(folder / f"{name}.tar.gz") as archive,
        ):
            archive.extractall(unpacked)
            Path(unpacked, name).rename(folder / name)
    return folder / name


def run(
    source: Path, modules: list[str], launcher: list[str], variables: dict[str, str], way: str
) -> Outcomes:
    """Run `modules` of Django's tests behind `launcher`, and return how each test went."""
    started = time.monotonic()
    with tempfile.NamedTemporaryFile(suffix=".json") as record:
        words = [
            sys.executable,
            "runtests.py",
            "--settings=recording_settings",
            "--parallel=2",
            "--noinput",
            *modules,
        ]
        done = subprocess.run(
            [*launcher, *words],
            cwd=source / "tests",
            env=clean_environment(
                PYTHONPATH=str(RECORDING),
                RECORD_TO=record.name,
                PYTHONDONTWRITEBYTECODE="1",
                **variables,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        recorded = Path(record.name).read_text()
    if not recorded:
        sys.exit(
            f"{way}: Django's tests did not come to their end\n{done.stdout.decode(errors='replace')[-5000:]}"
        )
    outcomes: Outcomes = json.loads(recorded)
    counted = ", ".join(
        f"{number} {outcome}"
        for outcome, number in sorted(collections.Counter(outcomes.values()).items())
    )
    print(
        f"{way}: {len(outcomes)} tests, {counted}; {time.monotonic() - started:.0f} s", flush=True
    )
    (CACHE / "logs").mkdir(exist_ok=True)
    (CACHE / "logs" / f"django-{way.replace(', ', '-').replace(' ', '-')}.log").write_bytes(
        done.stdout
    )
    return outcomes


def label(test_id: str) -> str:
    """Return how to ask for a test, whose ID may end in a subtest's description, or for the class that failed to set up."""
    name, _, rest = test_id.partition(" ")
    return rest.strip("()") if name in ("setUpClass", "tearDownClass") else name


def has_run(asked: str, outcomes: Outcomes) -> bool:
    """Tell whether what was asked for by its `label`, a test or a class, is among the outcomes."""
    return any(asked in (label(name), name.rpartition(".")[0]) for name in outcomes)


def different(outcomes: dict[str, Outcomes]) -> list[str]:
    """Return the tests that did not go alike in all ways of running them, in which they should."""
    return sorted(
        name
        for name in set().union(*outcomes.values())
        if len({run.get(name) for way, run in outcomes.items() if is_comparable(name, way)}) > 1
    )


def is_comparable(name: str, way: str) -> bool:
    """Tell whether a test should go like the others that way: HEADER_TESTS only without our header."""
    return way != DEFAULTS or name not in HEADER_TESTS


def report(outcomes: dict[str, Outcomes], compared: int) -> int:
    """Say which tests differ, and return the exit status."""
    found = different(outcomes)
    for name in found:
        print(f"{name}: {', '.join(f'{way}: {run.get(name)}' for way, run in outcomes.items())}")
    seen = sorted(
        name
        for name in HEADER_TESTS & outcomes[DEFAULTS].keys()
        if outcomes[DEFAULTS][name] != outcomes[PLAIN].get(name)
    )
    if seen:
        print(f"these see our response header, and were compared without it: {' '.join(seen)}")
    print(f"{compared} of Django's tests compared, {len(found)} differ")
    return 1 if found else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main(sys.argv[1:] or MODULES))
