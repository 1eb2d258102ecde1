"""Settings of the shop, as in production: DEBUG is off."""

import shared

SECRET_KEY = shared.SECRET_KEY
DEBUG = False
ALLOWED_HOSTS = shared.LOOPBACK
ROOT_URLCONF = "front.urls"
WSGI_APPLICATION = "front.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "front",
    "statement_log.StatementLog",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = shared.sqlite("front")
TEMPLATES = shared.templates(
    "django.template.context_processors.request", "django.contrib.auth.context_processors.auth"
)
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
LOGGING = shared.LOGGING

BACK = shared.BACK
