"""What stands in the place of a timed function: a function of the same signature, made from text.

A closure over ``*args, **kwargs`` would do. But to call on with those takes Python through C, which
costs a third of a microsecond and stack at every level of nested templates, and who calls with
wrong arguments would hear of it one frame further down than without us.
"""

from __future__ import annotations

import functools
import inspect
import os
from time import perf_counter as clock
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from introspect.agent import guard

if TYPE_CHECKING:
    from collections.abc import Callable

PASS: Final = object()
"""Returned by a ``before``: let this call through, unobserved."""

FILE_NAME: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "<timed call>")
"""What a traceback shows as the file of a frame of ours: in our folder, and no file."""

# `__traceback_hide__` is Django's own convention (django.views.debug): a frame with such a local is
# left out of the technical error pages, which thus stay what they were without us.
_BEHIND = """\
{definition} timed_call({parameters}):
    _started = _clock()
    try:
        _result = {call}
    except BaseException as _error:
        _ended = _clock()
        __traceback_hide__ = True
        try:
            _after(_started, _ended, {args}, {kwargs}, None, _error)
        except Exception:
            _swallow(_after)
        raise
    _ended = _clock()
    try:
        _after(_started, _ended, {args}, {kwargs}, _result, None)
    except Exception:
        _swallow(_after)
    return _result
"""

_AROUND = """\
{definition} timed_call({parameters}):
    __traceback_hide__ = True
    try:
        _token = _before({args}, {kwargs})
    except Exception:
        _swallow(_before)
        _token = _PASS
    if _token is _PASS:
        return {call}
    _started = _clock()
    try:
        _result = {call}
    except BaseException as _error:
        _ended = _clock()
        try:
            _after(_token, _started, _ended, {args}, {kwargs}, None, _error)
        except Exception:
            _swallow(_after)
        raise
    _ended = _clock()
    try:
        _after(_token, _started, _ended, {args}, {kwargs}, _result, None)
    except Exception:
        _swallow(_after)
    return _result
"""


def timed_call(
    original: Callable[..., Any], before: Callable[..., Any] | None, after: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a function, or coroutine function, that calls *original* once, observed.

    ``before`` and ``after`` are those of ``patching.timed``.
    """
    namespace: dict[str, Any] = {
        "__name__": __name__,
        "_original": original,
        "_before": before,
        "_after": after,
        "_clock": clock,
        "_swallow": guard.swallow,
        "_PASS": PASS,
        "_NO_KEYWORDS": {},
    }
    parameters, values, args, kwargs = _signature(original, namespace)
    is_coroutine = inspect.iscoroutinefunction(original)
    source = (_AROUND if before else _BEHIND).format(
        definition="async def" if is_coroutine else "def",
        call=f"{'await ' if is_coroutine else ''}_original({values})",
        parameters=parameters,
        args=args,
        kwargs=kwargs,
    )
    # The same text for many a function: its code is compiled once.
    exec(_compiled(source), namespace)  # noqa: S102  nothing but names of parameters goes in
    made: Callable[..., Any] = functools.wraps(original)(namespace["timed_call"])
    return made


@functools.lru_cache(maxsize=100)
def _compiled(source: str) -> Any:
    return compile(source, FILE_NAME, "exec")


def _signature(original: Any, namespace: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return how *original* is defined and called, and its arguments as a tuple and a dictionary.

    Defaults are put into *namespace*. Where there is more than plain parameters: any arguments.
    """
    code = original.__code__ if type(original) is FunctionType else None
    if (
        code is None
        or not code.co_argcount
        or code.co_posonlyargcount
        or code.co_kwonlyargcount
        or code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
        or any(name.startswith("_") for name in code.co_varnames[: code.co_argcount])
    ):
        return "*args, **kwargs", "*args, **kwargs", "args", "kwargs"
    names = code.co_varnames[: code.co_argcount]
    defaults = original.__defaults__ or ()
    written = list(names)
    for number, value in enumerate(defaults, start=len(names) - len(defaults)):
        namespace[f"_default_{number}"] = value
        written[number] += f"=_default_{number}"
    values = ", ".join(names)
    return ", ".join(written), values, f"({values},)", "_NO_KEYWORDS"
