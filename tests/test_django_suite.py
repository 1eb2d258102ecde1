"""The comparison of Django's own tests tells what went otherwise with the agent, and fails then."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import django_suite
from tests.django_suite import DEFAULTS, HEADER_TESTS, NO_HEADER, PLAIN, Outcomes

WAYS = (PLAIN, DEFAULTS, NO_HEADER)
ALIKE = {"cache.tests.A.test_a": "passed", "cache.tests.A.test_b": "skipped"}
HEADER_TEST = min(HEADER_TESTS)

# What one way of running them may have otherwise, and what stands in the report of it.
DEVIATIONS = {
    "differing": ({**ALIKE, "cache.tests.A.test_b": "failures"}, "cache.tests.A.test_b"),
    "missing": ({"cache.tests.A.test_a": "passed"}, "cache.tests.A.test_b"),
    "additional": ({**ALIKE, "cache.tests.A.test_c": "passed"}, "cache.tests.A.test_c"),
    "additional subtest": (
        {**ALIKE, "cache.tests.A.test_b (x=1)": "failures"},
        "cache.tests.A.test_b (x=1)",
    ),
}

every_deviation = pytest.mark.parametrize("deviation", DEVIATIONS)
every_way = pytest.mark.parametrize("way", WAYS)


def recordings(**deviating: Outcomes) -> dict[str, Outcomes]:
    """Return the outcomes of all ways, alike but for those given."""
    return {way: dict(deviating.get(way, ALIKE)) for way in WAYS}


def test_all_alike_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    """Recordings that agree are counted, nothing is named, and the status is 0."""
    assert django_suite.different(recordings()) == []
    assert django_suite.report(recordings(), 2) == 0
    assert capsys.readouterr().out == "2 of Django's tests compared, 0 differ\n"


@every_deviation
@every_way
def test_a_deviation_is_named_and_is_status_1(
    deviation: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A test that differs, is missing or is additional in any one way is reported, and nothing else is."""
    deviating, name = DEVIATIONS[deviation]
    outcomes = recordings(**{way: deviating})

    assert django_suite.different(outcomes) == [name]
    assert django_suite.report(outcomes, 3) == 1
    told = ", ".join(f"{each}: {outcomes[each].get(name)}" for each in WAYS)
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: {told}",
        "3 of Django's tests compared, 1 differ",
    ]


def test_the_header_is_excused_where_it_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """A test of all headers may fail where our header is added, and is named then; nowhere else."""
    passed, failed = {HEADER_TEST: "passed"}, {HEADER_TEST: "failures"}
    excused = {PLAIN: passed, DEFAULTS: failed, NO_HEADER: passed}
    not_excused = {PLAIN: passed, DEFAULTS: failed, NO_HEADER: failed}

    assert django_suite.report(excused, 1) == 0
    assert f"compared without it: {HEADER_TEST}\n" in capsys.readouterr().out
    assert django_suite.report(not_excused, 1) == 1


class Listener(SimpleNamespace):
    """Stands for the StatsD server: what `main` asks it is how much has arrived."""

    address = "udp://127.0.0.1:9"
    malformed: tuple[str, ...] = ()
    lines = ("one",)

    def close(self) -> None:
        """Have nothing to close."""


class Runs:
    """Stands for Django's tests: `first`, and `again` when they are asked for once more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lines: tuple[str, ...] = ("one",)) -> None:
        self.first, self.again = recordings(), recordings()
        self.asked: list[tuple[str, list[str]]] = []
        monkeypatch.setattr(django_suite, "django_source", lambda: Path("nowhere"))
        monkeypatch.setattr(django_suite, "StatsdListener", lambda: Listener(lines=lines))
        monkeypatch.setattr(django_suite, "run", self.run)

    def run(
        self, _source: Path, modules: list[str], launcher: list[str], _env: object, way: str
    ) -> Outcomes:
        """Return the outcomes of one way; the agent is there in all but the plain one."""
        assert bool(launcher) == (way != PLAIN)
        self.asked.append((way, modules))
        return (self.first if len(self.asked) <= len(WAYS) else self.again)[way]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Let no test of Django's run."""
    return Runs(monkeypatch)


@every_deviation
def test_a_deviation_that_repeats_itself_fails_the_whole(deviation: str, runs: Runs) -> None:
    """What differs runs once more, by itself, in every way; if it differs again, the status is not 0."""
    deviating, name = DEVIATIONS[deviation]
    runs.first = runs.again = recordings(**{DEFAULTS: deviating})

    assert django_suite.main(["cache"]) == 1
    again = [name.partition(" ")[0]]
    assert runs.asked == [(way, ["cache"]) for way in WAYS] + [(way, again) for way in WAYS]


def test_a_deviation_that_does_not_repeat_itself_is_the_clocks(runs: Runs) -> None:
    """What differs once, and goes alike when it runs alone, does not fail the whole."""
    runs.first = recordings(**{DEFAULTS: DEVIATIONS["differing"][0]})

    assert django_suite.main(["cache"]) == 0


def test_a_deviation_that_cannot_run_again_fails_the_whole(runs: Runs) -> None:
    """A test that nobody finds when it is asked for once more is not forgiven: it is named."""
    runs.first = recordings(**{DEFAULTS: DEVIATIONS["additional"][0]})

    with pytest.raises(SystemExit, match=r"did not run again: cache\.tests\.A\.test_c$"):
        django_suite.main(["cache"])


def test_an_agent_that_is_not_there_fails_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing arrives at StatsD, outcomes that are alike say nothing, and the status is not 0."""
    Runs(monkeypatch, lines=())

    with pytest.raises(SystemExit, match="nothing arrived"):
        django_suite.main(["cache"])


@pytest.mark.parametrize(
    ("test_id", "asked"),
    [
        ("cache.tests.A.test_a", "cache.tests.A.test_a"),
        ("cache.tests.A.test_a (x=1) [2 3]", "cache.tests.A.test_a"),
        ("setUpClass (cache.tests.A)", "cache.tests.A"),
        ("tearDownClass (cache.tests.A)", "cache.tests.A"),
    ],
)
def test_what_is_asked_for_once_more(test_id: str, asked: str) -> None:
    """A test runs again by its name, one that failed in its class's set-up with its class, and either is found."""
    assert django_suite.label(test_id) == asked
    assert django_suite.has_run(asked, ALIKE)
    assert not django_suite.has_run(asked, {"cache.tests.B.test_a": "passed"})
    assert not django_suite.has_run(asked, {})
