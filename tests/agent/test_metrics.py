"""Names on the wire: one grammar, whatever the values, and a budget."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from introspect.agent import metrics
from introspect.agent.metrics import (
    COUNTER,
    DISTRIBUTION,
    LONGEST_NAME,
    LONGEST_PART,
    OTHER,
    TIMER,
    Metric,
    plain_part,
    tag_value,
)
from introspect.agent.settings import read
from tests.helpers.statsd import parse_line

Declare = Callable[..., Metric]

PART = re.compile(r"[A-Za-z0-9_-]{1,80}")


def configured(**variables: str) -> metrics.Naming:
    """Put settings in force."""
    found, mistakes = read({f"INTROSPECT_{name}": value for name, value in variables.items()})
    assert not mistakes
    return metrics.configure(found)


def line(series: metrics.Series) -> str:
    """Return a line of that series."""
    return f"{series.head}1{series.type}{series.tail}"


class TestGrammar:
    """What any value becomes."""

    @given(st.text())
    def test_any_text_becomes_one_part(self, text: str) -> None:
        """Whatever the text, its part is not empty, has no dot, and no character that a server treats specially."""
        assert PART.fullmatch(plain_part(text))

    @given(st.text(min_size=81))
    def test_what_is_cut_stays_apart(self, text: str) -> None:
        """Two long texts that differ only behind the cut differ in the hash that ends them."""
        assert len(plain_part(text)) == LONGEST_PART
        assert plain_part(text + "a") != plain_part(text + "b")

    @given(st.text())
    def test_any_text_becomes_a_tag_value(self, text: str) -> None:
        """A tag value is never empty, and has nothing in it that ends a tag or a line."""
        assert re.fullmatch(r"[A-Za-z0-9_./-]{1,200}", tag_value(text))

    @pytest.mark.parametrize(
        ("text", "part"),
        [
            ("shop.views.cart", "shop_views_cart"),
            ("a:b|c@d#e", "a_b_c_d_e"),
            ("a\nb\r\nc\0", "a_b__c_"),
            ("café.中文", "caf____"),
            ("", "_"),
            ("A-b_C9", "A-b_C9"),
            ("<int:pk>", "_int_pk_"),
            ("\ud800", "_"),
        ],
    )
    def test_examples(self, text: str, part: str) -> None:
        """Everything but letters, digits, `_` and `-` becomes `_`, in one known way."""
        assert plain_part(text) == part

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.sampled_from(["plain", "dogstatsd"]),
        st.text(max_size=300),
        st.text(max_size=300),
        st.lists(st.text(max_size=300), min_size=2, max_size=2),
    )
    def test_every_line_is_well_formed(
        self, declare: Declare, form: str, prefix: str, service: str, values: list[str]
    ) -> None:
        """In both forms any prefix, service and tag values make a line that a strict parser takes."""
        # Not through the environment, which holds no NUL and no lone surrogate.
        naming = metrics.Naming(
            service=service, prefix=prefix, env=service, dogstatsd=form == "dogstatsd"
        )
        metric = metrics._catalogue.get("thing") or declare("thing", TIMER, "view", "method")
        head, tail = naming._written(metric, tuple(values))

        parse_line(f"{head}1|ms{tail}")

    def test_values_that_are_no_text(self, declare: Declare) -> None:
        """Numbers are written as such; of any other object only the type's name, for its text is not ours to ask for."""

        class Lazy:
            def __str__(self) -> str:
                raise AssertionError("asked for its text")

        metric = declare("thing", COUNTER, "status", "class")
        configured(SERVICE="s")

        assert metric.of(404, Lazy()).head == "s.thing.404.Lazy:"
        assert metric.of(None, 1.5).head == "s.thing.NoneType.1_5:"

    def test_subclass_of_str(self, declare: Declare) -> None:
        """A string with a `__str__` of its own, such as a lazy translation, is taken as the text it is."""

        class Loud(str):
            __slots__ = ()

            def __str__(self) -> str:
                return "loud"

        configured(SERVICE="s")

        assert declare("thing", COUNTER, "view").of(Loud("quiet")).head == "s.thing.quiet:"


class TestForms:
    """`plain` and `dogstatsd`."""

    def test_plain(self, declare: Declare) -> None:
        """Tag values stand as parts behind the name."""
        configured(SERVICE="front")
        series = declare("view", TIMER, "view", "method").of("site.views.index", "GET")

        assert line(series) == "front.view.site_views_index.GET:1|ms"

    def test_dogstatsd(self, declare: Declare) -> None:
        """Tag values stand as tags, with service, environment and version."""
        configured(SERVICE="front", ENV="prod", VERSION="1.2+3", STATSD_FORMAT="dogstatsd")
        series = declare("view", TIMER, "view", "method").of("site.views.index", "GET")

        assert line(series) == (
            "front.view:1|ms|#view:site.views.index,method:GET,service:front,env:prod,version:1.2_3"
        )

    def test_dogstatsd_without_a_value(self, declare: Declare) -> None:
        """There is never a tag without a value: graphite refuses the whole batch it came in."""
        configured(SERVICE="front", STATSD_FORMAT="dogstatsd")

        assert (
            line(declare("view", TIMER, "view").of("é")) == "front.view:1|ms|#view:_,service:front"
        )

    def test_kinds(self, declare: Declare) -> None:
        """A timer and a distribution are sent as `ms`, a counter as `c`: what every server reads alike."""
        types = [
            declare(f"a{n}", kind).of().type
            for n, kind in enumerate((TIMER, DISTRIBUTION, COUNTER))
        ]

        assert types == ["|ms", "|ms", "|c"]


