"""What the installed commands call: finds our packages, whatever else is called ``introspect``.

An application's own package of that name on PYTHONPATH hides ours, which are a namespace, from
every Python, and the commands are Python programs, too. So they begin in a package with a name of
its own, ``introspect_run``, which knows where ours are in every kind of installation.
"""

from __future__ import annotations

import os
import sys


def run() -> int:
    """Be ``introspect-run``."""
    _find_ours()
    from introspect.bootstrap import run as introspect_run

    return introspect_run.main()


def introspect() -> int:
    """Be ``introspect``."""
    _find_ours()
    from introspect.bootstrap import cli

    return cli.main()


def _find_ours() -> None:
    """Let ``introspect`` be our namespace in this process: no path is searched for it.

    Installed from a wheel, it lies beside this package. The finder of an editable installation
    goes by full names, and needs no path.
    """
    namespace = type(sys)("introspect")
    here = os.path.dirname(os.path.abspath(__file__))
    namespace.__path__ = [os.path.join(os.path.dirname(here), "introspect")]
    sys.modules["introspect"] = namespace
