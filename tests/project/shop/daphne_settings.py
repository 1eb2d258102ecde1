"""The project's settings with daphne installed, whose `runserver` then stands in the place of Django's."""

from shop.settings import *  # noqa: F403
from shop.settings import INSTALLED_APPS as _INSTALLED_APPS

INSTALLED_APPS = ["daphne", *_INSTALLED_APPS]
ASGI_APPLICATION = "shop.asgi.application"
