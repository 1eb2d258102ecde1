"""What the settings of the two services have in common.

DEMO_SERVICE  which of the two this is
DEMO_FOLDER   where the databases are
DEMO_SECRET   the secret key, new for each demonstration
DEMO_BACK     the address of the other service
"""

import os

SERVICE = os.environ["DEMO_SERVICE"]
FOLDER = os.environ["DEMO_FOLDER"]
SECRET_KEY = os.environ["DEMO_SECRET"]
BACK = os.environ.get("DEMO_BACK", "")

LOOPBACK = ["127.0.0.1", "localhost"]

# `correlation_id` and `service` are set by introspect on every record. The defaults keep the format
# from failing where introspect is switched off.
FORMATTER = {
    "()": "logging.Formatter",
    "fmt": "{asctime} {service} {levelname} {name}: {message} {correlation_id}",
    "style": "{",
    "defaults": {"service": "-", "correlation_id": "-"},
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": FORMATTER},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}


def sqlite(service):
    """Return Django's description of a service's database."""
    return {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.path.join(FOLDER, f"{service}.sqlite3"),
            "OPTIONS": {"timeout": 20},
        }
    }


def templates(*context_processors):
    """Return Django's description of its own template engine."""
    return [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {"context_processors": list(context_processors)},
        }
    ]
