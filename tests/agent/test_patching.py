"""Replaced functions: the same call, the same answer, observed once, and put back."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import itertools
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import wrapt

from introspect.agent import guard, patching, work, wrappers
from introspect.agent.metrics import Metric
from introspect.agent.patching import (
    amended,
    measured,
    noticed,
    rewriting,
    rewriting_argument,
    timed,
)
from introspect.agent.work import Work
from introspect.agent.wrappers import PASS

NUMBERS = itertools.count()

SOURCE = """
import functools

def function(a, b=2, *args, c=3, **kwargs):
    "The docstring."
    return a, b, args, c, kwargs

def failing():
    raise KeyError("theirs")

async def coroutine(a):
    return a

async def failing_coroutine():
    raise KeyError("theirs")

class Base:
    def inherited(self):
        return "inherited", type(self).__name__

class Thing(Base):
    def method(self, a):
        return self, a

    @staticmethod
    def static(a):
        return a

    @classmethod
    def of_class(cls, a):
        return cls, a

    @classmethod
    async def of_class_coroutine(cls, a):
        return cls, a

    async def coroutine_method(self, a):
        return a

class Child(Thing):
    pass

class Text(str):
    in_c = str.upper

class Callable:
    def __call__(self, a):
        return "called", a

instance = Callable()
partial = functools.partial(max, 5)
builtin = len
"""

Calls = list[tuple[Any, ...]]


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module of functions, not imported yet."""
    name = f"introspect_test_patched_{next(NUMBERS)}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    patching.undo_all()
    sys.modules.pop(name, None)


@pytest.fixture
def calls() -> Calls:
    """What observers have seen."""
    return []


@pytest.fixture
def module(name: str) -> ModuleType:
    """The module, imported."""
    return importlib.import_module(name)


def observer(calls: Calls) -> Callable[..., None]:
    """Return an `after` that notes what it gets."""

    def observed(
        started: float, ended: float, args: Any, kwargs: Any, result: Any, error: Any
    ) -> None:
        calls.append((args, kwargs, result, error, ended - started))

    return observed


TARGETS = (
    "function",
    "Thing.method",
    "Thing.static",
    "Thing.of_class",
    "Thing.inherited",
    "instance",
    "partial",
    "builtin",
    "Text.in_c",
)


def call(module: ModuleType, target: str) -> Any:
    """Call each of TARGETS as an application does."""
    return {
        "function": lambda: module.function(1, 5, 6, c=7, d=8),
        "Thing.method": lambda: module.Child().method(1)[1],
        "Thing.static": lambda: (module.Thing.static(1), module.Thing().static(2)),
        "Thing.of_class": lambda: (module.Child.of_class(1), module.Thing().of_class(2)),
        "Thing.inherited": lambda: (module.Thing().inherited(), module.Base().inherited()),
        "instance": lambda: module.instance(1),
        "partial": lambda: module.partial(3),
        "builtin": lambda: module.builtin([1]),
        "Text.in_c": lambda: module.Text("a").in_c(),
    }[target]()


