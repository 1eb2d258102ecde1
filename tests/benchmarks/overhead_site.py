"""Settings of the site that `overhead.py` measures: what `startproject` writes, for production."""

from __future__ import annotations

import os

from overhead_plan import PAGES

DEBUG = False
SECRET_KEY = "benchmark"
ALLOWED_HOSTS = ["localhost"]
ROOT_URLCONF = "overhead_pages"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "overhead_site",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["OVERHEAD_DATABASE"],
        "CONN_MAX_AGE": None,  # the pages differ in their statements, not in their connections
    }
}

NESTED_TEMPLATES = PAGES["templates"].operations

_SOURCES = {
    "base.html": "<html><head><title>{% block title %}{% endblock %}</title></head>"
    "<body>{% include 'header.html' %}{% block content %}{% endblock %}</body></html>",
    "header.html": "<h1>{{ shop }}</h1><p>{{ count }} books, {{ cheap }} below 20</p>",
    "page.html": "{% extends 'base.html' %}{% block title %}{{ shop|upper }}{% endblock %}"
    "{% block content %}<ul>{% for book in books %}<li>{{ book.title|title }}, "
    "{{ book.author.name }}: {{ book.price|floatformat:2 }}</li>{% endfor %}</ul>"
    "{% include 'side.html' %}{% endblock %}",
    "side.html": "<ol>{% for author in authors %}<li>{{ author.name }}</li>{% endfor %}</ol>"
    "{{ answer }}",
    "nested0.html": "0",
    **{
        f"nested{depth}.html": f"{{% include 'nested{depth - 1}.html' %}}"
        for depth in range(1, NESTED_TEMPLATES)
    },
}

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.messages.context_processors.messages",
            ],
            "loaders": [
                (
                    "django.template.loaders.cached.Loader",
                    [("django.template.loaders.locmem.Loader", _SOURCES)],
                )
            ],
        },
    }
]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {
        "file": {
            "class": "logging.FileHandler",
            "filename": os.devnull,
            "formatter": "plain",
        }
    },
    "root": {"handlers": ["file"], "level": "INFO"},
}
