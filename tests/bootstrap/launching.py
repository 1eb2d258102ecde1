"""Run a command to its end, under `introspect-run` and without it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from introspect.bootstrap.run import STARTUP
from tests.helpers.processes import clean_environment, introspect_run

STARTUP_FOLDER = Path(STARTUP)

# What a Django process does first, whatever it does later.
IMPORT_DJANGO = "import django.conf"


def environment(**extra: str) -> dict[str, str]:
    """Return an environment in which nothing is sent, so that only what is tested can go wrong."""
    found = clean_environment(
        **{"INTROSPECT_STATSD": "off", "PYTHONDONTWRITEBYTECODE": "1", **extra}
    )
    found.pop("PYTHONUNBUFFERED", None)  # buffers are what an exec may lose
    return found


def plain(
    *command: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
) -> subprocess.CompletedProcess[bytes]:
    """Run `command` to its end without the agent."""
    return subprocess.run(
        [str(word) for word in command],
        env=dict(environment() if env is None else env),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )


def launched(
    *command: str | Path,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
) -> subprocess.CompletedProcess[bytes]:
    """Run `command` to its end under `introspect-run`."""
    return plain(*introspect_run(*options), *command, env=env, cwd=cwd, stdin=stdin)


def python(
    code: str,
    *,
    agent: bool = True,
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run `code` in this Python, under the agent or not."""
    run = launched if agent else plain
    return run(sys.executable, *flags, "-c", code, env=env)


def told(
    expression: str,
    *,
    agent: bool = True,
    first: str = "",
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Any:
    """Return the value of `expression`, as JSON can carry it, in a Python that has run `first`."""
    code = f"{first}\nimport sys; value = {expression}; import json; print(json.dumps(value))"
    done = python(code, agent=agent, flags=flags, env=env)
    assert done.returncode == 0, done.stderr.decode()
    assert not done.stderr, done.stderr.decode()
    return json.loads(done.stdout)


def package_called_introspect(folder: Path) -> Path:
    """Write an application's package of our name, which says when it is imported, and return its file."""
    file = folder / "introspect" / "__init__.py"
    file.parent.mkdir()
    file.write_text("mark = 'theirs'; print('imported', flush=True)")
    return file
