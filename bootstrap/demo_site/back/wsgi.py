"""The WSGI application of `back`."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "back.settings")

application = get_wsgi_application()
