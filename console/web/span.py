"""What every address of the console carries: a range of time, a service, an environment."""

import time
from collections.abc import Mapping

from introspect.console.query import Filters, Span, last_span

RANGES = {"15m": 900, "1h": 3600, "6h": 6 * 3600, "24h": 86400, "7d": 7 * 86400}
"""Name in an address → seconds that end now."""

DEFAULT_RANGE = "1h"
MAX_SECONDS = 400 * 86400


class BadAddressError(ValueError):
    """A parameter of an address says nothing sensible; the text says what is expected."""


def span_of(parameters: Mapping[str, str], now: float | None = None) -> Span:
    """Read `range`, or `from` and `to` (epoch seconds; `to` may be left out and is then now)."""
    now = time.time() if now is None else now
    if "from" in parameters:
        start = number_of(parameters, "from", 0)
        end = number_of(parameters, "to", now)
        if not 0 <= start < end <= now + MAX_SECONDS or end - start > MAX_SECONDS:
            raise BadAddressError(f"from={start:.0f} and to={end:.0f} are no range of time.")
        return Span(int(start), max(int(end), int(start) + 10))
    name = parameters.get("range") or DEFAULT_RANGE
    if name not in RANGES:
        raise BadAddressError(f"range={name!r:.40}: expected one of {', '.join(RANGES)}.")
    return last_span(RANGES[name], now)


def filters_of(parameters: Mapping[str, str]) -> Filters:
    """Read `service` and `env`; empty means all."""
    return Filters(parameters.get("service") or None, parameters.get("env") or None)


def number_of(parameters: Mapping[str, str], name: str, default: float) -> float:
    """Read a decimal number."""
    text = parameters.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        raise BadAddressError(f"{name}={text!r:.40}: expected a number.") from None
    if not abs(value) < 2**53:  # also false for nan
        raise BadAddressError(f"{name}={text!r:.40}: expected a number of ordinary size.")
    return value


def optional_number(parameters: Mapping[str, str], name: str) -> float | None:
    """Read a decimal number that may be left out."""
    return number_of(parameters, name, 0) if parameters.get(name) else None
