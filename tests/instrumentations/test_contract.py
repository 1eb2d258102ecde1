"""Every instrumentation found in the folder keeps the contract; what is asserted comes from its PATCHES."""

from __future__ import annotations

import ast
import asyncio
import functools
import importlib
import importlib.util
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django import VERSION

from introspect import instrumentations
from introspect.agent import emitter, guard, patching, settings, work, wrappers
from introspect.agent.patching import ABSENT, APPLIED, INHERITED, WAITING, Patch
from tests.helpers.processes import clean_environment
from tests.instrumentations.contract_scenario import is_installed

NAMES = instrumentations.names()
SCENARIO = Path(__file__).with_name("contract_scenario.py")


def patches_of(name: str) -> list[Patch]:
    """Return all that an instrumentation may replace, also in the place of one that is disabled."""
    module = instrumentations.load(name)
    if not hasattr(module, "patches"):
        return list(module.PATCHES)
    alone, _ = settings.read({"INTROSPECT_DISABLE": ",".join({*NAMES} - {name})})
    return [*module.PATCHES, *(p for p in module.patches(alone) if p not in module.PATCHES)]


@functools.cache
def defined_in(module: str) -> frozenset[str]:
    """Return `Class.method` for all that a module's source defines: to be imported it may want settings."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return frozenset(
        f"{owner.name}.{found.name}"
        for owner in ast.parse(Path(spec.origin).read_text()).body
        if isinstance(owner, ast.ClassDef)
        for found in owner.body
        if isinstance(found, (ast.FunctionDef, ast.AsyncFunctionDef))
    )


def is_there(patch: Patch) -> bool:
    """Tell whether there is here what the patch would replace; what is inherited is another's to patch."""
    return is_installed(patch.module) and (
        not (patch.own or patch.optional) or patch.attribute in defined_in(patch.module)
    )


every_instrumentation = pytest.mark.parametrize("name", NAMES)
every_patch = pytest.mark.parametrize(
    "patch",
    [
        pytest.param(patch, id=f"{name}-{patch.module.split('.')[-1]}.{patch.attribute}")
        for name in NAMES
        for patch in patches_of(name)
        if is_there(patch)
    ],
)


