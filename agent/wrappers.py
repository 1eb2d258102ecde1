"""What stands in the place of a replaced function: one of the same signature, made from text.

A closure over ``*args, **kwargs`` would do. But to call on with those takes Python through C, which
costs a third of a microsecond and stack at every level of nested templates, packs each keyword into
a dictionary and unpacks it, and who calls with wrong arguments would hear of it one frame further
down than without us.
"""

from __future__ import annotations

import functools
import inspect
import os
from time import perf_counter as clock
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from introspect.agent import guard, work

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import ContextVar

    from introspect.agent.metrics import Series

    Function = Callable[..., Any]

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

# The token of a context variable is good in the very context that it was set in, which this is, but
# for a coroutine that is closed elsewhere: then there is nothing to put back.
_OUTERMOST = """\
{definition} timed_call({parameters}):
    __traceback_hide__ = True
    if _is_inside():
        return {call}
    _token = _enter(True)
    _started = _clock()
    try:
        _result = {call}
    except BaseException as _error:
        _ended = _clock()
        try:
            _leave(_token)
            _after(_started, _ended, {args}, {kwargs}, None, _error)
        except Exception:
            _swallow(_after)
        raise
    _ended = _clock()
    try:
        _leave(_token)
        _after(_started, _ended, {args}, {kwargs}, _result, None)
    except Exception:
        _swallow(_after)
    return _result
"""

# One call of an observer, with the arguments as they are, where the others pack and unpack them.
_MEASURED = """\
{definition} measured_call({parameters}):
    _started = _clock()
    try:
        _result = {call}
    except BaseException as _error:
        _ended = _clock()
        __traceback_hide__ = True
        try:
            _failed(_measure.series_of({asked}), _started, _ended, _error, _measure, {asked})
        except Exception:
            _swallow(_measure.series_of)
        raise
    _ended = _clock()
    try:
        _samples = _current().samples
        _samples.extend((_series_of({asked}), _started, _ended, {detail}))
        if len(_samples) > _ITEMS_HELD:
            _overflow()
    except Exception:
        _swallow(_series_of)
    return _result
"""

_MEASURED_AND_REWRITTEN = """\
{definition} measured_call({parameters}):
    try:
        _argument, _series = _series_of({asked})
    except Exception:
        _swallow(_series_of)
        _argument, _series = {argument}, None
    _started = _clock()
    try:
        _result = {changed_call}
    except BaseException as _error:
        _ended = _clock()
        __traceback_hide__ = True
        try:
            _failed(_series, _started, _ended, _error, _measure, {asked})
        except Exception:
            _swallow(_series_of)
        raise
    _ended = _clock()
    try:
        if _series is not None:
            _samples = _current().samples
            _samples.extend((_series, _started, _ended, {detail}))
            if len(_samples) > _ITEMS_HELD:
                _overflow()
    except Exception:
        _swallow(_series_of)
    return _result
"""

_NOTICED = """\
{definition} noticed_call({parameters}):
    __traceback_hide__ = True
    try:
        _notice({args}, {kwargs})
    except Exception:
        _swallow(_notice)
    return {call}
"""

_AMENDED = """\
{definition} amended_call({parameters}):
    __traceback_hide__ = True
    _result = {call}
    try:
        return _amend({args}, {kwargs}, _result)
    except Exception:
        _swallow(_amend)
        return _result
"""

_REWRITTEN = """\
{definition} rewritten_call({parameters}):
    __traceback_hide__ = True
    try:
        {argument} = _rewrite({named}, {kwargs})
    except Exception:
        _swallow(_rewrite)
    return {call}
"""


def timed_call(
    original: Function,
    before: Function | None,
    after: Function,
    outermost: ContextVar[bool] | None = None,
) -> Function:
    """Return a function, or coroutine function, that calls *original* once, observed.

    ``before``, ``after`` and ``outermost`` are those of ``patching.timed``.
    """
    if outermost is not None:
        return _made(
            _OUTERMOST,
            original,
            _is_inside=outermost.get,
            _enter=outermost.set,
            _leave=outermost.reset,
            _after=after,
        )
    return _made(_AROUND if before else _BEHIND, original, _before=before, _after=after)


