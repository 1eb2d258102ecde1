"""The Django project of `tests/project`: its environment and its database."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.processes import REPOSITORY, clean_environment

PROJECT = REPOSITORY / "tests" / "project"
SERVICE = "shop"  # the settings module's top package, under which the agent reports by default


@dataclass(frozen=True)
class Site:
    """The project with a database of its own, which holds what `manage.py stock_shop` puts there."""

    database_url: str

    def environment(self, **extra: str) -> dict[str, str]:
        """Return the environment in which any server finds the project and its database."""
        variables = {
            "DJANGO_SETTINGS_MODULE": "shop.settings",
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PROJECT_DATABASE": self.database_url,
        }
        return clean_environment(**{**variables, **extra})

    def manage(self, *words: str) -> str:
        """Run `manage.py` with `words` to its end and return its output; `AssertionError` if it fails."""
        done = subprocess.run(
            [sys.executable, str(PROJECT / "manage.py"), *words],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def stock(self) -> Site:
        """Create the tables and their rows in an empty database."""
        self.manage("migrate", "--verbosity=0")
        self.manage("stock_shop")
        return self


def sqlite_site(folder: Path) -> Site:
    """Return the project with a fresh SQLite database in `folder`."""
    return Site(f"sqlite://{folder / 'shop.sqlite3'}").stock()


def copy_of(site: Site, folder: Path) -> Site:
    """Return the project with a copy of another one's SQLite database in `folder`."""
    copied = shutil.copy(site.database_url.removeprefix("sqlite://"), folder / "shop.sqlite3")
    return Site(f"sqlite://{copied}")
