"""Settings of the warehouse, as in production: DEBUG is off."""

import shared

SECRET_KEY = shared.SECRET_KEY
DEBUG = False
ALLOWED_HOSTS = shared.LOOPBACK
ROOT_URLCONF = "back.urls"
WSGI_APPLICATION = "back.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"

INSTALLED_APPS = ["back", "statement_log.StatementLog"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
DATABASES = shared.sqlite("back")
TEMPLATES = shared.templates()
LOGGING = shared.LOGGING