class TestOrders:
    """Whatever comes first, import or patch, and however often."""

    @pytest.mark.parametrize("target", TARGETS)
    @pytest.mark.parametrize(
        "order", ["import patch", "patch import", "patch patch import", "import patch patch"]
    )
    def test_observed_once(self, name: str, calls: Calls, target: str, order: str) -> None:
        """In every order a call gives what it gave, and is observed once."""
        expected = call(importlib.import_module(name), target)
        original = importlib.import_module(name)
        sys.modules.pop(name)
        patch = timed(f"{name}:{target}", after=observer(calls))
        for step in order.split():
            importlib.import_module(name) if step == "import" else patching.apply([patch])
        module = importlib.import_module(name)
        result = call(module, target)

        assert patching.status() == {f"{name}:{target}": "applied"}
        assert repr(result).replace(repr(module), "") == repr(expected).replace(repr(original), "")
        assert len(calls) == (2 if target in ("Thing.static", "Thing.of_class") else 1)

    @pytest.mark.parametrize("target", TARGETS)
    def test_undo(self, module: ModuleType, calls: Calls, target: str) -> None:
        """Undone, once or twice, the attribute is the very object that it was."""
        before = {
            key: dict(vars(value)) for key, value in vars(module).items() if isinstance(value, type)
        }
        top = dict(vars(module))
        patching.apply([timed(f"{module.__name__}:{target}", after=observer(calls))])
        for _ in range(2):
            patching.undo_all()
            after = {
                key: dict(vars(value))
                for key, value in vars(module).items()
                if isinstance(value, type)
            }

            assert after == before
            assert vars(module) == top
        call(module, target)
        assert calls == []

    def test_patched_again_after_undo(self, module: ModuleType, calls: Calls) -> None:
        """After an undo a patch may be applied again."""
        patch = timed(f"{module.__name__}:function", after=observer(calls))
        patching.apply([patch])
        patching.undo_all()
        patching.apply([patch])
        module.function(1)

        assert len(calls) == 1

    def test_undone_before_the_import(self, name: str, calls: Calls) -> None:
        """A patch that was undone before its module came is not applied."""
        patching.apply([timed(f"{name}:function", after=observer(calls))])
        patching.undo_all()
        importlib.import_module(name).function(1)

        assert calls == []

    def test_wrapped_by_somebody_else(self, module: ModuleType, calls: Calls) -> None:
        """Where somebody has wrapped our replacement since, theirs stays."""
        patching.apply([timed(f"{module.__name__}:function", after=observer(calls))])
        ours = module.function

        @functools.wraps(ours)
        def theirs(*args: Any, **kwargs: Any) -> Any:
            return "theirs", ours(*args, **kwargs)

        module.function = theirs
        patching.undo_all()

        assert module.function is theirs
        assert module.function(1)[0] == "theirs"

    def test_absent(self, module: ModuleType, calls: Calls) -> None:
        """An attribute that another version of the library lacks is passed over, and told of."""
        targets = [f"{module.__name__}:nothing", f"{module.__name__}:No.thing"]
        patching.apply([timed(target, after=observer(calls)) for target in targets])

        assert patching.status() == dict.fromkeys(targets, "absent")

    def test_waiting(self, name: str, calls: Calls) -> None:
        """A library that is not imported is waited for."""
        patching.apply([timed(f"{name}:function", after=observer(calls))])

        assert patching.status() == {f"{name}:function": "waiting"}
        assert name not in sys.modules

    def test_failed(self, module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
        """A patch that cannot be made is told of, and the attribute stays as it is."""

        def impossible(_original: Any) -> Any:
            raise TypeError("impossible")

        before = module.function
        patching.apply([patching.Patch(f"{module.__name__}:function", impossible)])

        assert module.function is before
        assert patching.status() == {f"{module.__name__}:function": "failed: TypeError: impossible"}
        assert "TypeError: impossible" in capsys.readouterr().err

    def test_own_only(self, module: ModuleType, calls: Calls) -> None:
        """A patch of a class's own attribute leaves an inherited one alone."""
        patching.apply(
            [timed(f"{module.__name__}:Thing.inherited", after=observer(calls), own=True)]
        )

        assert "inherited" not in vars(module.Thing)


class TestCalls:
    """What one call is."""

    def test_what_an_observer_gets(self, module: ModuleType, calls: Calls) -> None:
        """It gets times, arguments, those left out by their defaults, result and error."""
        patching.apply([timed(f"{module.__name__}:function", after=observer(calls))])
        module.function(1, c=4)
        ((args, kwargs, result, error, seconds),) = calls

        assert (args, kwargs, error) == ((1, 2), {"c": 4}, None)
        assert result == (1, 2, (), 4, {})
        assert 0 <= seconds < 1

    def test_before(self, module: ModuleType) -> None:
        """What `before` returns is handed to `after`; PASS lets the call through unobserved."""
        seen: list[Any] = []
        patching.apply(
            [
                timed(
                    f"{module.__name__}:function",
                    before=lambda args, _kwargs: PASS if args[0] == 0 else args[0],
                    after=lambda token, *_: seen.append(token),
                )
            ]
        )
        results = [module.function(n)[0] for n in range(3)]

        assert results == [0, 1, 2]
        assert seen == [1, 2]

    def test_looks_like_the_original(self, module: ModuleType, calls: Calls) -> None:
        """Name, docstring, signature and attributes are the original's."""
        module.function.mark = "theirs"
        original = inspect.signature(module.function)
        patching.apply([timed(f"{module.__name__}:function", after=observer(calls))])

        assert module.function.__name__ == "function"
        assert module.function.__module__ == module.__name__
        assert module.function.__doc__ == "The docstring."
        assert inspect.signature(module.function) == original
        assert module.function.mark == "theirs"

    @pytest.mark.parametrize("before", [None, lambda _args, _kwargs: "token"])
    def test_exception_passes_unchanged(self, module: ModuleType, before: Any) -> None:
        """An exception of theirs is the same object, with its own traceback and none of our frames in Django's pages."""
        errors: list[Any] = []
        patch = timed(
            f"{module.__name__}:failing", before=before, after=lambda *args: errors.append(args[-1])
        )
        patching.apply([patch])
        with pytest.raises(KeyError, match="theirs") as caught:
            module.failing()
        frames = [frame for frame, _ in traceback.walk_tb(caught.tb)]
        ours = [frame for frame in frames if frame.f_code.co_filename == wrappers.FILE_NAME]

        assert errors == [caught.value]
        assert caught.value.__context__ is None
        assert ours
        assert all(frame.f_locals.get("__traceback_hide__") for frame in ours)

    def test_interruptions_pass(self, module: ModuleType, calls: Calls) -> None:
        """SystemExit and KeyboardInterrupt pass like any other."""
        patching.apply([timed(f"{module.__name__}:builtin", after=observer(calls))])

        class Stopping:
            def __len__(self) -> int:
                raise SystemExit(3)

        with pytest.raises(SystemExit):
            module.builtin(Stopping())
        assert isinstance(calls[0][3], SystemExit)

    def test_noticed(self, module: ModuleType) -> None:
        """`noticed` runs ahead of the call, and sees defaults as arguments."""
        seen: list[Any] = []
        patching.apply(
            [noticed(f"{module.__name__}:function", lambda args, _kwargs: seen.append(args))]
        )

        assert module.function(1)[0] == 1
        assert seen == [(1, 2)]

    def test_rewriting(self, module: ModuleType) -> None:
        """`rewriting` calls with other arguments."""
        patch = rewriting(
            f"{module.__name__}:function", lambda args, kwargs: ((args[0] + 1,), {**kwargs, "c": 9})
        )
        patching.apply([patch])

        assert module.function(1) == (2, 2, (), 9, {})

    def test_amended(self, module: ModuleType) -> None:
        """`amended` returns something else."""
        patching.apply([amended(f"{module.__name__}:function", lambda _a, _k, result: result[0])])

        assert module.function(1) == 1


class TestMeasured:
    """Calls that are samples of the current unit."""

    @pytest.fixture
    def unit(self) -> Work:
        """A current unit of work."""
        unit = Work()
        work.current.set(unit)
        return unit

    @pytest.fixture
    def series(self, declare: Callable[..., Metric]) -> Any:
        """What calls count as, by the first argument."""
        return declare("call", "timer", "argument").series

    def samples(self, unit: Work) -> list[tuple[Any, ...]]:
        """Return the tags, times and details of all samples of `unit`."""
        return [
            (timer.values[0], ended - started, detail)
            for timer, started, ended, detail in zip(*[iter(unit._held)] * 4, strict=True)
        ]

    def test_a_sample_for_each_call(self, module: ModuleType, unit: Work, series: Any) -> None:
        """Each call is one sample of the series that its arguments, defaults included, make."""
        target = f"{module.__name__}:function"
        patching.apply([measured(target, lambda a, b: series[(f"{a}-{b}",)])])

        assert module.function(1, c=4) == (1, 2, (), 4, {})
        assert module.function(1, 5, 6, c=7, d=8) == (1, 5, (6,), 7, {"d": 8})
        assert [sample[0] for sample in self.samples(unit)] == ["1-2", "1-5"]
        assert all(0 <= seconds < 1 for _, seconds, _ in self.samples(unit))

    @pytest.mark.parametrize("target", ["failing", "failing_coroutine"])
    def test_a_call_that_fails(
        self,
        module: ModuleType,
        unit: Work,
        series: Any,
        declare: Callable[..., Metric],
        target: str,
    ) -> None:
        """It is a sample, too, and counted as what its exception says; the exception is theirs."""
        failures = declare("failure", "counter", "class").series
        patching.apply(
            [
                measured(
                    f"{module.__name__}:{target}",
                    lambda *_: series[("failing",)],
                    failure_of=lambda error, *_: failures[(type(error).__name__,)],
                )
            ]
        )
        with pytest.raises(KeyError, match="theirs"):
            asyncio.run(as_coroutine(getattr(module, target)))

        assert [sample[0] for sample in self.samples(unit)] == ["failing"]
        assert unit._ready == [failures[("KeyError",)], 1]

    def test_details_are_for_lines(self, module: ModuleType, unit: Work, series: Any) -> None:
        """What a line would tell of a call is asked for where there are lines, and only there."""
        patch = measured(
            f"{module.__name__}:function",
            lambda a, b: series[(str(a),)],
            detail_of=lambda error, a, b: (error, a, b),
        )
        patching.apply([patch])
        module.function(1)
        patching.undo_all()
        work.configure(lambda *_: None)
        patching.apply([patch])
        module.function(2)

        assert [sample[2] for sample in self.samples(unit)] == [None, (None, 2, 2)]

    def test_a_failing_call_whose_detail_fails(
        self,
        module: ModuleType,
        unit: Work,
        series: Any,
        declare: Callable[..., Metric],
    ) -> None:
        """A call that raises is a sample and a failure, though nothing can be told of it."""
        failures = declare("failure", "counter", "class").series
        work.configure(lambda *_: None)
        errors: list[int] = []
        guard.configure(debug=False, on_error=lambda: errors.append(1))
        patching.apply(
            [
                measured(
                    f"{module.__name__}:failing",
                    lambda *_: series[("failing",)],
                    failure_of=lambda error, *_: failures[(type(error).__name__,)],
                    detail_of=lambda *_: 1 / 0,
                )
            ]
        )
        with pytest.raises(KeyError, match="theirs"):
            module.failing()

        assert self.samples(unit) == [("failing", pytest.approx(0, abs=1), None)]
        assert unit._ready == [failures[("KeyError",)], 1]
        assert errors == [1]

    def test_an_argument_is_rewritten(self, module: ModuleType, unit: Work, series: Any) -> None:
        """The argument goes on as what was returned for it; without a series there is no sample."""

        def ahead(a: Any, b: Any) -> Any:
            return b * 10, series[(str(b),)] if b != 3 else None

        patching.apply([measured(f"{module.__name__}:function", ahead, rewrites=1)])

        assert module.function(1, 4, 5, d=6) == (1, 40, (5,), 3, {"d": 6})
        assert module.function(1, b=3) == (1, 30, (), 3, {})
        assert [sample[0] for sample in self.samples(unit)] == ["4"]

    def test_a_name_inside_another(self, module: ModuleType, unit: Work, series: Any) -> None:
        """The argument that is rewritten is that one, also where an earlier one's name ends alike."""

        def named(my_sql: str, sql: str, *rest: str) -> tuple[str, ...]:
            return my_sql, sql, *rest

        module.named = named
        patching.apply(
            [
                measured(
                    f"{module.__name__}:named",
                    lambda _mine, sql: (f"-- {sql}", series[(sql,)]),
                    rewrites=1,
                )
            ]
        )

        assert module.named("a", "b", "c") == ("a", "-- b", "c")

    def test_a_function_of_any_arguments(self, module: ModuleType, unit: Work, series: Any) -> None:
        """Where somebody else's wrapper has hidden the parameters, all is as it would be."""
        original = module.function

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return original(*args, **kwargs)

        def ahead(a: Any, b: Any = 2, **_others: Any) -> Any:
            return b * 10, series[(str(b),)]

        module.function = wrapped
        patching.apply([measured(f"{module.__name__}:function", ahead, rewrites=1)])

        assert module.function(1, 4, c=5) == (1, 40, (), 5, {})
        assert module.function(1, b=4) == (1, 4, (), 3, {})
        assert [sample[0] for sample in self.samples(unit)] == ["4", "4"]

    def test_a_method_that_wrapt_has_wrapped(
        self, module: ModuleType, unit: Work, series: Any
    ) -> None:
        """Observers get the object first, as ever, and so does whoever has wrapped the method."""
        seen: list[Any] = []

        def theirs(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            seen.append(instance)
            return wrapped(*args, **kwargs)

        wrapt.wrap_function_wrapper(module, "Thing.method", theirs)
        patching.apply(
            [
                measured(
                    f"{module.__name__}:Thing.method",
                    lambda thing, a: (a * 10, series[(type(thing).__name__,)]),
                    rewrites=1,
                )
            ]
        )
        child = module.Child()

        assert child.method(4) == (child, 40)
        assert module.Thing.method(child, 5) == (child, 50)
        assert seen == [child, child]
        assert [sample[0] for sample in self.samples(unit)] == ["Child", "Child"]

    @pytest.mark.parametrize("rewrites", [0, 1])
    def test_an_observer_that_fails(
        self, module: ModuleType, unit: Work, capsys: pytest.CaptureFixture[str], rewrites: int
    ) -> None:
        """The call goes on with its own arguments, and the sample alone is lost."""

        def faulty(*_args: Any) -> Any:
            raise RuntimeError("of ours")

        patching.apply([measured(f"{module.__name__}:function", faulty, rewrites=rewrites)])

        assert module.function(1, c=4) == (1, 2, (), 4, {})
        assert self.samples(unit) == []
        assert "failed with RuntimeError: of ours" in capsys.readouterr().err

    def test_more_than_a_unit_holds(self, module: ModuleType, unit: Work, series: Any) -> None:
        """A unit of very many calls sends as it goes."""
        patching.apply([measured(f"{module.__name__}:function", lambda a, b: series[(str(a),)])])
        for _ in range(3 * work.SAMPLES_HELD):
            module.function(1)

        assert len(unit._held) <= work.ITEMS_HELD + work.SAMPLE_ITEMS


async def as_coroutine(function: Callable[[], Any]) -> Any:
    """Call a function, or await a coroutine function."""
    result = function()
    return await result if inspect.isawaitable(result) else result


class TestCoroutines:
    """Coroutine functions stay coroutine functions."""

    def test_kind(self, module: ModuleType, calls: Calls) -> None:
        """They are still known as such, which decides how Django and servers call them."""
        targets = ("coroutine", "Thing.coroutine_method", "Thing.of_class_coroutine")
        patching.apply(
            [timed(f"{module.__name__}:{target}", after=observer(calls)) for target in targets]
        )

        assert inspect.iscoroutinefunction(module.coroutine)
        assert inspect.iscoroutinefunction(module.Thing().coroutine_method)
        assert inspect.iscoroutinefunction(module.Thing.of_class_coroutine)
        assert asyncio.run(module.coroutine(4)) == 4
        assert asyncio.run(module.Thing().coroutine_method(a=4)) == 4
        assert asyncio.run(module.Child.of_class_coroutine(4)) == (module.Child, 4)
        assert [row[2] for row in calls] == [4, 4, (module.Child, 4)]

    def test_rewriting(self, module: ModuleType) -> None:
        """`rewriting` awaits them with other arguments."""
        patching.apply(
            [
                rewriting(
                    f"{module.__name__}:coroutine", lambda args, kwargs: ((args[0] + 1,), kwargs)
                ),
                rewriting(
                    f"{module.__name__}:Thing.coroutine_method",
                    lambda args, kwargs: ((args[0], args[1] + 1), kwargs),
                ),
            ]
        )
        method = module.Thing().coroutine_method

        assert inspect.iscoroutinefunction(module.coroutine)
        assert inspect.iscoroutinefunction(method)
        assert asyncio.run(module.coroutine(4)) == 5
        assert asyncio.run(method(4)) == 5

    def test_functions_stay_functions(self, module: ModuleType, calls: Calls) -> None:
        """And no function becomes one."""
        patching.apply([timed(f"{module.__name__}:function", after=observer(calls))])

        assert not inspect.iscoroutinefunction(module.function)

    def test_time_is_that_of_the_whole(self, module: ModuleType, calls: Calls) -> None:
        """The time is what passes until the coroutine has ended, not until it was made."""

        async def slow(a: Any) -> Any:
            await asyncio.sleep(0.05)
            return a

        module.coroutine = slow
        patching.apply([timed(f"{module.__name__}:coroutine", after=observer(calls))])
        made = module.coroutine(1)
        assert calls == []
        asyncio.run(made)

        assert calls[0][4] >= 0.05

    @pytest.mark.parametrize("before", [None, lambda _args, _kwargs: "token"])
    def test_exception(self, module: ModuleType, before: Any) -> None:
        """An exception passes unchanged, a cancellation as well."""
        errors: list[Any] = []
        target = f"{module.__name__}:failing_coroutine"
        patching.apply([timed(target, before=before, after=lambda *args: errors.append(args[-1]))])
        with pytest.raises(KeyError, match="theirs") as caught:
            asyncio.run(module.failing_coroutine())

        assert errors == [caught.value]

    def test_parameters_of_any_name(self, module: ModuleType, calls: Calls) -> None:
        """A parameter may be called as anything of ours is."""

        async def named(call: int, original: int) -> int:
            return call + original

        module.coroutine = named
        patching.apply([timed(f"{module.__name__}:coroutine", after=observer(calls))])

        assert asyncio.run(module.coroutine(1, original=2)) == 3


class TestFaults:
    """An observer that fails costs a measurement."""

    def patches(self, module: ModuleType, faulty: Callable[..., Any]) -> list[patching.Patch]:
        """Return a patch of each kind, whose observer is faulty."""
        target = f"{module.__name__}:function"
        return [
            timed(target, after=faulty),
            timed(target, before=faulty, after=faulty),
            timed(target, before=lambda *_: 1, after=faulty),
            noticed(target, faulty),
            rewriting(target, faulty),
            amended(target, faulty),
        ]

    @pytest.mark.parametrize("kind", range(6))
    @pytest.mark.parametrize("injected", [False, True])
    def test_faulty_observer(self, module: ModuleType, kind: int, injected: bool) -> None:
        """The call gives what it gave, and the error is counted."""

        def faulty(*_args: Any) -> Any:
            raise RuntimeError("of ours")

        counted: list[int] = []
        guard.configure(debug=False, on_error=lambda: counted.append(1))
        patching.inject_faults(injected)
        patching.apply([self.patches(module, faulty)[kind]])

        assert module.function(1, c=4) == (1, 2, (), 4, {})
        assert len(counted) == 1

    def test_faults_behind_the_call_alone(self, module: ModuleType) -> None:
        """What runs ahead of a call does so as ever, and each that runs behind it fails once."""
        target = f"{module.__name__}:function"
        ahead: list[str] = []
        counted: list[int] = []
        guard.configure(debug=False, on_error=lambda: counted.append(1))
        patching.inject_faults(True, behind_alone=True)
        patches = [
            timed(target, before=lambda *_: ahead.append("before"), after=lambda *_: None),
            timed(target, after=lambda *_: None),
            noticed(target, lambda *_: ahead.append("notice")),
            rewriting(target, lambda args, kwargs: ((args[0] + 1,), kwargs)),
            rewriting_argument(target, 1, lambda args, _kwargs: args[1] * 10),
            amended(target, lambda *_: "ours"),
        ]
        errors = []
        for patch in patches:
            counted.clear()
            patching.apply([patch])
            errors.append((module.function(1, c=4)[:2], len(counted)))
            patching.undo_all()

        assert ahead == ["before", "notice"]
        assert errors == [
            ((1, 2), 1),
            ((1, 2), 1),
            ((1, 2), 0),
            ((2, 2), 0),
            ((1, 20), 0),
            ((1, 2), 1),
        ]

    @pytest.mark.parametrize("rewrites", [0, 1])
    @pytest.mark.parametrize("lines", [False, True])
    def test_faults_behind_a_measured_call(
        self, module: ModuleType, declare: Callable[..., Metric], lines: bool, rewrites: int
    ) -> None:
        """A detail or a failure that cannot be told costs that; result and exception are theirs."""
        series = declare("call", "timer").of()

        def failing(a: Any, b: Any) -> Any:
            raise KeyError("theirs", a, b)

        module.failing = failing
        counted: list[int] = []
        guard.configure(debug=False, on_error=lambda: counted.append(1))
        work.configure((lambda *_: None) if lines else None)
        patching.inject_faults(True, behind_alone=True)
        patching.apply(
            measured(
                f"{module.__name__}:{name}",
                lambda _a, b: (b * 10, series) if rewrites else series,
                failure_of=lambda *_: series,
                detail_of=lambda *_: None,
                rewrites=rewrites,
            )
            for name in ("function", "failing")
        )
        passed = 20 if rewrites else 2

        assert module.function(1) == (1, passed, (), 3, {})
        assert len(counted) == (1 if lines else 0)
        with pytest.raises(KeyError) as caught:
            module.failing(1, 2)
        assert caught.value.args == ("theirs", 1, passed)
        assert caught.value.__context__ is None
        assert len(counted) == (3 if lines else 1)

    @pytest.mark.parametrize("target", ["failing", "failing_coroutine"])
    def test_faulty_observer_of_a_failing_call(self, module: ModuleType, target: str) -> None:
        """Their exception is still the one that is raised."""

        def faulty(*_args: Any) -> Any:
            raise RuntimeError("of ours")

        guard.configure(debug=False)
        patching.apply([timed(f"{module.__name__}:{target}", after=faulty)])

        async def call() -> None:
            await getattr(module, target)()

        with pytest.raises(KeyError, match="theirs"):
            asyncio.run(call())


def test_plain_functions_get_no_proxy(module: ModuleType) -> None:
    """A wrapped plain function is a plain function, which costs a quarter of wrapt's wrapper."""
    patching.apply([timed(f"{module.__name__}:Thing.method", after=lambda *_: None)])

    assert inspect.isfunction(vars(module.Thing)["method"])


DEFAULT = object()


class Signatures:
    """Methods of every kind of signature; each returns what it got."""

    def plain(self, a: object, b: object) -> object:
        """Take two."""
        return a, b

    def default(self, a: object, b: object = DEFAULT, c: object = None) -> object:
        """Take one to three."""
        return a, b, c

    def positional(self, a: object, /, b: object = 2) -> object:
        """Take the first by position alone."""
        return a, b

    def keyword(self, a: object, *, b: object = 2) -> object:
        """Take the second by keyword alone."""
        return a, b

    def anything(self, *args: object, **kwargs: object) -> object:
        """Take what there is."""
        return args, kwargs

    def required(self, a: object = 1, *, b: object, d: object = DEFAULT) -> object:
        """Take one by keyword that must be there."""
        return a, b, d

    def rest(self, a: object, *others: object, b: object = 2, **more: object) -> object:
        """Take some by name, and what else there is."""
        return a, others, b, more

    def keywords(self, a: object, /, b: object = DEFAULT, **more: object) -> object:
        """Take what else comes by keyword, names of the other parameters included."""
        return a, b, more

    def private(self, _result: object, _started: object = 1) -> object:
        """Have parameters of names that the wrapper uses."""
        return _result, _started

    async def waits(self, a: object, b: object = DEFAULT) -> object:
        """Take them later."""
        return a, b


KINDS = {
    "behind": timed("x:y", after=lambda *_: None),
    "around": timed("x:y", before=lambda _args, _kwargs: None, after=lambda *_: None),
    "passed": timed("x:y", before=lambda _args, _kwargs: PASS, after=lambda *_: None),
    "noticed": noticed("x:y", lambda _args, _kwargs: None),
    "amended": amended("x:y", lambda _args, _kwargs, result: result),
    "rewriting_argument": rewriting_argument("x:y", 1, lambda args, _kwargs: args[1]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in vars(Signatures) if name[0] != "_"])
def test_a_replacement_takes_what_the_original_took(name: str, kind: str) -> None:
    """By position, by keyword and by default, results and complaints are those of the original."""
    original = getattr(Signatures, name)
    replaced = KINDS[kind].wrap(original)
    thing = Signatures()

    def outcome(function: Any, args: Any, kwargs: Any) -> object:
        try:
            found = function(thing, *args, **kwargs)
            return asyncio.run(found) if inspect.iscoroutine(found) else found
        except TypeError as error:
            return str(error)

    for args in ((), (1,), (1, 2), (1, 2, 3, 4)):
        for kwargs in ({}, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}, {"b": 2, "d": 4}, {"_result": 5}):
            assert outcome(replaced, args, kwargs) == outcome(original, args, kwargs)
    assert inspect.signature(replaced) == inspect.signature(original)
    assert inspect.iscoroutinefunction(replaced) == inspect.iscoroutinefunction(original)
