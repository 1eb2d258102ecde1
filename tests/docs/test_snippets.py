"""What the documents show works: it is taken from there, and run."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from introspect.agent import settings
from tests.helpers import rawhttp
from tests.helpers.ports import LOOPBACK, free_port
from tests.helpers.processes import (
    REPOSITORY,
    clean_environment,
    introspect_run,
    script,
    wait_until,
)
from tests.helpers.serve import serve
from tests.helpers.site import PROJECT, Site
from tests.instrumentations.test_canonical_servers import LINE

DOCUMENTS = [
    str(path.relative_to(REPOSITORY))
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
]
LOGS = "docs/logs.md"
GUNICORN = "docs/servers/gunicorn.md"

ID = "documented-0001"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def snippets(document: str, *languages: str) -> list[str]:
    """Return the snippets of a document that are written in these languages, or all."""
    found = _BLOCK.findall((REPOSITORY / document).read_text())
    return [text for language, text in found if not languages or language in languages]


def ini(text: str) -> configparser.RawConfigParser:
    """Read an INI file in which a name may come twice, as systemd and uWSGI have it."""
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(text)
    return parser


def shell(text: str) -> None:
    """Have a shell read a script, and not run it."""
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


PARSERS: dict[str, Any] = {
    "ini": ini,
    "json": json.loads,
    "python": ast.parse,
    "sh": shell,
    "yaml": yaml.safe_load,
}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_snippets_are_well_formed(document: str) -> None:
    """Each snippet is closed, and what its language reads without complaint."""
    fences = re.findall(r"^```.*$", (REPOSITORY / document).read_text(), re.MULTILINE)

    assert len(fences) == 2 * len(snippets(document))
    for language, parse in PARSERS.items():
        for snippet in snippets(document, language):
            parse(snippet)


def test_settings_are_such() -> None:
    """Each setting in a command or a file that is shown exists, and takes the value that it has there."""
    names = set()
    for document in DOCUMENTS:
        for snippet in snippets(document, "sh", "ini", "dockerfile", "crontab"):
            for word in shlex.split(snippet, comments=True):
                match = re.fullmatch(r"(?:Environment=)?(INTROSPECT_\w+)=(.*)", word)
                if match is not None:
                    names.add(match[1])
                    _, mistakes = settings.read({match[1]: match[2]})
                    assert mistakes == [], document
    assert {"INTROSPECT_LOG", "INTROSPECT_STATSD", "INTROSPECT_SERVICE"} <= names


@pytest.mark.parametrize("document", ["README.md", LOGS])
def test_the_line_of_a_request(document: str) -> None:
    """The line that is shown has fields which real ones have, in their order, each of its type."""
    [snippet] = snippets(document, "json")
    shown = json.loads(snippet)
    kinds = {name: it if isinstance(it, type) else type(it) for name, it in LINE.items()}

    assert list(shown) == [name for name in LINE if name in shown]
    assert {name: type(value) for name, value in shown.items()} == {
        name: kinds[name] for name in shown
    }


def test_every_field_is_documented() -> None:
    """Each field that a request's line can have is shown or named."""
    text = (REPOSITORY / LOGS).read_text()

    assert [name for name in LINE if f'"{name}":' not in text and f"`{name}`" not in text] == []


AGENT = pytest.mark.parametrize(
    ("under", "enabled", "shown"),
    [(introspect_run(), "1", ID), (introspect_run(), "0", "-"), ([], "1", "-")],
    ids=["on", "off", "absent"],
)

# Takes LOGGING from the document, then logs outside of a request and within one.
SITE = f"""
import logging, sys
exec(sys.argv[1])
from django.conf import settings
settings.configure(LOGGING=LOGGING, ROOT_URLCONF="__main__", ALLOWED_HOSTS=["testserver"])
import django
from django.http import HttpResponse
from django.urls import path
from tests.instrumentations import handlers
def sell(request):
    logging.getLogger("shop").info("sold")
    return HttpResponse()
urlpatterns = [path("", sell)]
django.setup()
logging.getLogger("shop").info("started")
handlers.fetch_wsgi("/", X_Request_ID="{ID}")
"""