class Measure(NamedTuple):
    """What one sample of a call consists of; see ``patching.measured``."""

    series_of: Function
    failure_of: Function | None = None
    detail_of: Function | None = None
    rewrites: int = 0


def measured_call(original: Function, measure: Measure) -> Function:
    """Return a function whose calls are samples of the current unit: see ``patching.measured``."""
    if measure.rewrites and len(_signature(original).names) <= measure.rewrites:
        return _measured_by_position(original, measure)
    return _made(
        _MEASURED_AND_REWRITTEN if measure.rewrites else _MEASURED,
        original,
        measure.rewrites,
        detail="_detail_of(None, {asked})" if work.detail_wanted and measure.detail_of else "None",
        _measure=measure,
        _series_of=measure.series_of,
        _detail_of=measure.detail_of,
        _failed=_failed,
        _current=work.current.get,
        _overflow=work.overflow,
        _ITEMS_HELD=work.ITEMS_HELD,
    )


def _measured_by_position(original: Function, measure: Measure) -> Function:
    """Do the same for a function whose parameters have no names: what somebody else has wrapped."""
    series_of, position = measure.series_of, measure.rewrites

    @functools.wraps(original)
    def measured_call(*args: Any, **kwargs: Any) -> Any:
        __traceback_hide__ = True
        series, passed = None, args
        try:
            argument, series = series_of(*args, **kwargs)
            if len(args) > position:  # given by name, it stays as it is
                passed = (*args[:position], argument, *args[position + 1 :])
        except Exception:
            guard.swallow(series_of)
        started = clock()
        try:
            result = original(*passed, **kwargs)
        except BaseException as error:
            ended = clock()
            try:
                _failed(series, started, ended, error, measure, *args, **kwargs)
            except Exception:
                guard.swallow(series_of)
            raise
        ended = clock()
        try:
            if series is not None:
                wanted = measure.detail_of if work.detail_wanted else None
                detail = wanted(None, *args, **kwargs) if wanted is not None else None
                work.record(series, started, ended, detail)
        except Exception:
            guard.swallow(series_of)
        return result

    return measured_call


def _failed(
    series: Series | None,
    started: float,
    ended: float,
    error: BaseException,
    measure: Measure,
    *args: Any,
    **kwargs: Any,
) -> None:
    """Record a call that raised *error*."""
    if series is None:
        return
    detail = None
    if work.detail_wanted and measure.detail_of is not None:
        try:
            detail = measure.detail_of(error, *args, **kwargs)
        except Exception:
            guard.swallow(measure.detail_of)
    work.record(series, started, ended, detail)
    if measure.failure_of is not None:
        work.count(measure.failure_of(error, *args, **kwargs))


def noticed_call(original: Function, notice: Function) -> Function:
    """Return a function that calls *notice* first: see ``patching.noticed``."""
    return _made(_NOTICED, original, _notice=notice)


def amended_call(original: Function, amend: Function) -> Function:
    """Return a function whose result is *amend*'s: see ``patching.amended``."""
    return _made(_AMENDED, original, _amend=amend)


def rewritten_call(original: Function, rewrite: Function, position: int) -> Function:
    """Return a function that passes on what *rewrite* returns as the argument at *position*.

    *rewrite* gets the arguments that have a name, for which no list is to be made first. Raises
    ``TypeError`` if *original* has no such parameter by name.
    """
    return _made(_REWRITTEN, original, position, _rewrite=rewrite)


