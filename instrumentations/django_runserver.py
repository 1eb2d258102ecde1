"""Let what runserver says between two requests of a connection belong to neither."""

from __future__ import annotations

from introspect.agent.patching import timed
from introspect.instrumentations.gunicorn import request_handled

# One thread reads all requests of a connection, and logs those that it cannot read, too.
PATCHES = (
    timed(
        "django.core.servers.basehttp:WSGIRequestHandler.handle_one_request", after=request_handled
    ),
)
