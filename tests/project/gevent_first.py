"""gunicorn configuration for `--preload` with gevent: Django must not be imported before gevent has patched."""

from gevent import monkey

monkey.patch_all()
