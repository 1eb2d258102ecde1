"""What a metric is, how its names are written on the wire, and how many there may be.

A metric is declared once, beside the code that emits it::

    QUERY = Metric("db", TIMER, "ms", ("alias", "verb"), "each statement")

and ``QUERY.of("default", "select")`` gives its ``Series``: the name on the wire, made once.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from introspect.agent.settings import Settings

TIMER = "timer"
COUNTER = "counter"
DISTRIBUTION = "distribution"

# Only types that every StatsD server reads alike: |h and |d become counters in Etsy's, and are
# dropped by collectd.
WIRE_TYPES = {TIMER: "ms", DISTRIBUTION: "ms", COUNTER: "c"}

# A part of a name may become a file of that name (whisper), and servers cut whole names silently.
LONGEST_PART = 80
LONGEST_NAME = 200

OTHER = "_other"

# Tags whose values come from a short list in our code: they survive when the budget is spent.
CLOSED_TAGS = frozenset({"level", "method", "op", "status", "verb"})

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_-]")
_NOT_IN_TAG = re.compile(r"[^A-Za-z0-9_./-]")


class Series:
    """One metric with one set of tag values: what a line of it starts and ends with.

    A line is ``head + value + type + [|@rate] + tail``. Names hold no percent sign, so ``line`` is
    the whole of it to be completed by ``%``.
    """

    __slots__ = (
        "area",
        "encloses",
        "head",
        "is_call",
        "is_counter",
        "line",
        "metric",
        "tail",
        "type",
        "values",
    )

    def __init__(self, metric: Metric, values: tuple[str, ...], head: str, tail: str) -> None:
        self.metric = metric
        self.values = values
        self.head = head
        self.tail = tail
        self.type = f"|{WIRE_TYPES[metric.kind]}"
        self.is_counter = metric.kind == COUNTER
        self.line = f"{head}{'%d' if self.is_counter else '%.3f'}{self.type}{tail}"
        self.area = metric.area
        self.encloses = metric.encloses
        self.is_call = metric.area == metric.name

    def __repr__(self) -> str:
        return f"<Series {self.head}…{self.type}{self.tail}>"


class SeriesByValues(dict[tuple[object, ...], Series]):
    """The series of one metric by their tag values; makes those that are missing.

    A subclass of ``dict``, so that a series that is there is found without a call in Python.
    """

    __slots__ = ("metric",)

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.metric = metric

    def __missing__(self, values: tuple[object, ...]) -> Series:
        return _naming.new_series(self.metric, values)


class Metric:
    """The declaration of a metric: its name, kind, unit, tag names, and what it means.

    What its samples take adds to each unit's total of *area*, and they count as the calls of the
    area that has the metric's own name. One that *encloses* others of its area (a page of templates
    the templates it includes) takes their time with its own.
    """

    __slots__ = ("area", "encloses", "help", "kind", "name", "series", "tags", "unit")

    def __init__(
        self,
        name: str,
        kind: str,
        unit: str,
        tags: tuple[str, ...],
        help: str,  # noqa: A002
        *,
        area: str | None = None,
        encloses: bool = False,
    ) -> None:
        if name in _catalogue:
            raise ValueError(f"the metric {name!r} is declared twice")
        self.name = name
        self.kind = kind
        self.unit = unit
        self.tags = tags
        self.help = help
        self.area = area
        self.encloses = encloses
        self.series = SeriesByValues(self)
        """What ``of`` returns, by its arguments: ``QUERY.series["default", "select"]``."""
        _catalogue[name] = self

    def of(self, *values: object) -> Series:
        """Return the series with these tag *values*, in the order of ``tags``."""
        return self.series[values]

    def __repr__(self) -> str:
        return f"Metric({self.name!r}, {self.kind!r}, {self.unit!r}, {self.tags!r})"


_catalogue: dict[str, Metric] = {}


def catalogue() -> list[Metric]:
    """Every metric declared so far, by name."""
    return [_catalogue[name] for name in sorted(_catalogue)]


class Naming:
    """The grammar in force: prefix, format, common tags, and what is left of the budget."""

    def __init__(
        self,
        *,
        service: str = "",
        env: str = "",
        version: str = "",
        prefix: str = "",
        dogstatsd: bool = False,
        budget: int = 1000,
    ) -> None:
        self._service = service
        self._prefix = prefix
        self._dotted_prefix = ""
        self._env = env
        self._version = version
        self._dogstatsd = dogstatsd
        self._budget = budget
        # One series for each name on the wire, however its values were written: so they add up.
        self._series: dict[tuple[Metric, str], Series] = {}
        self._overflow_series: dict[tuple[Metric, tuple[str, ...]], Series] = {}
        self.folded = 0

    @property
    def service(self) -> str:
        """Who we are: the setting, else the top package of the settings module.

        Looked up as late as possible, since ``manage.py`` and ``wsgi.py`` set
        ``DJANGO_SETTINGS_MODULE`` after the agent has started.
        """
        if not self._service:
            package = os.environ.get("DJANGO_SETTINGS_MODULE", "").partition(".")[0]
            if not package:
                return "django"
            self._service = package
        return self._service

    @property
    def prefix(self) -> str:
        """What each name starts with; it always ends in a dot.

        An undotted name can kill a daemon: ``constructor:1|ms`` ends Etsy's statsd 0.9.0.
        """
        if not self._dotted_prefix:
            parts = (self._prefix or self.service).strip(".").split(".")
            dotted = "".join(f"{plain_part(part)}." for part in parts)
            if not (self._prefix or self._service):
                return dotted  # the service may be known later
            self._dotted_prefix = dotted
        return self._dotted_prefix

    def new_series(self, metric: Metric, values: tuple[object, ...]) -> Series:
        """Make the series, or the overflow series of *metric* if the budget is spent.

        Only a series within the budget is remembered under its raw values: whatever number of
        distinct values comes, the memory they take is bounded.
        """
        texts = tuple(_text(value) for value in values)
        head, tail = self._written(metric, texts)
        series = self._series.get((metric, head + tail))
        if series is not None:
            return series
        if len(self._series) >= self._budget and metric.tags:
            return self._overflow(metric, texts)
        series = self._series[metric, head + tail] = Series(metric, texts, head, tail)
        metric.series[values] = series
        return series

    def _overflow(self, metric: Metric, texts: tuple[str, ...]) -> Series:
        self.folded += 1
        if self.folded == 1:
            from introspect.agent import guard

            guard.say(
                "names",
                f"this process has sent {self._budget} names; from now on new tag values of "
                f"{metric.name} and others count as {OTHER} (raise INTROSPECT_NAMES, or "
                "INTROSPECT_DISABLE the instrumentation whose names grow)",
            )
        kept = tuple(
            text if tag in CLOSED_TAGS else OTHER
            for tag, text in zip(metric.tags, texts, strict=True)
        )
        series = self._overflow_series.get((metric, kept))
        if series is None:
            series = Series(metric, kept, *self._written(metric, kept))
            self._overflow_series[metric, kept] = series
        return series

    def _written(self, metric: Metric, texts: tuple[str, ...]) -> tuple[str, str]:
        """Return what stands before and behind the value in a line."""
        if not self._dogstatsd:
            name = ".".join((metric.name, *map(plain_part, texts)))
            return f"{_cut_name(self.prefix + name)}:", ""
        tags = [f"{tag}:{tag_value(text)}" for tag, text in zip(metric.tags, texts, strict=True)]
        common = {"service": self.service, "env": self._env, "version": self._version}
        tags.extend(f"{tag}:{tag_value(text)}" for tag, text in common.items() if text)
        return f"{_cut_name(self.prefix + metric.name)}:", f"|#{','.join(tags)}"


def plain_part(text: str) -> str:
    """Reduce *text* to one dot-free part of a name; never empty."""
    return _cut(_NOT_PLAIN.sub("_", text), LONGEST_PART) or "_"


def tag_value(text: str) -> str:
    """Reduce *text* to a DogStatsD tag value; never empty.

    An empty value, or one that Etsy's statsd reduces to nothing, makes graphite refuse the whole
    batch it came in.
    """
    return _cut(_NOT_IN_TAG.sub("_", text), LONGEST_NAME) or "_"


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{text[: longest - 9]}_{digest}"


def _cut_name(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    front, _, part = _cut(name, LONGEST_NAME).rpartition(".")
    # The hash may have made the last part too long.
    return f"{front}.{part if len(part) <= LONGEST_PART else part[: LONGEST_PART - 9] + part[-9:]}"


def _text(value: object) -> str:
    # Any other object might be the application's own: its __str__ is not ours to call.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (int, float)):
        return str(value)
    return type(value).__name__


_naming = Naming()


def configure(settings: Settings) -> Naming:
    """Put the grammar of *settings* in force and forget all names made before."""
    global _naming
    _naming = Naming(
        service=settings.service,
        env=settings.env,
        version=settings.version,
        prefix=settings.prefix,
        dogstatsd=settings.statsd_format == "dogstatsd",
        budget=settings.names,
    )
    for metric in _catalogue.values():
        metric.series.clear()
    return _naming


def naming() -> Naming:
    """Return the grammar in force."""
    return _naming


def service() -> str:
    """Return who we are, as far as that is known: see ``Naming.service``."""
    return _naming._service or _naming.service  # noqa: SLF001  asked for each log record
