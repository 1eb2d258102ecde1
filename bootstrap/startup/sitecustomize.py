"""Run by every Python interpreter started under introspect-run, before the program.

It runs the environment's own sitecustomize, if there is one, and then waits for Django to be
used, which starts the agent. A process that never imports Django pays for this file alone.

Any Python may find this file on its path, so it parses on every Python 3 and imports nothing that
is not loaded already. Nothing of ours gets out of it, not even SystemExit, which would end the
program before it began.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

# What `import django` imports too. That alone is so small that programs do it before they have
# gevent patch the standard library, and what we import (ssl, for one) must be imported after. Any
# other part of Django means that it is used. Its own modules must not be waited for one by one:
# the first of them may be half imported by then (`django.core.handlers.wsgi` imports `django.conf`
# before it defines its class), and a half imported module cannot be patched. Being late is also why
# we need no copies of the standard library's modules, which other agents keep and which break those
# who compare objects.
UTILITIES = "django.utils"


def warn(message):
    try:
        sys.stderr.write("introspect: " + message + "\n")
    except Exception:
        pass


def debug(message):
    if os.environ.get("INTROSPECT_DEBUG", "").lower() in ("1", "true", "yes", "on"):
        warn(message)


def leave_the_path():
    """Make sys.path what it would be without us; PYTHONPATH stays as it is, for our children."""
    sys.path[:] = [entry for entry in sys.path if not is_ours(entry)]


def is_ours(entry):
    # A relative one, such as editable installations leave, may be resolved against a working
    # directory that is gone, which raises; and PYTHONPATH has us by an absolute one.
    return os.path.isabs(entry) and os.path.realpath(entry) == os.path.realpath(HERE)


def run_own_sitecustomize():
    """Import the sitecustomize that we are in the way of, as site would have done."""
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize
    except ImportError as error:
        if getattr(error, "name", None) != "sitecustomize":
            report_own(error)
    except Exception as error:
        report_own(error)
    finally:
        # The import system wants to find a module where it left one.
        if ours is not None:
            sys.modules.setdefault("sitecustomize", ours)


def report_own(error):
    if sys.flags.verbose:
        sys.excepthook(*sys.exc_info())
        return
    warn(
        "this environment's own sitecustomize (%s) failed, which has nothing to do with "
        "introspect: %s: %s" % (file_of_own(error), type(error).__name__, error)
    )


def file_of_own(error):
    traceback = error.__traceback__.tb_next
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if not filename.startswith("<frozen "):
            return filename
        traceback = traceback.tb_next
    return getattr(error, "filename", None)  # it could not even be compiled


class DjangoFinder(object):
    """Stands first in sys.meta_path until Django is imported; finds nothing itself."""

    def find_spec(self, name, path=None, target=None):
        if name.startswith("django.") and not name.startswith(UTILITIES):
            self.stand_down()
            start_agent()
        return None

    def stand_down(self):
        try:
            sys.meta_path.remove(self)
        except ValueError:
            pass


def start_agent():
    try:
        package = package_in_the_way()
        if package:
            warn(
                "%s is in the way of our own package `introspect`: the program runs without the "
                "agent. Rename that package, or leave its folder out of sys.path" % package
            )
            return
        from introspect.bootstrap.start import start

        start()
        # A namespace for the moment: a program that puts the folder of an `introspect` of its own
        # on sys.path only now shall find that. Ours find one another without it.
        sys.modules.pop("introspect", None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        warn(
            "the agent could not be started, the program runs without it: %s: %s"
            % (type(error).__name__, error)
        )


def package_in_the_way():
    """Name the file of a package of the program's own that hides ours, which has no __init__.py.

    Theirs is not imported for that: it is the program's to say when.
    """
    if "introspect" in sys.modules:
        package = getattr(sys.modules["introspect"], "__file__", None)
    else:
        from importlib.machinery import PathFinder

        package = getattr(PathFinder.find_spec("introspect"), "origin", None)
    ours = os.path.dirname(os.path.dirname(HERE))
    if package and os.path.realpath(os.path.dirname(package)) != os.path.realpath(ours):
        return package
    return None


def is_wanted():
    """Tell whether this process is to be instrumented, and say so where it is not."""
    if os.environ.get("INTROSPECT_ENABLED", "").strip().lower() in ("0", "false", "no", "off"):
        return False
    # Left by introspect-run: its process id, which exec keeps, and its interpreter.
    launch = os.environ.get("_INTROSPECT_LAUNCH", "").split("|", 2)
    if len(launch) != 3:
        return True
    is_the_command = launch[0] == str(os.getpid())
    children = os.environ.get("INTROSPECT_CHILDREN", "").strip().lower()
    if not is_the_command and children == "none" and not is_reloaded():
        return False
    version, prefix = interpreter()
    if launch[1] == version and os.path.realpath(launch[2]) == os.path.realpath(prefix):
        return True
    if is_the_command and not is_launcher():
        warn(
            "the command runs Python %s of %s, introspect-run is installed in Python %s of %s: "
            "install introspect-agent there, and use that environment's introspect-run"
            % (version, prefix, launch[1], launch[2])
        )
        return sys.version_info >= (3, 10) and children == "all"
    debug("process %d is another Python, and is left alone" % os.getpid())
    return sys.version_info >= (3, 10) and children == "all"


def is_launcher():
    """Tell whether this is the introspect-run of another environment, about to start anew."""
    words = getattr(sys, "argv", None) or [""]  # none yet in an embedded interpreter
    return os.path.basename(words[0]) in ("introspect-run", "introspect")


def is_reloaded():
    return "RUN_MAIN" in os.environ or "WERKZEUG_RUN_MAIN" in os.environ


def interpreter():
    return ("%d.%d" % sys.version_info[:2], sys.prefix)


def main():
    try:
        leave_the_path()
        run_own_sitecustomize()
        if is_wanted():
            sys.meta_path.insert(0, DjangoFinder())
    except Exception as error:
        warn("%s: %s" % (type(error).__name__, error))


main()
