"""The Celery application, as Celery's documentation has it for Django."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tasked.settings")

app = Celery("tasked")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["tasked"])
