"""The agent is put together once, and taken apart whole."""

from __future__ import annotations

from tests.bootstrap.launching import environment, python, told

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
        "'django.db.backends.utils:CursorWrapper.execute' in patching.status()",
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


def test_no_setting_of_django_is_read() -> None:
    """Starting reads no Django setting: they may not be complete, or never be."""
    assert told("django.conf.settings.configured", first=FIRST) is False


def test_no_process_is_started() -> None:
    """Starting starts no thread and opens no socket."""
    expression = "[len(__import__('os').listdir('/proc/self/task')), sum('socket' in __import__('os').readlink('/proc/self/fd/' + n) for n in __import__('os').listdir('/proc/self/fd') if __import__('os').path.exists('/proc/self/fd/' + n))]"

    assert told(expression, first=FIRST) == told(
        expression, first="import django.conf", agent=False
    )


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
