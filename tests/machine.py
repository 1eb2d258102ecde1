"""What the tests need of the machine, and where it comes from: Debian's packages, and npm for Etsy's statsd.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

from tests.helpers.services import STATSD_PACKAGE

STATSD_RELEASE = "statsd@0.9.0"
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name, path=_PATH) is not None


def _mariadb_headers() -> bool:
    known = (
        subprocess.run(["pkg-config", "--exists", "libmariadb"], check=False)
        if _program("pkg-config")()
        else None
    )
    return known is not None and known.returncode == 0


def _postgresql() -> bool:
    return any(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or _program("initdb")()


# How to tell that it is there, and Debian's packages that bring it.
_NEEDS: tuple[tuple[Callable[[], bool], tuple[str, ...]], ...] = (
    (lambda: importlib.util.find_spec("ensurepip") is not None, ("python3-venv",)),
    (lambda: Path(sysconfig.get_path("include"), "Python.h").exists(), ("python3-dev",)),
    (_program("cc"), ("gcc", "libc6-dev")),
    (_program("pkg-config"), ("pkg-config",)),
    (_mariadb_headers, ("libmariadb-dev",)),
    (_program("git"), ("git",)),
    (_program("debootstrap"), ("debootstrap",)),
    (_program("unshare"), ("util-linux",)),
    (_program("node"), ("nodejs",)),
    (_program("npm"), ("npm",)),
    (_postgresql, ("postgresql",)),
    (_program("mariadbd"), ("mariadb-server",)),
    (_program("redis-server"), ("redis-server",)),
    (_program("chromium"), ("chromium",)),
    (_program("valgrind"), ("valgrind",)),
)


def missing_packages() -> list[str]:
    """Return Debian's packages for all that is not on this machine."""
    return [package for is_there, packages in _NEEDS if not is_there() for package in packages]


def install_missing(say: Callable[[str], None]) -> None:
    """Install what is missing if that is in our power; else say what to install, and go on."""
    packages = missing_packages()
    if packages and os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"installing {' '.join(packages)}")
        _apt_install(packages)
    elif packages:
        say(
            f"not installed, and only root may: apt-get install {' '.join(packages)}; tests that need them will say so"
        )
    if not STATSD_PACKAGE.exists() and shutil.which("npm"):
        say(f"installing {STATSD_RELEASE} from npm")
        _npm_install()


def _apt_install(packages: list[str]) -> None:
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=False).returncode:
        subprocess.run(["apt-get", "update"], env=env, stdout=subprocess.DEVNULL, check=True)
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)


def _npm_install() -> None:
    folder = STATSD_PACKAGE.parents[1]
    folder.mkdir(parents=True, exist_ok=True)
    words = [
        "npm",
        "install",
        "--omit=optional",
        "--ignore-scripts",
        "--no-fund",
        "--no-audit",
        "--loglevel=error",
    ]
    subprocess.run(
        [*words, "--prefix", str(folder), STATSD_RELEASE], stdout=subprocess.DEVNULL, check=True
    )
