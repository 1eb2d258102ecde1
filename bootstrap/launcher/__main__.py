"""``python -m introspect_run``: be ``introspect-run``, wherever its script is."""

import sys

from . import run

sys.exit(run())
