"""The agent is put together once, and taken apart whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bootstrap.launching import environment, python, told
from tests.helpers.site import Site
from tests.helpers.statsd import StatsdListener

FIRST = "import django.conf; from introspect.agent import patching; from introspect.bootstrap import start"


def test_started_once() -> None:
    """A second start, by whatever road, changes nothing."""
    first = f"{FIRST}; before = len(patching._applied), len(patching.status()); start.start()"

    assert told("before == (len(patching._applied), len(patching.status()))", first=first) is True


def test_stopped() -> None:
    """After a stop nothing is patched, and another start patches again."""
    first = (
        f"{FIRST}; import django.template.base as base\n"
        "render = lambda: base.Template.render.__code__.co_filename.endswith('<timed call>')\n"
        "seen = [render()]; start.stop(); seen.append(render()); start.start(); seen.append(render())"
    )

    assert told("seen", first=first) == [True, False, True]


def test_disable() -> None:
    """A disabled instrumentation is not even imported; the others are."""
    env = environment(INTROSPECT_DISABLE="requests, django_template")
    expression = (
        "sorted(t for t in patching.status() if t.startswith(('requests', 'django.template')))"
    )

    assert told(expression, first=FIRST, env=env) == []
    assert told(
        "'django.db.backends.utils:CursorWrapper._execute' in patching.status()",
        first=FIRST,
        env=env,
    )
    assert (
        told("'introspect.instrumentations.requests' in sys.modules", first=FIRST, env=env) is False
    )


def test_disable_of_something_unknown() -> None:
    """A name that is no instrumentation is told, with those there are."""
    done = python(FIRST, env=environment(INTROSPECT_DISABLE="request"))
    line = done.stderr.decode()

    assert line.count("\n") == 1
    assert "INTROSPECT_DISABLE names 'request', which is no instrumentation; there are " in line
    assert "requests" in line


@pytest.mark.parametrize(
    ("networks", "applied"), [("10.0.0.0/8,::1", True), ("10.0.0.0/8 ::1", False)]
)
def test_technical_pages_with_a_restriction(networks: str, applied: bool) -> None:
    """Where their restriction cannot be read, Django's handler of errors is not touched, and one line says so."""
    env = environment(INTROSPECT_SUPERUSER_ERRORS="1", INTROSPECT_SUPERUSER_NETWORKS=networks)
    code = (
        f"{FIRST}; import django.core.handlers.exception as handlers\n"
        "print(hasattr(handlers.handle_uncaught_exception, '__wrapped__'))"
    )
    done = python(code, env=env)

    assert done.stdout.decode() == f"{applied}\n"
    assert done.stderr.count(b"\n") == (0 if applied else 1)
    assert applied or done.stderr.endswith(b"; until then no technical page is shown\n")


def test_instrumentation_that_cannot_be_imported() -> None:
    """One that fails leaves the rest, and is one line."""
    code = (
        "import sys; sys.modules['introspect.instrumentations.requests'] = None\n"
        f"{FIRST}; print(len(patching.status()) > 10)"
    )
    done = python(code)

    assert done.stdout == b"True\n"
    assert done.stderr.count(b"\n") == 1
    assert b"instrumentations.requests failed" in done.stderr


def test_no_setting_of_django_is_read(tmp_path: Path) -> None:
    """Starting reads no Django setting, not even in the midst of the settings module, which starts us."""
    (tmp_path / "early_settings.py").write_text(
        "import sys; first = 'introspect.agent' in sys.modules\n"
        "from django.urls import reverse_lazy\n"
        "LOGIN_URL = reverse_lazy('login'); then = 'introspect.agent' in sys.modules\n"
        "from django.conf import settings; configured = settings.configured\n"
        "SITE_ROOT = '/srv'; MEDIA_ROOT = SITE_ROOT + '/media'\n"
    )
    env = environment(DJANGO_SETTINGS_MODULE="early_settings", PYTHONPATH=str(tmp_path))
    expression = "[found.first, found.then, found.configured]"

    assert told(expression, first="import early_settings as found", env=env) == [False, True, False]
    assert told("'early_settings' in __import__('sys').modules", first=FIRST, env=env) is False


