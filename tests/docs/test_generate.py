"""What the documents repeat of the code is what the code says.

The scripts run in processes of their own: other tests declare metrics in this one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.helpers.processes import REPOSITORY, clean_environment

DOCS = REPOSITORY / "docs"

# Prints, for each metric, the name on the wire with these tag values, and that in Prometheus.
NAMES = """
import json, sys
sys.path.insert(0, sys.argv[1])
import generate
from introspect.agent import metrics
generate.mapping()
naming = metrics.Naming(service="shop")
names = {}
for metric in metrics.catalogue():
    metrics._naming = naming
    wire = metric.of(*(f"a/{tag}:1.x" for tag in metric.tags)).head.rstrip(":")
    names[wire] = [generate.exported_name(metric), metric.tags]
print(json.dumps(names))
"""


def run(*words: str) -> str:
    """Run this Python with `words` to its end; `AssertionError` if it fails."""
    done = subprocess.run(
        [sys.executable, *words],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    """Give the rules of the mapping file, as a YAML parser reads them."""
    loaded = yaml.safe_load((DOCS / "statsd_exporter.yml").read_text())
    found: list[dict[str, Any]] = loaded["mappings"]
    return found


def first_match(rules: list[dict[str, Any]], name: str) -> tuple[str, dict[str, str]] | None:
    """Return name and labels that statsd_exporter gives: the first rule wins, a `*` is one part."""
    for rule in rules:
        pattern = "([^.]*)".join(re.escape(piece) for piece in rule["match"].split("*"))
        match = re.fullmatch(pattern, name)
        if match is not None:
            labels = rule["labels"].items()
            return rule["name"], {key: match[int(value[1:])] for key, value in labels}
    return None


def test_documents_are_up_to_date() -> None:
    """The README's tables and the mapping file are what `python docs/generate.py` writes."""
    assert run(str(DOCS / "generate.py"), "--check") == ""


def test_each_metric_has_its_rule(rules: list[dict[str, Any]]) -> None:
    """Every metric's name on the wire falls to its own rule, with each tag's value as a label."""
    names = json.loads(run("-c", NAMES, str(DOCS)))

    assert len(names) == len(rules)
    for wire, (exported, tags) in names.items():
        labels = {"service": "shop", **{tag: f"a_{tag}_1_x" for tag in tags}}
        assert first_match(rules, wire) == (exported, labels)


def test_rules_are_well_formed(rules: list[dict[str, Any]]) -> None:
    """Names and labels have the form that Prometheus and statsd_exporter demand, and none twice."""
    names = [rule["name"] for rule in rules]

    assert len(set(names)) == len(names)
    for rule in rules:
        assert re.fullmatch(r"(\*\.|[a-zA-Z_]\w*\.)+(\*|[a-zA-Z_]\w*)", rule["match"])
        assert re.fullmatch(r"[a-zA-Z_]\w*", rule["name"])
        assert all(re.fullmatch(r"[a-zA-Z_]\w+", label) for label in rule["labels"])
