"""A site with Celery tasks, as people write them; what a test varies comes as TASKED_…."""

from tasked.celery import app as celery_app

__all__ = ("celery_app",)