SPAWNING = (
    "import sys; spawned = []; names = ('subprocess.Popen', 'os.fork', 'os.forkpty', 'os.posix_spawn', 'os.spawn', 'os.system', 'os.exec')\n"
    "sys.addaudithook(lambda event, _args: spawned.append(event) if event in names else None)\n"
)


def test_no_process_is_started(stocked_site: Site, statsd: StatsdListener) -> None:
    """Neither the start nor a request starts a process, in which the agent would start in turn, and so on."""
    first = (
        f"{SPAWNING}from django.core.wsgi import get_wsgi_application as make\n"
        "from wsgiref.util import setup_testing_defaults as complete\n"
        "environ = {'PATH_INFO': '/queries/1/'}; complete(environ)\n"
        "response = make()(environ, lambda status, headers: None); list(response); response.close()"
    )
    env = stocked_site.environment(
        INTROSPECT_STATSD=statsd.address, INTROSPECT_LOG="file:///dev/null"
    )

    assert told("spawned", first=first, env=env) == []
    statsd.wait_for_count("shop.process.rss", 1)


def test_no_thread_and_no_socket() -> None:
    """Starting starts no thread and opens no socket."""
    expression = "[len(__import__('os').listdir('/proc/self/task')), sum('socket' in __import__('os').readlink('/proc/self/fd/' + n) for n in __import__('os').listdir('/proc/self/fd') if __import__('os').path.exists('/proc/self/fd/' + n))]"

    assert told(expression, first=FIRST) == told(
        expression, first="import django.conf", agent=False
    )


def test_one_hook_at_forks_for_ever() -> None:
    """However often the agent starts, one function of a module runs at a fork, and in the child alone: no fork waits."""
    first = (
        "import os; hooks = []; register = os.register_at_fork\n"
        "def noted(**given):\n"
        "    hooks.extend((when, f'{call.__module__}.{call.__qualname__}') for when, call in given.items())\n"
        "    register(**given)\n"
        "os.register_at_fork = noted\n"
        f"{FIRST}\nfor _ in range(3): start.stop(); start.start()\n"
        "import socket; server = socket.create_server(('127.0.0.1', 0)); address = 'tcp://127.0.0.1:%d' % server.getsockname()[1]\n"
        "from introspect.agent import outputs, settings\n"
        "for _ in range(3): outputs.Outputs(settings.log_outputs(address)).write(b'x')"
    )
    ours = "[hook for hook in hooks if hook[1].startswith('introspect.')]"

    assert told(ours, first=first) == [["after_in_child", "introspect.agent.work._leave_parent"]]


def test_no_signal_handler_is_installed() -> None:
    """Starting leaves every signal to the server: gunicorn's graceful stop is its own."""
    expression = (
        "[str(signal.getsignal(n)).partition(' at ')[0] for n in sorted(signal.valid_signals())]"
    )
    found = told(expression, first=f"import signal; {FIRST}")

    assert found == told(expression, first="import signal; import django.conf", agent=False)


def test_no_instrumented_library_is_imported() -> None:
    """Starting imports no library in order to patch it: what the program does not use costs nothing."""
    expression = "[name for name in ('requests', 'urllib3', 'http.client', 'celery', 'redis', 'django.db', 'django.template', 'django.core.handlers.wsgi', 'psutil', 'statsd') if name in sys.modules]"

    assert told(expression, first=FIRST) == told(
        expression, first="import django.conf", agent=False
    )


def test_debug_says_that_it_has_started() -> None:
    """In debug mode one line says where metrics go."""
    done = python(FIRST, env=environment(INTROSPECT_DEBUG="1"))

    assert b"introspect: started in process" in done.stderr
    assert b"metrics go to off" in done.stderr
