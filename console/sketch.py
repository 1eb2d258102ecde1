"""Distributions in a few bytes: what percentiles over any span are merged from.

A timer's bucket is a DDSketch: how many values fell into each of many narrow classes, whose widths
grow with the value, so that a percentile is right to ``RELATIVE_ACCURACY`` however much is merged.
Which class a value belongs to is decided by the ``ddsketch`` library; its own store keeps one
Python object per class and serialises through protobuf, so here a sketch is a plain
``dict[class, count]``, and two packed arrays in the file.

A set's bucket is the ``MEMBERS`` smallest hashes of its members (K minimum values): exact up to
that many, an estimate within about 3 % beyond, and mergeable all the same.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from ddsketch.mapping import LogarithmicMapping

if TYPE_CHECKING:
    from collections.abc import Iterable

RELATIVE_ACCURACY: Final = 0.0075
"""A little better than the promised 1 %, which leaves room for how a rank is interpolated."""

LARGEST: Final = 1e15
"""Values beyond are refused: no duration, size or count of this world."""

SMALLEST: Final = 1e-9
"""Values nearer to zero are zero."""

MEMBERS: Final = 1024

_MAPPING: Final = LogarithmicMapping(RELATIVE_ACCURACY)
_OFFSET: Final = 8192  # positive classes above, negative ones mirrored below, zero at 0: 16 bits
_WIDTHS: Final = {b"B": 1, b"H": 2, b"Q": 8, b"d": 8}
_DENSE: Final = {b"b": 1, b"h": 2, b"q": 8}
_SET: Final = b"S"

Sketch = dict[int, float]
"""Class → how many values fell into it (a fraction, if a sample rate was not 1 in a whole)."""

# A rank is a product of binary fractions: 0.07 of 100 is a little more than 7.
_ROUNDED: Final = 1 - 1e-12

_key_of = _MAPPING.key


def add(sketch: Sketch, values: Iterable[float], weight: float = 1) -> None:
    """Count each of ``values`` as ``weight`` values."""
    get = sketch.get
    for value in values:
        if value >= SMALLEST:
            key = _key_of(value) + _OFFSET
        elif value > -SMALLEST:
            key = 0
        else:
            key = -(_key_of(-value) + _OFFSET)
        sketch[key] = get(key, 0) + weight


def merge(blobs: Iterable[bytes | None]) -> Sketch:
    """Unite packed sketches; ``None`` is an empty one."""
    merged: Sketch = {}
    dense = []
    for blob in blobs:
        if blob:
            if blob[:1] in _DENSE:
                dense.append(_as_number(blob))
            else:
                _add_sparse(merged, blob)
    if dense:
        # PERF: a day's overview merges five thousand sketches.  Dense ones are added as one huge
        # number each, whose digits of 64 bits are the counts.
        lowest = min(first for first, _ in dense)
        total = sum(number << 64 * (first - lowest) for first, number in dense)
        length = (total.bit_length() + 63) // 64
        digits = struct.unpack(f"<{length}Q", total.to_bytes(length * 8, "little"))
        for key, count in enumerate(digits, lowest):
            if count:
                merged[key] = merged.get(key, 0) + count
    return merged


def quantile(sketch: Sketch, q: float) -> float | None:
    """Return the smallest value that at least ``q`` (0 to 1) of all values do not exceed.

    ``None`` if there is no value. Of few values the highest is thus the 95th percentile: the one
    slow request of ten is seen.
    """
    return quantiles(sketch, (q,))[0]


def quantiles(sketch: Sketch, qs: Iterable[float]) -> list[float | None]:
    """Return several quantiles; ``qs`` must rise."""
    wanted = list(qs)
    keys = sorted(sketch)
    if not keys:
        return [None] * len(wanted)
    total = sum(sketch.values())
    found: list[float | None] = []
    position = 0
    below = sketch[keys[0]]
    for q in wanted:
        rank = q * total * _ROUNDED
        while below < rank and position + 1 < len(keys):
            position += 1
            below += sketch[keys[position]]
        found.append(value_of(keys[position]))
    return found


def value_of(key: int) -> float:
    """Return the value that stands for a class."""
    if key == 0:
        return 0.0
    value: float = _MAPPING.value(abs(key) - _OFFSET)
    return value if key > 0 else -value


def pack(sketch: Sketch) -> bytes:
    """Serialise, in the shorter of two ways.

    Sparse: one byte that names the counts' width, the classes, the counts.  Dense: another such
    byte, the first class, then the counts of it and all that follow.
    """
    keys = sorted(sketch)
    counts: list[float] = [sketch[key] for key in keys]
    whole = [int(count) for count in counts]
    if whole != counts:
        return struct.pack(f"<c{len(keys)}h{len(keys)}d", b"d", *keys, *counts)
    largest = max(whole, default=0)
    code = "B" if largest < 1 << 8 else "H" if largest < 1 << 16 else "Q"
    width = _WIDTHS[code.encode()]
    span = keys[-1] - keys[0] + 1 if keys else 0
    if not keys or span * width > len(keys) * (2 + width):
        return struct.pack(f"<c{len(keys)}h{len(keys)}{code}", code.encode(), *keys, *whole)
    dense = [0] * span
    for key, count in zip(keys, whole, strict=True):
        dense[key - keys[0]] = count
    return struct.pack(f"<ch{span}{code}", code.lower().encode(), keys[0], *dense)


def unpack(blob: bytes) -> Sketch:
    """Read what ``pack`` wrote."""
    return merge((blob,))


def _as_number(blob: bytes) -> tuple[int, int]:
    """Read a dense sketch: its first class, and its counts as 64-bit digits of one number."""
    width = _DENSE[blob[:1]]
    counts = blob[3:]
    wide = bytearray(len(counts) // width * 8)
    for byte in range(width):
        wide[byte::8] = counts[byte::width]
    (first,) = struct.unpack_from("<h", blob, 1)
    return first, int.from_bytes(wide, "little")


def _add_sparse(sketch: Sketch, blob: bytes) -> None:
    code = blob[:1]
    length = (len(blob) - 1) // (2 + _WIDTHS[code])
    fields = struct.unpack(f"<{length}h{length}{code.decode()}", blob[1:])
    get = sketch.get
    for key, count in zip(fields[:length], fields[length:], strict=True):
        sketch[key] = get(key, 0) + count


def pack_members(members: Iterable[bytes]) -> bytes:
    """Serialise a set's members."""
    return _pack_hashes({blake2b(member, digest_size=8).digest() for member in members})


def cardinality(blobs: Iterable[bytes | None]) -> float:
    """Say how many different members the packed sets have together."""
    hashes = sorted(set().union(*map(_hashes, filter(None, blobs))))
    if len(hashes) < MEMBERS:
        return len(hashes)
    return (MEMBERS - 1) / (int.from_bytes(hashes[MEMBERS - 1], "big") / 2**64)


def merge_packed(one: bytes | None, other: bytes | None) -> bytes | None:
    """Unite two packed sketches or two packed sets."""
    if one is None or other is None:
        return one or other
    if one[:1] == _SET:
        return _pack_hashes(_hashes(one) | _hashes(other))
    return pack(merge((one, other)))


def _pack_hashes(hashes: set[bytes]) -> bytes:
    return _SET + b"".join(sorted(hashes)[:MEMBERS])


def _hashes(blob: bytes) -> set[bytes]:
    return {blob[at : at + 8] for at in range(1, len(blob), 8)}