def _made(
    text: str, original: Function, position: int = 0, detail: str = "", **names: Any
) -> Function:
    signature = _signature(original)
    if position and len(signature.names) <= position:
        raise TypeError(f"{original!r} has no parameter number {position}")
    is_coroutine = inspect.iscoroutinefunction(original)
    original_call = f"{'await ' if is_coroutine else ''}_original"
    named = ", ".join(signature.names)
    changed = [*signature.names[:position], "_argument", *signature.names[position + 1 :]]
    asked = named or signature.values
    source = text.format(
        definition="async def" if is_coroutine else "def",
        call=f"{original_call}({signature.values})",
        changed_call=f"{original_call}({', '.join(changed)}{signature.values[len(named) :]})",
        asked=asked,
        detail=detail.format(asked=asked),
        parameters=signature.parameters,
        args=signature.args,
        kwargs=signature.kwargs,
        named=f"({named},)",
        argument=signature.names[position] if position else "",
    )
    namespace: dict[str, Any] = {
        "__name__": __name__,
        "_original": original,
        "_clock": clock,
        "_swallow": guard.swallow,
        "_PASS": PASS,
        "_NO_KEYWORDS": {},
        **names,
        **signature.defaults,
    }
    # The same text for many a function: its code is compiled once.
    exec(_compiled(source), namespace)  # noqa: S102  nothing but names of parameters goes in
    name = text.split("(", 1)[0].rsplit(" ", 1)[1]
    made: Function = functools.wraps(original)(namespace[name])
    return made


@functools.lru_cache(maxsize=100)
def _compiled(source: str) -> Any:
    return compile(source, FILE_NAME, "exec")


class _Signature(NamedTuple):
    """A function's parameters as text: as it is defined, as it is called, and as data."""

    parameters: str
    values: str
    args: str
    kwargs: str
    names: tuple[str, ...]
    defaults: dict[str, Any]


_ANY_ARGUMENTS = _Signature("*args, **kwargs", "*args, **kwargs", "args", "kwargs", (), {})


def _signature(original: Any) -> _Signature:
    """Read the signature of *original*; of what is no plain function, nothing is known."""
    code = original.__code__ if type(original) is FunctionType else None
    if code is None or not code.co_argcount:
        return _ANY_ARGUMENTS
    by_position = code.co_varnames[: code.co_argcount]
    stars = code.co_argcount + code.co_kwonlyargcount
    by_keyword = code.co_varnames[code.co_argcount : stars]
    others = list(code.co_varnames[stars:])
    rest = others.pop(0) if code.co_flags & inspect.CO_VARARGS else ""
    keywords = others.pop(0) if code.co_flags & inspect.CO_VARKEYWORDS else ""
    if any(name.startswith("_") for name in (*by_position, *by_keyword, rest, keywords)):
        return _ANY_ARGUMENTS  # `_started` and the like are ours

    defaults = {}
    parameters = list(by_position)
    values = original.__defaults__ or ()
    for number, value in enumerate(values, start=len(by_position) - len(values)):
        defaults[f"_default_{number}"] = value
        parameters[number] += f"=_default_{number}"
    if code.co_posonlyargcount:
        parameters.insert(code.co_posonlyargcount, "/")
    if rest or by_keyword:
        parameters.append(f"*{rest}")
    for name in by_keyword:
        if name in (original.__kwdefaults__ or {}):
            defaults[f"_default_{name}"] = original.__kwdefaults__[name]
            parameters.append(f"{name}=_default_{name}")
        else:
            parameters.append(name)
    parameters += [f"**{keywords}"] if keywords else []

    positional = [*by_position, *([f"*{rest}"] if rest else [])]
    passed = [*(f"{name}={name}" for name in by_keyword), *([f"**{keywords}"] if keywords else [])]
    as_items = [f"{name!r}: {name}" for name in by_keyword]
    return _Signature(
        ", ".join(parameters),
        ", ".join([*positional, *passed]),
        f"({', '.join(positional)},)",
        f"{{{', '.join([*as_items, *passed[len(by_keyword) :]])}}}"
        if as_items
        else keywords or "_NO_KEYWORDS",
        by_position,
        defaults,
    )
