"""Virtual environments under `.cache`, made once and again whenever what they are made from changes.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".cache"
PACKAGES = ("agent", "bootstrap", "instrumentations", "console")

Run = Callable[[list[str]], None]


def main_environment(run: Run) -> Path:
    """Return the Python of the environment with everything for checks and tests in its newest version."""
    return _environment("venv", ["-e", ".[dev]"], run)


def oldest_environment(run: Run) -> Path:
    """Return the Python of the environment with the oldest Django and the oldest of each dependency we allow."""
    return _environment("oldest", ["-e", ".[test]", "django==4.2.*", *lowest_dependencies()], run)


def lowest_dependencies() -> list[str]:
    """Return `name==version` for the lower bound of each of the project's dependencies."""
    text = (REPOSITORY / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert listed is not None
    return [
        f"{name}=={version}" for name, version in re.findall(r'"([\w.-]+)>=([\d.]+)', listed[1])
    ]


def digest(*words: str) -> str:
    """Return a short name for a set of packages as `pyproject.toml` and `words` describe it."""
    source = (REPOSITORY / "pyproject.toml").read_bytes() + repr((sys.version, words)).encode()
    return hashlib.sha256(source).hexdigest()[:16]


def link_farm() -> Path:
    """Return a folder in which the packages stand under their import names, for tools that read and do not import."""
    folder = CACHE / "typing"
    (folder / "introspect").mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        link = folder / "introspect" / package
        if not link.is_symlink():
            link.symlink_to(REPOSITORY / package)
    return folder


def _environment(name: str, requirements: list[str], run: Run) -> Path:
    folder = CACHE / name
    python, stamp = folder / "bin" / "python", folder / "made-from"
    wanted = digest(*requirements)
    # Stamped last: a set-up that was interrupted is done again.
    if not (stamp.exists() and stamp.read_text() == wanted):
        run([sys.executable, "-m", "venv", "--clear", str(folder)])
        run(
            [
                str(python),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                *requirements,
            ]
        )
        stamp.write_text(wanted)
    return python
