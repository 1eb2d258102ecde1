"""Write what the documents repeat of the code: `python docs/generate.py [--check]`.

That is the README's tables, as `introspect tables` prints them, and `statsd_exporter.yml`.
"""
# ruff: noqa: INP001  a script; docs is no package

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from introspect import instrumentations
from introspect.agent import metrics
from introspect.bootstrap import tables

if TYPE_CHECKING:
    from collections.abc import Iterable

DOCS = os.path.dirname(os.path.abspath(__file__))
README = os.path.join(os.path.dirname(DOCS), "README.md")
MAPPING = os.path.join(DOCS, "statsd_exporter.yml")

TABLES = {
    "settings": tables.settings_table,
    "metrics": tables.metrics_table,
    "instrumentations": tables.instrumentations_table,
}

MAPPING_HEAD = """\
# How statsd_exporter takes the agent's names apart. Written by docs/generate.py.
#
# The first * is the service (INTROSPECT_SERVICE or the settings module's top package); a prefix of
# several parts (INTROSPECT_PREFIX=prod.shop.) needs a * for each.
defaults:
  observer_type: histogram
  histogram_options:
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
mappings:
"""

# What a name says of the unit, in Prometheus's habits.
SUFFIXES = {"ms": "_seconds", "bytes": "_bytes", "%": "_percent", "": ""}


def with_tables(text: str) -> str:
    """Return *text* with what stands between each pair of markers made anew."""
    for name, table in TABLES.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not between.search(text):
            sys.exit(f"{README} has no markers <!-- {name} --> and <!-- /{name} -->")
        made = f"{table()}\n"
        text = between.sub(lambda match, made=made: match[1] + made + match[2], text)
    return text


def mapping() -> str:
    """Return the mapping file: one rule for each metric."""
    for name in instrumentations.names():
        instrumentations.load(name)
    return MAPPING_HEAD + "".join(rule(metric) for metric in in_order(metrics.catalogue()))


def in_order(found: Iterable[metrics.Metric]) -> list[metrics.Metric]:
    """Return the longest names first: of two rules that match, statsd_exporter takes the first.

    ``db.connect`` with one tag and ``db`` with two have the same number of parts.
    """
    return sorted(found, key=lambda metric: (-metric.name.count("."), metric.name))


def rule(metric: metrics.Metric) -> str:
    """Return the rule of one metric."""
    lines = [
        f'- match: "*.{".".join((metric.name, *("*" for _ in metric.tags)))}"',
        f"  name: {exported_name(metric)}",
        f'  help: "{metric.help.replace(chr(34), chr(39))}"',
        "  labels:",
        "    service: $1",
        *(f"    {tag}: ${number}" for number, tag in enumerate(metric.tags, 2)),
    ]
    if metric.kind != metrics.COUNTER and metric.unit != "ms":
        # Every |ms is divided by 1000, to make seconds of it.
        lines += ["  observer_type: summary", "  scale: 1000"]
    return "\n".join(lines) + "\n"


def exported_name(metric: metrics.Metric) -> str:
    """Return the name in Prometheus."""
    name = metric.name.replace(".", "_")
    if not name.startswith("introspect_"):
        name = f"django_{name}"
    return name + ("_total" if metric.kind == metrics.COUNTER else SUFFIXES[metric.unit])


def main() -> int:
    """Write both files; with ``--check``, write nothing and name those that are not up to date."""
    stale = []
    for path, make in ((README, with_tables), (MAPPING, lambda _before: mapping())):
        with open(path, encoding="utf-8") as file:
            before = file.read()
        after = make(before)
        if after == before:
            continue
        stale.append(path)
        if "--check" not in sys.argv:
            with open(path, "w", encoding="utf-8") as file:
                file.write(after)
    if "--check" not in sys.argv:
        return 0
    for path in stale:
        print(f"{path} is not up to date: run `python docs/generate.py`")  # noqa: T201
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
