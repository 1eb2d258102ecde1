"""What the fixtures of all tests see to."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from introspect.agent import correlation, logs, metrics, settings
from introspect.instrumentations import django_errors, django_request, django_sql_comment

OTHERS = {
    "INTROSPECT_CORRELATION_HEADERS": "X-Other-ID",
    "INTROSPECT_IGNORE_PATHS": "/other",
    "INTROSPECT_LOG_FORMAT": "ecs",
    "INTROSPECT_SERVICE": "other",
    "INTROSPECT_SQL_COMMENT": "id",
    "INTROSPECT_SUPERUSER_GROUP": "other",
}
CONFIGURED = (correlation, django_errors, django_request, django_sql_comment, logs, metrics)


def in_force() -> dict[str, Any]:
    """Return what shows the settings that are in force."""
    record = logging.LogRecord("shop", logging.INFO, "/srv/shop/views.py", 42, "hello", (), None)
    return {
        "headers": correlation.policy.wsgi_keys,
        "group": django_errors._group,
        "ignored": django_request._ignored_paths,
        "comment": django_sql_comment._choice,
        "fields of a line": sorted(json.loads(logs.line_of(record))),
        "service": metrics.service(),
    }


at_the_first_turn: dict[str, Any] = {}


@pytest.mark.parametrize("turn", ["one", "another"])
def test_settings_do_not_outlast_a_test(turn: str) -> None:
    """A test that puts settings in force, and then the same test once more, begin alike."""
    found, mistakes = settings.read(OTHERS)
    assert not mistakes
    before = in_force()

    for module in CONFIGURED:
        module.configure(found)

    after = in_force()
    assert [name for name in before if before[name] == after[name]] == []
    assert before == at_the_first_turn.setdefault("in force", before)
