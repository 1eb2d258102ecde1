"""The suite on Debian's newest Python with the newest Django: `python3 -m tests.chroot [PYTEST ARGUMENTS]`.

A Debian of its own stands in `.cache/chroot`, made once.  The project goes into it as the wheel that is built from the
present files, so the tests meet what users install.  Needs root and `debootstrap`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.environments import CACHE, REPOSITORY, digest
from tests.helpers.services import SERVICES, UnavailableError

PYTHON = "python3.14"
SUITE, SUITE_SCRIPT = "forky", "sid"
PACKAGES = (
    PYTHON,
    f"{PYTHON}-venv",
    f"{PYTHON}-dev",
    "ca-certificates",
    "gcc",
    "libc6-dev",
    "libcrypt-dev",
    "libmariadb-dev",
    "pkgconf",
)

# What these tests are for: on anything older they would say nothing new.
AT_LEAST = {"Python": "3.14", "Django": "6.0"}

# Prints the versions of the Python that runs it and of its Django, and refuses older ones than it is told.
VERSIONS = """
import platform, re, sys
from importlib.metadata import version

def numbers(text):
    return [int(part) for part in re.match(r"[0-9.]*[0-9]", text)[0].split(".")]

found = {"Python": platform.python_version(), "Django": version("django")}
print(" and ".join(" ".join(pair) for pair in found.items()), flush=True)
for wanted in sys.argv[1:]:
    name, number = wanted.split()
    if numbers(found[name]) < numbers(number):
        sys.exit(f"the chroot has {name} {found[name]}, and this is for {wanted} and newer")
"""

ROOT = CACHE / "chroot"
SOURCE = Path("/source")  # within the chroot
VENV = Path("/venv")  # within the chroot

# What a connection to the outside takes: names, certificates, and where pip looks.
_BORROWED = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pip.conf",
)

# In namespaces of its own: no mount outlives the command, nor does any process.
_UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
_MOUNT = 'mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && exec chroot "$@"'


def main(pytest_words: list[str]) -> int:
    """Make what is missing, put the project in, run pytest; return its exit status."""
    # An exception, unlike the signal's default, leaves the blocks that hold servers.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if os.geteuid() != 0:
        sys.exit("the chroot can be made and entered by root only")
    make_root()
    for name in _BORROWED:
        if Path(name).exists():
            shutil.copy(name, ROOT / name.lstrip("/"))
    copy_source()
    install()
    wanted = [" ".join(pair) for pair in AT_LEAST.items()]
    check(inside(str(VENV / "bin/python"), "-c", VERSIONS, *wanted))
    with contextlib.ExitStack() as stack:
        variables = lend_services(stack)
        words = [str(VENV / "bin/python"), "-m", "pytest", "-m", "not host_only", *pytest_words]
        return inside("env", "-C", str(SOURCE), *variables, *words)


def make_root() -> None:
    """Bring Debian into the folder unless it is there already."""
    stamp = ROOT / "made-from"
    wanted = " ".join((SUITE, *PACKAGES))
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if ROOT.exists():
        shutil.rmtree(ROOT)
    ROOT.mkdir(parents=True)
    print(f"debootstrap {SUITE}", flush=True)
    subprocess.run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            SUITE,
            str(ROOT),
            *script(),
        ],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    stamp.write_text(wanted)


def script() -> list[str]:
    """Return the words that name another suite's script where debootstrap does not know ours yet."""
    scripts = Path("/usr/share/debootstrap/scripts")
    if (scripts / SUITE).exists():
        return []
    return ["", str(scripts / SUITE_SCRIPT)]  # an empty mirror is debootstrap's own default


def copy_source() -> None:
    """Put the project's files, changed and new ones included, into the chroot."""
    target = ROOT / SOURCE.relative_to("/")
    shutil.rmtree(target, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)


def install() -> None:
    """Install the project's wheel and, when they have changed, the packages that its tests need."""
    stamp, wanted = ROOT / "installed", digest(*PACKAGES)
    pip = [
        str(VENV / "bin/python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    if not (stamp.exists() and stamp.read_text() == wanted):
        print("installing what the tests need", flush=True)
        check(inside(PYTHON, "-m", "venv", "--clear", str(VENV)))
        check(inside(*pip, f"{SOURCE}[test]"))
        stamp.write_text(wanted)
    check(inside(*pip, "--upgrade", "django"))  # the newest, also where all this was done long ago
    check(inside(*pip, "--force-reinstall", "--no-deps", str(SOURCE)))
    shutil.rmtree(ROOT / SOURCE.relative_to("/") / "build", ignore_errors=True)


def lend_services(stack: contextlib.ExitStack) -> list[str]:
    """Return `NAME=value` for each server that the tests inside may use, for as long as `stack` lasts."""
    variables = []
    for service in SERVICES:
        with contextlib.suppress(UnavailableError):
            host, port = stack.enter_context(service.address())
            variables.append(f"{service.variable}={host}:{port}")
    return variables


def inside(*command: str) -> int:
    """Run a command in the chroot and return its exit status."""
    return subprocess.run(
        [*_UNSHARE, "sh", "-c", _MOUNT, "sh", str(ROOT), *command], check=False
    ).returncode


def check(status: int) -> None:
    """End with `status` unless it is 0."""
    if status:
        sys.exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
