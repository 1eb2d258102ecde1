"""The project of `tests/project`, with the story's URLs and the ID in every line of its log."""

from shop.settings import *  # noqa: F403
from shop.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "story"]
ROOT_URLCONF = "story.urls"
WSGI_APPLICATION = None

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "[%(correlation_id)s %(service)s] %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "story.silent": {"handlers": [], "propagate": False, "level": "DEBUG"},
        "django": {"handlers": ["stderr"], "propagate": False, "level": "INFO"},
    },
}
