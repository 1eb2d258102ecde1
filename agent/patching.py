"""Replace a function by one that is timed, observe it, and put it back.

An instrumentation declares what it replaces as data::

    PATCHES = (timed("requests.sessions:Session.send", before=started, after=answered),)

and the patcher owns the call: clock, call the original exactly once, clock, observe, and return
or raise what the original did. So an instrumentation cannot forget to call it, call it twice,
swallow its exception or change its result.
"""

from __future__ import annotations

import functools
import inspect
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from introspect.agent import guard, imports
from introspect.agent.wrappers import (
    Measure,
    amended_call,
    measured_call,
    noticed_call,
    rewritten_call,
    timed_call,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextvars import ContextVar
    from types import ModuleType

Function: TypeAlias = "Callable[..., Any]"

APPLIED = "applied"
WAITING = "waiting"
INHERITED = "inherited"
ABSENT = "absent"


class Patch(NamedTuple):
    """One replaced attribute: ``target`` is ``module:Class.method`` or ``module:function``.

    ``wrap(original)`` makes the replacement.
    """

    target: str
    wrap: Callable[[Function], Function]
    own: bool = False
    """Only where the class defines the attribute itself: a parent's is patched there."""
    optional: bool = False
    """Only newer versions of the library have it: where it is absent, nothing is wrong."""

    @property
    def module(self) -> str:
        """The module whose import the patch waits for."""
        return self.target.partition(":")[0]

    @property
    def attribute(self) -> str:
        """The dotted path inside the module."""
        return self.target.partition(":")[2]


def timed(
    target: str,
    *,
    after: Function,
    before: Function | None = None,
    outermost: ContextVar[bool] | None = None,
    own: bool = False,
) -> Patch:
    """Observe each call of *target*, be it a function or a coroutine function.

    ``before(args, kwargs)`` runs ahead of the call. What it returns is handed to ``after``;
    ``PASS`` lets the call through unobserved, and so does an exception in it.

    ``after(started, ended, args, kwargs, result, error)`` runs behind it, and gets what ``before``
    returned as its first argument if there is a ``before``. Times are seconds of
    ``time.perf_counter``. ``result`` is ``None`` if the call raised ``error``. Of a plain function,
    ``args`` are all arguments that may be given by position, defaults included.

    Of the patches that share a variable as ``outermost``, which replaces ``before``, the outermost
    call alone is observed: the variable, ``False`` by default, is ``True`` while it runs.
    """

    def wrap(original: Function) -> Function:
        ahead = _tested(before) if before else None
        return timed_call(original, ahead, _tested(after, behind=True), outermost)

    return Patch(target, wrap, own)


def measured(
    target: str,
    series_of: Function,
    *,
    failure_of: Function | None = None,
    detail_of: Function | None = None,
    rewrites: int = 0,
    optional: bool = False,
) -> Patch:
    """Record each call of *target* as a sample of the current unit: what runs often, for least.

    These functions get the call's arguments, as far as *target* gives them a name that may be used
    by position; where it is no plain function, all of them as they came.

    ``series_of(*args)`` runs behind each call, and returns its series. ``failure_of(error, *args)``
    returns the counter of calls that raise; ``detail_of(error, *args)`` what the canonical line
    tells of one, where there is such a line; ``error`` is ``None`` if the call returned.

    Where *rewrites* is the position of an argument, ``series_of`` runs ahead of the call instead,
    and returns two things: what to pass on as that argument, and the series, ``None`` for no
    sample.

    *optional* says that only newer versions of the library have *target*.
    """

    def wrap(original: Function) -> Function:
        return measured_call(
            original,
            Measure(
                _tested(series_of),
                _tested(failure_of, behind=True) if failure_of else None,
                _tested(detail_of, behind=True) if detail_of else None,
                rewrites,
            ),
        )

    return Patch(target, wrap, optional=optional)


def noticed(target: str, notice: Function) -> Patch:
    """Run ``notice(args, kwargs)`` ahead of each call of *target*."""
    return Patch(target, lambda original: noticed_call(original, _tested(notice)))


def rewriting(target: str, rewrite: Function) -> Patch:
    """Call *target*, function or coroutine function, with other arguments.

    ``rewrite(args, kwargs)`` returns both anew.
    """

    def wrap(original: Function) -> Function:
        change = _tested(rewrite)

        def changed(args: Any, kwargs: Any) -> Any:
            try:
                return change(args, kwargs)
            except Exception:
                guard.swallow(change)
                return args, kwargs

        @functools.wraps(original)
        def rewritten(*args: Any, **kwargs: Any) -> Any:
            __traceback_hide__ = True
            args, kwargs = changed(args, kwargs)
            return original(*args, **kwargs)

        @functools.wraps(original)
        async def rewritten_coroutine(*args: Any, **kwargs: Any) -> Any:
            __traceback_hide__ = True
            args, kwargs = changed(args, kwargs)
            return await original(*args, **kwargs)

        return rewritten_coroutine if inspect.iscoroutinefunction(original) else rewritten

    return Patch(target, wrap)


def rewriting_argument(target: str, position: int, rewrite: Function) -> Patch:
    """Call *target* with another argument at *position*: ``rewrite(args, kwargs)`` returns it.

    For what is called often: the others are passed on as they came. Where *target* is no plain
    function, or has been replaced by one of any arguments, they are not told apart.
    """

    def rewritten(args: Any, kwargs: Any) -> Any:
        if len(args) <= position:
            return args, kwargs
        return (*args[:position], rewrite(args, kwargs), *args[position + 1 :]), kwargs

    def wrap(original: Function) -> Function:
        try:
            return rewritten_call(original, _tested(rewrite), position)
        except TypeError:
            return rewriting(target, rewritten).wrap(original)

    return Patch(target, wrap)


def amended(target: str, amend: Function) -> Patch:
    """Return ``amend(args, kwargs, result)`` in place of the result of *target*."""
    return Patch(target, lambda original: amended_call(original, _tested(amend, behind=True)))


_fault = False
_behind_alone = False


def inject_faults(switched_on: bool, *, behind_alone: bool = False) -> None:
    """Make every observer installed from now on raise: a test of the guard, for tests only.

    Where a ``before`` raises, its ``after`` is never reached, and no unit of work begins. With
    *behind_alone* those raise that run behind the call: ``after``, ``failure_of``, ``detail_of``
    and what amends a result.
    """
    global _fault, _behind_alone
    _fault, _behind_alone = switched_on, behind_alone


def _tested(observer: Function, *, behind: bool = False) -> Function:
    if not _fault or (_behind_alone and not behind):
        return observer

    @functools.wraps(observer)
    def faulty(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("INTROSPECT_TEST_FAULT is set")

    return faulty


class _Applied(NamedTuple):
    owner: Any
    name: str
    original: Any
    own: bool  # the owner had the attribute itself, it was not inherited
    replacement: Any


_applied: dict[Patch, _Applied] = {}
_status: dict[str, str] = {}


def apply(patches: Iterable[Patch]) -> None:
    """Apply each patch now if its module is imported, else when it is."""
    for patch in patches:
        _status.setdefault(patch.target, WAITING)
        imports.when_imported(patch.module, functools.partial(_apply_to, patch))


def status() -> dict[str, str]:
    """For each target: ``applied``, ``waiting``, ``inherited``, ``absent`` or ``failed: …``."""
    return dict(_status)


def undo_all() -> None:
    """Restore every replaced attribute that still is ours, newest first; twice is harmless.

    Where somebody else has wrapped our replacement since, theirs stays: it belongs to them.
    """
    imports.forget()
    while _applied:
        _, patch = _applied.popitem()
        if patch.owner.__dict__.get(patch.name) is not patch.replacement:
            continue
        if patch.own:
            setattr(patch.owner, patch.name, patch.original)
        else:
            delattr(patch.owner, patch.name)
    _status.clear()


def _apply_to(patch: Patch, module: ModuleType) -> None:
    if patch in _applied:
        return
    try:
        _status[patch.target] = _replace(patch, module)
    except Exception as error:
        _status[patch.target] = f"failed: {type(error).__name__}: {error}"
        raise


def _replace(patch: Patch, module: ModuleType) -> str:
    *path, name = patch.attribute.split(".")
    owner: Any = module
    for step in path:
        owner = getattr(owner, step, None)
    if owner is None or not hasattr(owner, name):
        return ABSENT  # another version of the library; `introspect check` says so
    # Through __dict__, since getattr would bind a static or class method to its class.
    own = name in owner.__dict__
    if patch.own and not own:
        return INHERITED
    original = owner.__dict__[name] if own else getattr(owner, name)
    replacement = _replacement(patch, owner, original)
    setattr(owner, name, replacement)
    _applied[patch] = _Applied(owner, name, original, own, replacement)
    return APPLIED


def _replacement(patch: Patch, owner: Any, original: Any) -> Any:
    if type(original) is FunctionType:
        return patch.wrap(original)
    if isinstance(owner, type) and _is_wrapped_method(original):
        return patch.wrap(_unbound(original))
    # Static and class methods, C functions, callable objects: wrapt keeps their binding right.
    # It costs a microsecond more a call, so plain functions do without.
    import wrapt

    def call_wrapped(wrapped: Function, _instance: Any, args: Any, kwargs: Any) -> Any:
        return patch.wrap(wrapped)(*args, **kwargs)

    return wrapt.FunctionWrapper(original, call_wrapped)


def _is_wrapped_method(original: Any) -> bool:
    """Tell whether somebody else has put a descriptor (wrapt's, say) in a plain method's place."""
    return (
        not isinstance(original, (staticmethod, classmethod))
        and hasattr(type(original), "__get__")
        and type(inspect.unwrap(original)) is FunctionType
    )


def _unbound(original: Any) -> Function:
    """Return a plain function that calls the method of its first argument that *original* is."""

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        __traceback_hide__ = True
        return original.__get__(args[0], type(args[0]))(*args[1:], **kwargs)

    return method
