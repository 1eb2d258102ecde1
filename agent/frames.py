"""Which line of the application's code something came from."""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType, TracebackType

# Frames looked at before giving up: each costs about 0.1 µs.
DEEPEST = 100


def place_of(trace: TracebackType | None) -> str | None:
    """Return ``app/views.py:42``: the innermost frame of *trace* that is the application's.

    Where an installed library raised, that is the line that called it; where there is nothing but
    libraries, their own innermost line; where there is nothing but Django, ``None``.
    """
    places: list[tuple[FrameType, int]] = []
    while trace is not None and len(places) < 10 * DEEPEST:
        places.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    fallback = None
    for frame, number in reversed(places):
        kind = _kind_of(frame.f_code.co_filename)
        if kind == "application":
            return _shown(frame, number)
        if kind in ("library", "standard") and fallback is None:
            fallback = _shown(frame, number)
    return fallback


def caller() -> str:
    """Return ``app/views.py:42``: the innermost frame that asks for itself; empty if there is none.

    Django asks on somebody's behalf, and so do the standard library and ``asgiref``, which run what
    they are given. Beyond Django's handler there is the server, which never asks.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  what inspect uses, at a tenth of its cost
    for _ in range(DEEPEST):
        if frame is None:
            break
        kind = _kind_of(frame.f_code.co_filename)
        if kind in ("application", "library"):
            return _shown(frame, frame.f_lineno)
        if kind == "handler":
            break
        frame = frame.f_back
    return ""


def is_application(frame: FrameType) -> bool:
    """Tell whether a frame is of the application's own code."""
    return _kind_of(frame.f_code.co_filename) == "application"


_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_PACKAGES = frozenset({"site-packages", "dist-packages"})  # the latter are Debian's
_HANDLERS = tuple(os.path.join("core", "handlers", name) for name in ("wsgi.py", "asgi.py"))


@functools.lru_cache(maxsize=4096)
def _kind_of(filename: str) -> str:
    path = os.path.abspath(filename)
    if path.startswith(_our_folders()):
        return "ours"
    if path.startswith(_folder_of("django")):
        return "handler" if path.endswith(_HANDLERS) else "django"
    if filename.startswith("<") or path.startswith(_folder_of("asgiref")):
        return "standard"
    if not _PACKAGES.isdisjoint(path.split(os.sep)):
        return "library"
    return "standard" if path.startswith(_standard_library()) else "application"


def _our_folders() -> tuple[str, ...]:
    return tuple(f"{_OURS}{name}{os.sep}" for name in ("agent", "bootstrap", "instrumentations"))


def _folder_of(name: str) -> tuple[str, ...]:
    package: Any = sys.modules.get(name)
    return (os.path.dirname(package.__file__) + os.sep,) if package else ()


@functools.lru_cache(maxsize=1)
def _standard_library() -> str:
    return os.path.dirname(os.__file__) + os.sep


def _shown(frame: FrameType, number: int) -> str:
    return f"{_short(frame.f_code.co_filename, frame.f_globals.get('__name__'))}:{number}"


@functools.lru_cache(maxsize=4096)
def _short(filename: str, module: object) -> str:
    """Return a file's path from the folder that its top package is in."""
    depth = module.count(".") if isinstance(module, str) else 0
    if os.path.basename(filename) == "__init__.py":
        depth += 1
    return "/".join(filename.split(os.sep)[-depth - 1 :])
