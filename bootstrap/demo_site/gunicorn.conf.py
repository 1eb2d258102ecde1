"""What gunicorn reads in this folder by itself, so that the command line stays short."""

import shared

workers = 2
graceful_timeout = 5
access_log_format = "%(m)s %(U)s %(s)s"
# Versions without this setting leave it unread.
control_socket_disable = True

# gunicorn's own lines go where the site's go, in the same format.
logconfig_dict = {
    **shared.LOGGING,
    "loggers": {
        "gunicorn.access": {"level": "INFO", "propagate": True},
        "gunicorn.error": {"level": "INFO", "propagate": True},
    },
}