class TestPrefix:
    """The prefix is always there, and always dotted."""

    @pytest.mark.parametrize(
        ("prefix", "expected"),
        [
            ("", "front."),
            ("app", "app."),
            ("app.", "app."),
            ("a.b.c.", "a.b.c."),
            (".a..b.", "a._.b."),
            ("...", "_."),
            ("é:", "__."),
        ],
    )
    def test_prefix(self, prefix: str, expected: str) -> None:
        """Whatever the setting, a name starts with a part and a dot."""
        found, _ = read({"INTROSPECT_SERVICE": "front", "INTROSPECT_PREFIX": prefix})

        assert metrics.configure(found).prefix == expected

    @pytest.mark.parametrize("name", ["constructor", "__proto__", "toString", "hasOwnProperty"])
    def test_names_that_kill_a_daemon(self, declare: Declare, name: str) -> None:
        """A name that ends Etsy's statsd when it stands alone never does."""
        configured(SERVICE=name)

        assert declare(name).of().head == f"{name}.{name}:"

    def test_service_of_the_settings_module(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a setting, the service is the settings module's top package, as soon as that is known."""
        monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
        naming = configured()
        assert naming.service == "django"
        monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "shop.settings.production")

        assert naming.prefix == "shop."

    @pytest.mark.parametrize("length", range(20, 80, 7))
    def test_cut_inside_a_long_part(self, declare: Declare, length: int) -> None:
        """Wherever the cut falls, the hash behind it makes no part longer than allowed."""
        configured(PREFIX=f"{'p' * 80}.{'q' * length}")
        parse_line(line(declare("thing", TIMER, "view", "method").of("v" * 80, "M" * 10)))

    def test_long_prefix(self, declare: Declare) -> None:
        """A name that is too long as a whole is cut, ends in a hash, and keeps to the longest part."""
        configured(PREFIX=".".join("abcdefghij" * 5 for _ in range(3)))
        heads = {declare(f"a{n}", TIMER, "view").of("v" * 80 + str(n)).head for n in range(3)}

        assert len(heads) == 3
        for head in heads:
            assert len(head) <= LONGEST_NAME + 1
            assert max(map(len, head[:-1].split("."))) <= LONGEST_PART


class TestBudget:
    """INTROSPECT_NAMES: so many names per process, and no more."""

    def test_beyond_the_budget(self, declare: Declare, capsys: pytest.CaptureFixture[str]) -> None:
        """New values become `_other`, known ones stay, and it is said once."""
        naming = configured(SERVICE="s", NAMES="3")
        metric = declare("thing", COUNTER, "view")
        heads = [metric.of(f"v{n}").head for n in range(100)]

        assert heads[:3] == ["s.thing.v0:", "s.thing.v1:", "s.thing.v2:"]
        assert set(heads[3:]) == {f"s.thing.{OTHER}:"}
        assert metric.of("v1").head == "s.thing.v1:"
        assert naming.folded == 97
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "INTROSPECT_NAMES" in said

    def test_closed_tags_survive(self, declare: Declare) -> None:
        """Values from a short list of ours, such as methods, are not folded: they cannot grow."""
        configured(SERVICE="s", NAMES="1")
        declare("first").of()
        metric = declare("thing", COUNTER, "view", "method")

        assert metric.of("v", "GET").head == f"s.thing.{OTHER}.GET:"

    def test_metric_without_tags(self, declare: Declare) -> None:
        """A metric without tags is one name, and always sent as itself."""
        configured(SERVICE="s", NAMES="1")
        declare("first").of()

        assert declare("thing").of().head == "s.thing:"

    def test_one_name_one_series(self, declare: Declare) -> None:
        """Values that are written alike are one series, within the budget and beyond it: they add up."""
        configured(SERVICE="s", NAMES="2")
        metric = declare("thing", COUNTER, "view")

        assert metric.of("a.b") is metric.of("a:b") is metric.of("a b")
        metric.of("c")
        assert metric.of("d") is metric.of("e") is metric.of("f.g")

    def test_memory(self, declare: Declare) -> None:
        """However many distinct values come, the memory they take is what the budget allows."""
        configured(SERVICE="s")
        metric = declare("thing", COUNTER, "view", "method")
        for number in range(10_000):
            metric.of(f"view{number}", "GET")
        tracemalloc.start()
        try:
            seen: set[Any] = set()
            for number in range(10_000, 60_000):
                seen.add(metric.of(f"view{number}", "GET"))
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        for number in range(60_000, 200_000):
            seen.add(metric.of(f"view{number}", "GET"))

        assert len(seen) == 1
        assert grown < 100_000


def test_declared_twice(declare: Declare) -> None:
    """Two metrics of one name are a mistake in our code, found when it is imported."""
    declare("thing")

    with pytest.raises(ValueError, match="'thing' is declared twice"):
        Metric("thing", TIMER, "ms", (), "")


def test_catalogue_is_sorted(declare: Declare) -> None:
    """The catalogue lists every declared metric by name."""
    declare("zz"), declare("aa")
    names = [metric.name for metric in metrics.catalogue()]

    assert names == sorted(names)
    assert {"aa", "zz"} <= set(names)