@functools.cache
def in_fresh_interpreter(scenario: str, name: str, **environment: str) -> dict[str, Any]:
    """Run one function of `contract_scenario.py` and return what it found."""
    done = subprocess.run(
        [sys.executable, str(SCENARIO), scenario, name],
        env=clean_environment(INTROSPECT_STATSD="off", **environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "stderr": done.stderr}


def owner_of(patch: Patch) -> tuple[Any, str]:
    """Return the class or module that has the attribute, and the attribute's last name."""
    *path, name = patch.attribute.split(".")
    # Django's databases import its models, which import its databases: that goes this way only.
    importlib.import_module("django.db.models")
    return functools.reduce(getattr, path, importlib.import_module(patch.module)), name


def original_of(patch: Patch) -> Any:
    """Return what the library itself has there, as it stands in the owner's dictionary."""
    owner, name = owner_of(patch)
    return owner.__dict__.get(name, getattr(owner, name))


@pytest.fixture(autouse=True)
def _configured(_django: None) -> None:
    """Let there be settings of Django's: some libraries want them when they are imported."""


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """One entry for each exception that the guard has swallowed during the test."""
    counted: list[str] = []
    guard.configure(debug=False, on_error=lambda: counted.append("swallowed"))
    yield counted
    guard.configure(debug=False, on_error=work.count_error)


@every_instrumentation
def test_declares_what_the_tables_need(name: str) -> None:
    """It has a docstring and something to do, and each patch names a module and an attribute."""
    module = instrumentations.load(name)
    targets = [patch.target for patch in module.PATCHES]

    assert module.__doc__
    assert targets or hasattr(module, "configure")
    assert len(set(module.PATCHES)) == len(module.PATCHES)
    assert all(target.count(":") == 1 and not target.endswith(":") for target in targets)


def test_importing_them_imports_nothing_of_their_libraries() -> None:
    """Instrumentations can be loaded where their libraries are not imported, and leave them so."""
    assert in_fresh_interpreter("load_all", "all")["imported"] == []


# What only newer versions of a library have, and whether the installed one does: an optional target that
# is nowhere, being misspelt, would be absent everywhere, and nobody told.
NEWER = {"django.template.base:PartialTemplate.render": VERSION >= (6, 0)}


def test_all_that_is_optional_is_known() -> None:
    """Each optional target has its line above, which says where it has to be there."""
    patches = [patch for name in NAMES for patch in patches_of(name)]

    assert {patch.target for patch in patches if patch.optional} == set(NEWER)


def expected_status(patch: Patch) -> str:
    """Return what becomes of a patch here, where its library may not be installed, or may be too old."""
    if not is_installed(patch.module):
        return WAITING
    if patch.optional and not NEWER[patch.target]:
        return ABSENT
    owner, attribute = owner_of(patch)
    return INHERITED if patch.own and attribute not in owner.__dict__ else APPLIED


@every_instrumentation
@pytest.mark.parametrize("scenario", ["import_then_patch", "patch_then_import"])
def test_both_orders_patch_once_and_undo_restores_identity(name: str, scenario: str) -> None:
    """Whatever comes first, each target is patched once; undo puts the very objects back, twice too."""
    found = in_fresh_interpreter(scenario, name)

    expected = {p.target: expected_status(p) for p in instrumentations.load(name).PATCHES}
    applied = [
        p.target for p in instrumentations.load(name).PATCHES if expected[p.target] == APPLIED
    ]
    present = [
        p.target
        for p in instrumentations.load(name).PATCHES
        if expected[p.target] not in (WAITING, ABSENT)
    ]
    assert found["status"] == expected
    assert found["replaced"] == applied
    assert found["same_when_applied_again"] == present
    assert found["restored"] == present
    assert found["restored_when_undone_again"] == present
    assert found["applied_after_undo"] == applied
    # Autoreload reads loader, spec and file of each module.
    assert found["import_system"] == found.get("untouched", found["import_system"])
    assert set(found.get("without_attributes", [ABSENT])) <= {ABSENT}
    assert found["stderr"] == ""


@every_instrumentation
def test_no_patch_escapes_the_tests_of_each(name: str) -> None:
    """Whatever is applied is among the patches that each test below runs through: none is left out."""
    status = in_fresh_interpreter("import_then_patch", name)["status"]

    applied = {target for target, what in status.items() if what == APPLIED}
    assert {p.target for p in instrumentations.load(name).PATCHES if is_there(p)} == applied


@every_instrumentation
def test_the_import_system_sees_the_modules_as_ever(name: str) -> None:
    """Loader, spec and file are the same whether we were there before the library or not."""
    before = in_fresh_interpreter("patch_then_import", name)["import_system"]
    behind = in_fresh_interpreter("import_then_patch", name)["untouched"]

    assert before == behind


@every_instrumentation
def test_a_library_that_is_absent_stays_absent(name: str) -> None:
    """Where the library cannot be imported, its import fails as ever, and all patches wait."""
    found = in_fresh_interpreter("library_absent", name)

    patches = instrumentations.load(name).PATCHES
    assert found["status"] == {patch.target: WAITING for patch in patches}
    assert set(found["import_errors"]) <= {"ImportError: blocked by the test"}
    assert bool(found["import_errors"]) == any(is_installed(patch.module) for patch in patches)
    assert found["stderr"] == ""


# One function may serve two instrumentations; where the one is disabled, the other replaces it alone.
STAND_INS = {
    "django_db": {
        "django.db.backends.utils:CursorWrapper._execute",
        "django.db.backends.utils:CursorWrapper._executemany",
    }
}


@every_instrumentation
def test_disabled_by_name(name: str) -> None:
    """INTROSPECT_DISABLE leaves this one out, and only this one."""
    everything = in_fresh_interpreter("started", "all")
    without = in_fresh_interpreter("started", "all", INTROSPECT_DISABLE=name)

    own = {patch.target for patch in instrumentations.load(name).PATCHES} - STAND_INS.get(
        name, set()
    )
    assert own.isdisjoint(without["replaced"])
    assert set(everything["status"]) - set(without["status"]) <= own
    assert own.isdisjoint(without["status"])
    assert set(everything["replaced"]) - own == set(without["replaced"])
    # Settings that are not complete yet must not be read at start-up.
    assert not everything["configured"]


def test_off_is_off() -> None:
    """INTROSPECT_ENABLED=0 patches nothing."""
    found = in_fresh_interpreter("started", "all", INTROSPECT_ENABLED="0")

    assert found["replaced"] == []
    assert found["status"] == {}


@every_patch
def test_the_replacement_looks_like_the_original(patch: Patch) -> None:
    """Name, signature, documentation, attributes and kind (coroutine or not) are the original's."""
    original = original_of(patch)
    replacement = patch.wrap(original)

    assert replacement is not original
    assert replacement.__wrapped__ is original
    assert signature_of(replacement) == signature_of(original)
    assert inspect.iscoroutinefunction(replacement) == inspect.iscoroutinefunction(original)
    for attribute in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(replacement, attribute) == getattr(original, attribute)
    attributes = getattr(original, "__dict__", {})  # a function of C has none
    kept = {key: value for key, value in attributes.items() if key != "__wrapped__"}
    assert kept.items() <= replacement.__dict__.items()


def signature_of(function: Any) -> inspect.Signature | None:
    """Return what `inspect` makes of a function; None where it can make nothing of one of C."""
    try:
        return inspect.signature(function)
    except ValueError:
        return None


def hides_secrets(function: Any) -> bool:
    """Tell whether Django masks the function's variables, or those of what it wraps, on error pages."""
    debug = importlib.import_module("django.views.decorators.debug")
    # Django 5 marks coroutine functions by where they are written, others by a wrapper of this name.
    marked = getattr(debug, "coroutine_functions_to_sensitive_variables", {})
    while function is not None:
        code = getattr(function, "__code__", None)
        if code is not None:
            key = hash(f"{code.co_filename}:{code.co_firstlineno}")
            if code.co_name.startswith("sensitive_") or key in marked:
                return True
        function = getattr(function, "__wrapped__", None)
    return False


def test_what_hides_secrets_is_known() -> None:
    """The test below would find what Django itself masks, and what a site does."""
    auth = importlib.import_module("django.contrib.auth")
    sensitive_variables = importlib.import_module(
        "django.views.decorators.debug"
    ).sensitive_variables

    async def view() -> None:
        """Stand for a coroutine function of a site's."""

    assert hides_secrets(auth.authenticate)
    assert not hides_secrets(view)
    if VERSION >= (5, 0):
        assert hides_secrets(sensitive_variables("secret")(view))


@every_patch
def test_nothing_is_wrapped_that_hides_secrets(patch: Patch) -> None:
    """A frame of ours around Django's `sensitive_variables` would show what it masks."""
    assert not hides_secrets(original_of(patch))


class Probe:
    """Stands for the original function: counts its calls, and returns or raises what the test chose."""

    def __init__(self, patch: Patch, outcome: Any) -> None:
        self.calls: list[tuple[Any, Any]] = []
        self.outcome = outcome

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((args, kwargs))
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return call(*args, **kwargs)

        self.is_async = inspect.iscoroutinefunction(original_of(patch))
        self.patched = patch.wrap(call_async if self.is_async else call)

    def ends_as_the_original(self, *args: Any, **kwargs: Any) -> bool:
        """Call the patched probe, and tell whether the very outcome came out."""
        try:
            result = self.patched(*args, **kwargs)
            if self.is_async:
                result = asyncio.run(result)
        except BaseException as error:
            return error is self.outcome
        return result is self.outcome


OUTCOMES = {
    "returns": object(),
    "returns None": None,
    "raises": ValueError("the application's own"),
    "raises SystemExit": SystemExit(3),
    "raises GeneratorExit": GeneratorExit(),
}

every_outcome = pytest.mark.parametrize(
    "outcome", [pytest.param(value, id=key) for key, value in OUTCOMES.items()]
)


@every_patch
@every_outcome
def test_a_failing_observer_changes_nothing_and_is_counted(
    patch: Patch, outcome: Any, errors: list[str]
) -> None:
    """With INTROSPECT_TEST_FAULT=1 each observer raises: the outcome is the original's, the error counted."""
    patching.inject_faults(True)
    try:
        probe = Probe(patch, outcome)
    finally:
        patching.inject_faults(False)
    argument = object()

    assert probe.ends_as_the_original(argument, key=argument)
    assert probe.calls == [((argument,), {"key": argument})]
    # A patch that amends results has nothing to do where there is none.
    assert errors or isinstance(outcome, BaseException)


SERIES = emitter.ERRORS.of()


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each patch made has behind its call, which is reached: all ahead of it succeeds."""
    found: list[str] = []

    def timed(original: Any, before: Any, *others: Any) -> Any:
        found.append("after")
        return wrappers.timed_call(original, before and (lambda *_: None), *others)

    def measured(original: Any, measure: wrappers.Measure) -> Any:
        found.extend(name for name in ("failure_of", "detail_of") if getattr(measure, name))
        answer = (None, SERIES) if measure.rewrites else SERIES
        measure = measure._replace(series_of=lambda *_args, **_kwargs: answer)
        return wrappers.measured_call(original, measure)

    def amended(original: Any, amend: Any) -> Any:
        found.append("amend")
        return wrappers.amended_call(original, amend)

    monkeypatch.setattr(patching, "timed_call", timed)
    monkeypatch.setattr(patching, "measured_call", measured)
    monkeypatch.setattr(patching, "amended_call", amended)
    return found


@every_patch
@every_outcome
@pytest.mark.parametrize("detail", [False, True], ids=["", "detail"])
def test_a_failure_behind_the_call_changes_nothing_and_is_counted(
    patch: Patch,
    outcome: Any,
    detail: bool,
    errors: list[str],
    behind: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With INTROSPECT_TEST_FAULT=after those behind the call raise once reached: it ends as ever, they count."""
    monkeypatch.setattr(work, "detail_wanted", detail)
    patching.inject_faults(True, behind_alone=True)
    try:
        probe = Probe(patch, outcome)
    finally:
        patching.inject_faults(False)
    argument = object()
    raises = isinstance(outcome, BaseException)
    reached = {"after": True, "amend": not raises, "failure_of": raises, "detail_of": detail}

    assert probe.ends_as_the_original(argument, key=argument)
    assert probe.calls == [((argument,), {"key": argument})]
    failures = sum(reached[name] for name in behind)
    assert ("INTROSPECT_TEST_FAULT is set" in capsys.readouterr().err) == bool(failures)
    assert not failures or len(errors) == failures


@every_patch
@every_outcome
def test_arguments_that_no_observer_expects_reach_the_original(
    patch: Patch, outcome: Any, errors: list[str]
) -> None:
    """Too few arguments, or none: the original is called with them once, and judges them itself."""
    probe = Probe(patch, outcome)

    assert probe.ends_as_the_original()
    assert probe.ends_as_the_original(None)
    assert probe.calls == [((), {}), ((None,), {})]


def test_undo_leaves_what_somebody_else_has_wrapped_since() -> None:
    """A later agent's wrapper around ours belongs to it, and survives our undo."""
    library = ModuleType("introspect_test_library")
    library.call = lambda: "answer"  # type: ignore[attr-defined]
    sys.modules[library.__name__] = library
    try:
        observed: list[object] = []
        patching.apply(
            (
                patching.timed(
                    f"{library.__name__}:call", after=lambda *details: observed.append(details)
                ),
            )
        )
        ours = library.call
        library.call = theirs = functools.partial(ours)  # type: ignore[attr-defined]
        patching.undo_all()

        assert library.call is theirs
        assert library.call() == "answer"
    finally:
        del sys.modules[library.__name__]
