"""Which inbound correlation ID is accepted, how one is made, and what is sent on.

A value from outside that is not accepted reaches no log, SQL text, header or metric.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from binascii import hexlify
from os import urandom
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from introspect.agent.settings import Settings

TRACEPARENT: Final = "traceparent"

CHILD_VARIABLE: Final = "_INTROSPECT_CORRELATION_ID"
"""The environment variable by which a child process inherits the ID of the unit that started it."""

NONE: Final = "-"
"""What a log line shows outside any unit of work."""

_ID = re.compile(r"[A-Za-z0-9._:-]{8,128}")

# W3C Trace Context, level 1 and 2. Later versions may append fields; ff is not a version.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KNOWN_FLAGS: Final = 0b11  # sampled, random; the others have to be sent on as zero
_TRACE_ID = re.compile(r"[0-9a-f]{32}")


class Traceparent(NamedTuple):
    """The parts of a ``traceparent`` header that matter: 32, 16 and 2 hexadecimal digits."""

    trace_id: str
    parent_id: str
    flags: str

    def __str__(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id}-{self.parent_id}-{self.flags}"


class Inbound(NamedTuple):
    """What a request brought: an ID in any case, and its ``traceparent`` if that is valid."""

    correlation_id: str
    traceparent: Traceparent | None = None


class Policy:
    """The settings on correlation, made ready for use."""

    def __init__(
        self,
        headers: tuple[str, ...] = ("X-Request-ID", "X-Correlation-ID", TRACEPARENT),
        hosts: tuple[str, ...] = ("*",),
        *,
        trust: bool = True,
    ) -> None:
        self.inbound = headers if trust else ()
        named = [header for header in headers if header.lower() != TRACEPARENT]
        self.header = named[0] if named else None
        """Outbound and response header; ``None`` where only ``traceparent`` is named."""
        self.header_key = self.header.lower() if self.header else ""
        self.header_bytes = self.header_key.encode("ascii")
        self.of_concern = re.compile(
            rb"\n(authorization|signature-input|traceparent|%b):" % re.escape(self.header_bytes)
        )
        """The headers, in lower case, by which a request decides what is added to it."""
        self.sends_traceparent = len(named) < len(headers)
        # Each inbound header as WSGI and ASGI spell it, and in lower case.
        self.wsgi_keys = [(f"HTTP_{h.upper().replace('-', '_')}", h.lower()) for h in self.inbound]
        self.asgi_keys = [(h.lower(), h.lower()) for h in self.inbound]
        self.hosts = None if "*" in hosts else _host_pattern(hosts)
        """Which hosts get the outbound headers; ``None``: all."""

    def may_send_to(self, host: str) -> bool:
        """Tell whether *host* is one that gets the outbound headers."""
        return self.hosts is None or self.hosts.fullmatch(host.lower()) is not None

    def accept(self, get: Callable[[str], Any], keys: Iterable[tuple[str, str]]) -> Inbound:
        """Return the ID of the first valid header, else a new one.

        *keys* is ``wsgi_keys`` or ``asgi_keys``, and *get* what such a key is looked up with.
        """
        found: str | None = None
        traceparent: Traceparent | None = None
        for key, name in keys:
            value = get(key)
            if not value:
                continue
            if name == TRACEPARENT:
                traceparent = parse_traceparent(value)
                found = found or (traceparent and traceparent.trace_id)
            elif found is None and is_valid(value):
                found = value
        return Inbound(found or new_id(), traceparent)


policy = Policy()


def configure(settings: Settings) -> None:
    """Take the settings on correlation."""
    global policy
    policy = Policy(
        settings.correlation_headers, settings.correlation_hosts, trust=settings.correlation_trust
    )


def is_valid(value: str) -> bool:
    """Tell whether *value* has the form of an ID: 8 to 128 of ``A-Z a-z 0-9 . _ : -``."""
    return _ID.fullmatch(value) is not None


def new_id() -> str:
    """Make an ID: a random UUID, version 4."""
    # By hand, in few steps: `str(uuid.uuid4())` takes five times as long. The digits that say
    # version and variant (of its four values always the third) are not the random ones.
    return (b"%b-%b-4%b-a%b-%b" % _groups(hexlify(urandom(16)))).decode("ascii")


_groups = struct.Struct("8s4sx3sx3s12s").unpack


def new_span_id() -> str:
    """Make the ID of one step: 16 hexadecimal digits."""
    return urandom(8).hex()


def inherited_id() -> str | None:
    """Return the ID of the unit of work that started this process, if there was one."""
    value = os.environ.get(CHILD_VARIABLE, "")
    return value if is_valid(value) else None


def parse_traceparent(value: str) -> Traceparent | None:
    """Parse a ``traceparent`` header; ``None`` if it is not valid."""
    match = _TRACEPARENT.fullmatch(value.strip())
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0"):
        return None
    if not parent_id.strip("0"):
        return None
    return Traceparent(trace_id, parent_id, f"{int(flags, 16) & _KNOWN_FLAGS:02x}")


def trace_id_of(correlation_id: str) -> str:
    """Return 32 hexadecimal digits for an ID: those of a UUID or trace ID, else a hash."""
    digits = correlation_id.replace("-", "").lower()
    if _TRACE_ID.fullmatch(digits) and digits.strip("0"):
        return digits
    return hashlib.blake2b(correlation_id.encode(), digest_size=16).hexdigest()


def _host_pattern(hosts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(
        "|".join(".*".join(re.escape(piece) for piece in host.lower().split("*")) for host in hosts)
        or "(?!)"  # an empty list: no host matches
    )
