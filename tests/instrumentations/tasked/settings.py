"""The project of `tests/project`, with a queue.

TASKED_BROKER   the URL of a Redis
TASKED_PREFIX   what all its keys begin with
TASKED_EAGER    1: tasks run where they are sent
"""

import os

from shop.settings import *  # noqa: F403
from shop.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tasked"]
ROOT_URLCONF = "tasked.urls"
WSGI_APPLICATION = None

CELERY_BROKER_URL = CELERY_RESULT_BACKEND = os.environ["TASKED_BROKER"]
CELERY_BROKER_TRANSPORT_OPTIONS = CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {
    "global_keyprefix": os.environ["TASKED_PREFIX"]
}
CELERY_TASK_DEFAULT_QUEUE = "tasked"
CELERY_TASK_ALWAYS_EAGER = os.environ.get("TASKED_EAGER") == "1"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