@AGENT
def test_the_logging_configuration(under: list[str], enabled: str, shown: str) -> None:
    """`LOGGING` as documented shows the ID, and `-` outside of any request or without the agent."""
    [snippet] = snippets(LOGS, "python")
    done = subprocess.run(
        [*under, sys.executable, "-c", SITE, snippet],
        env=clean_environment(
            PYTHONPATH=str(REPOSITORY), INTROSPECT_ENABLED=enabled, INTROSPECT_STATSD="off"
        ),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    lines = [line.split(" ", 2)[2] for line in done.stderr.splitlines()]  # without date and time
    assert lines == ["INFO - shop started", f"INFO {shown} shop sold"]


def environment(folder: Path, **extra: str) -> dict[str, str]:
    """Return the environment of the project, with a database that nobody asks."""
    site = Site(f"sqlite://{folder / 'none.sqlite3'}")
    return site.environment(**{"INTROSPECT_STATSD": "off", **extra})


def here(words: list[str]) -> list[str]:
    """Return a documented command as it is on this machine, for the project, and on a free port."""
    replaced = {"mysite.wsgi": "shop.wsgi", "mysite.asgi": "shop.asgi"}
    for word in words:
        if Path(word).name in ("introspect-run", "gunicorn"):
            replaced[word] = script(Path(word).name)
    kept = [replaced.get(word, word) for word in words if not word.startswith("--bind")]
    return [*kept, "--bind={host}:{port}", "--no-control-socket"]


def gunicorns_commands() -> list[list[str]]:
    """Return the documented commands: those to be typed, systemd's, and Docker's."""
    typed = [shlex.split(line) for text in snippets(GUNICORN, "sh") for line in text.splitlines()]
    [unit] = snippets(GUNICORN, "ini")
    [container] = re.findall(r"^CMD (.*)$", snippets(GUNICORN, "dockerfile")[0], re.MULTILINE)
    return [*typed, shlex.split(ini(unit)["Service"]["ExecStart"]), json.loads(container)]


@pytest.mark.parametrize("words", gunicorns_commands(), ids=" ".join)
def test_gunicorns_commands(words: list[str], tmp_path: Path) -> None:
    """Each documented command serves the site, with the agent in it."""
    if "gevent" in words and sys.version_info >= (3, 14):
        pytest.skip("gunicorn's gevent worker does not answer")
    with serve(here(words), environment(tmp_path), PROJECT) as server:
        answer = rawhttp.get(f"{server.base_url}/nowhere/", {"X-Request-ID": ID})

    assert answer.status == 404
    assert answer.all_headers("X-Request-ID") == [ID]


def test_what_gunicorn_says(tmp_path: Path) -> None:
    """What is documented to be expected comes, in this order, but for numbers."""
    [console] = snippets(GUNICORN, "console")
    typed, *expected = console.splitlines()
    env = environment(tmp_path, TZ="UTC", INTROSPECT_STATSD=f"udp://{LOOPBACK}:{free_port()}")
    with serve(here(shlex.split(typed.removeprefix("$ "))), env, PROJECT) as server:
        rawhttp.get(f"{server.base_url}/nowhere/")
        said = iter(numberless(server.stderr).splitlines())

    assert len(expected) == 4
    for line in map(numberless, expected):
        assert line in said


def numberless(text: str) -> str:
    """Return `text` with a zero for each number."""
    return re.sub(r"\d+", "0", text)


@AGENT
def test_gunicorns_access_lines(under: list[str], enabled: str, shown: str, tmp_path: Path) -> None:
    """`gunicorn.conf.py` as documented shows the ID, and `-` on lines of the main process or without the agent, whatever LOGGING the site has."""
    [snippet] = snippets(GUNICORN, "python")
    configuration = tmp_path / "gunicorn.conf.py"
    configuration.write_text(snippet)
    command = [*under, *here(["gunicorn", f"--config={configuration}", "shop.wsgi"])]
    with serve(command, environment(tmp_path, INTROSPECT_ENABLED=enabled), PROJECT) as server:
        rawhttp.get(f"{server.base_url}/nowhere/", {"X-Request-ID": ID})
        wait_until(lambda: "GET /nowhere/" in server.stderr)
        said = server.stderr

    [access] = re.findall(r"^.*GET /nowhere/.*$", said, re.MULTILINE)
    assert re.fullmatch(rf"\S+ \S+ INFO gunicorn\.access .* {re.escape(shown)}", access)
    assert re.search(r"^\S+ \S+ INFO gunicorn\.error Listening at: .* -$", said, re.MULTILINE)
    assert "Logging error" not in said
