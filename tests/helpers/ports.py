"""Free ports on the loopback address."""

from __future__ import annotations

import contextlib
import random
import socket

LOOPBACK = "127.0.0.1"

# Below the range from which Linux takes the ports of outgoing connections (32768 and up), so that no connection takes
# the port between its choice and its use.
_FIRST, _LAST, _OWN = 12_000, 32_000, 2_000

_claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def _own_range() -> range:
    """Return the ports of this process: runs that go on side by side, one in a chroot too, do not take each other's."""
    for first in range(_FIRST, _LAST, _OWN):
        # An abstract name goes with the process, and is one for all that share the loopback interface.
        with contextlib.suppress(OSError):
            _claim.bind(f"\0introspect-tests-{first}")
            return range(first, first + _OWN)
    return range(_FIRST, _LAST)


_RANGE = _own_range()
# Not the shared generator: pytest-randomly reseeds it before each test.
_choice = random.SystemRandom().choice


def free_port() -> int:
    """Return a port that nobody on the loopback address uses at this moment, neither by TCP nor by UDP."""
    for _ in range(200):
        port = _choice(_RANGE)
        if _is_free(port, socket.SOCK_STREAM) and _is_free(port, socket.SOCK_DGRAM):
            return port
    raise RuntimeError(f"200 random ports of {LOOPBACK} are all in use")


def is_listening(host: str, port: int, timeout: float = 1.0) -> bool:
    """Tell whether a TCP connection to `host`:`port` is accepted within `timeout` seconds."""
    try:
        with socket.create_connection((host, port), timeout=timeout):
            return True
    except OSError:
        return False


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
