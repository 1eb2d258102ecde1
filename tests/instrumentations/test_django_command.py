"""Management commands: timed, with an ID of their own, a canonical line, and their secrets masked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from introspect.agent import logs
from introspect.instrumentations.django_command import command_line
from tests.helpers.databases import Database
from tests.helpers.site import Site
from tests.helpers.statsd import StatsdListener
from tests.instrumentations.story_site import manage


def line_of(file: Path) -> dict[str, Any]:
    """Return the one canonical line of a file."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    [canonical] = [line for line in lines if line.get("kind")]
    found: dict[str, Any] = canonical
    return found


def test_a_command(site: Site, tmp_path: Path, statsd: StatsdListener) -> None:
    """A command is timed by name, and its line and log records bear the same new ID."""
    file = tmp_path / "log"
    done = manage(site, file, "tell_id", "1000", STATSD=statsd.address)
    assert done.returncode == 0, done.stderr
    statsd.wait_for_count("story.command.tell_id", 1)

    line = line_of(file)
    assert line["kind"] == "command"
    assert line["name"] == "tell_id"
    assert line["command_line"] == "manage.py tell_id 1000"
    assert line["level"] == "INFO"
    assert line["correlation_id"] == done.stdout.strip()
    assert line["duration_ms"] == pytest.approx(statsd.values("story.command.tell_id")[0], abs=0.01)
    records = [json.loads(text) for text in file.read_text().splitlines()]
    assert {record["correlation_id"] for record in records} == {line["correlation_id"]}
    assert "told" in {record["message"] for record in records}


def test_a_command_that_fails(site: Site, tmp_path: Path, statsd: StatsdListener) -> None:
    """A command that fails fails as ever, is counted, and its line says with what and where."""
    file = tmp_path / "log"
    done = manage(site, file, "tell_id", "--fail", STATSD=statsd.address)
    statsd.wait_for_count("story.command.error.tell_id", 1)

    assert done.returncode == 1
    assert "CommandError: failed on request" in done.stderr
    line = line_of(file)
    assert line["level"] == "ERROR"
    assert line["exception"]["class"] == "CommandError"
    assert line["exception"]["place"].startswith("story/management/commands/tell_id.py:")


def test_a_command_of_many_queries(site: Site, tmp_path: Path, statsd: StatsdListener) -> None:
    """A command that asks in a loop sends as it goes, and its line has the sum."""
    file = tmp_path / "log"
    manage(site, file, "tell_id", "--queries=3000", STATSD=statsd.address, DETAIL="all")
    statsd.wait_for_count("story.command.tell_id", 1)

    line = line_of(file)
    assert line["db_queries"] == 3000
    assert line["db_duplicates"] == 2999
    assert statsd.count("story.db.default.select") == 3000
    assert line["db_ms"] <= line["duration_ms"]
    assert len(line["events"]) + line["events_dropped"] >= 3000


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-p", "hunter2", "7"], "-p {} 7"),
        (["-phunter2", "7"], "-p{} 7"),
        (["--passw", "hunter2", "7"], "--passw {} 7"),
        (["--passw=hunter2", "7"], "--passw={} 7"),
        (["7", "--tokens", "hunter2", "hunter3", "--url", "x"], "7 --tokens {} {} --url x"),
        (["7", "--pin-key", "0042"], "7 --pin-key {}"),
        (["--secret-file", "hunter2.txt"], "--secret-file {}"),
        (["7", "--tokens"], "7 --tokens"),
        (["7", "--pin-key=1", "--url=x1"], "7 --pin-key={} --url=x1"),
    ],
)
def test_secrets_by_the_names_that_the_command_gives_them(
    site: Site, tmp_path: Path, words: list[str], expected: str
) -> None:
    """An argument is masked by the name that its command knows it under, in its line and its SQL comments."""
    file = tmp_path / "log"
    done = manage(site, file, "keep_secret", *words, DETAIL="all", SQL_COMMENT="path")
    assert done.returncode == 0, done.stderr

    assert "ran /* manage.py keep_secret " in done.stdout
    assert "hunter" not in done.stdout
    assert "0042" not in done.stdout

    assert "hunter" not in file.read_text()
    assert "0042" not in file.read_text()
    filled = expected.format(*[logs.MASK] * expected.count("{}"))
    assert line_of(file)["command_line"] == f"manage.py keep_secret {filled}"


def test_a_positional_secret(site: Site, tmp_path: Path) -> None:
    """So is one that has no option in front of it."""
    file = tmp_path / "log"
    manage(site, file, "keep_secret", "7", "hunter2")

    assert line_of(file)["command_line"] == f"manage.py keep_secret 7 {logs.MASK}"


SECRETS = ["--password", "hunter2", "--url", "postgres://bob:hunter3@db/x?sslkey=hunter4"]


def test_secrets_of_the_command_line(site: Site, tmp_path: Path) -> None:
    """No argument named like a secret, and no URL's credentials, are in any line."""
    file = tmp_path / "log"
    done = manage(site, file, "tell_id", *SECRETS, DETAIL="all")
    assert done.returncode == 0, done.stderr

    assert "hunter" not in file.read_text()
    assert line_of(file)["command_line"].startswith("manage.py tell_id --password ***")


def test_the_comment_of_a_command(stocked_site: Site, postgresql: Database, tmp_path: Path) -> None:
    """The statements of a command carry its command line, masked, as the server sees them."""
    file = tmp_path / "log"
    site = Site(postgresql.url)
    code = (
        "from django.db import connection as c; cursor = c.cursor();"
        "cursor.execute('SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()');"
        "print('seen', cursor.fetchone()[0])"
    )
    done = manage(site, file, "shell", "--command", code)

    [seen] = [line for line in done.stdout.splitlines() if line.startswith("seen ")]
    assert seen.startswith("seen /* manage.py shell --command from django.db import connection")
    assert seen.endswith("*/ SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["manage.py", "send_subscriptions", "1000"], "manage.py send_subscriptions 1000"),
        (["/srv/app/manage.py", "x", "-v", "2"], "manage.py x -v 2"),
        (["/venv/bin/django-admin", "x"], "django-admin x"),
        (["/lib/django/__main__.py", "x"], "manage.py x"),
        (["", "x"], "manage.py x"),
        (["script.py", "whatever"], "manage.py x"),
        ([], "manage.py x"),
        (["manage.py", "x", "--password", "s3"], f"manage.py x --password {logs.MASK}"),
        (["manage.py", "x", "--password=s3", "y"], f"manage.py x --password={logs.MASK} y"),
        (["manage.py", "x", "--api-key", "s3", "y"], f"manage.py x --api-key {logs.MASK} y"),
        (["manage.py", "x", "SECRET_KEY=s3"], f"manage.py x SECRET_KEY={logs.MASK}"),
        (["manage.py", "x", "https://u:s3@h/p?q=s3"], "manage.py x https://h/p"),
        (["manage.py", "x", "--db=mysql://u:s3@h/p"], "manage.py x --db=mysql://h/p"),
        (["manage.py", "x", "--token"], "manage.py x --token"),
    ],
)
def test_command_lines(argv: list[str], expected: str) -> None:
    """The command line is what was typed, without the program's folder and without secrets."""
    assert command_line(argv, argv[1] if argv[1:2] not in ([], ["whatever"]) else "x") == expected
