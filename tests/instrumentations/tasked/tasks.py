"""What tasks do: ask the database, log, fail, try again, call others."""

import logging
import os
import signal
import sys
import time

from books.models import Book
from celery import shared_task
from celery.exceptions import Ignore, Reject
from django.db import connection

logger = logging.getLogger("tasked")


def logged_id():
    """Return the ID that a log line of this place would bear."""
    made = logging.makeLogRecord({})
    return getattr(made, "correlation_id", None)


def seen_statement():
    """Ask the database for this very statement, as it sees it."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()")
            return cursor.fetchone()[0]
        seen = []
        connection.connection.set_trace_callback(seen.append)
        cursor.execute("SELECT 1")
        connection.connection.set_trace_callback(None)
        return seen[0]


@shared_task(bind=True)
def tell(self, seconds=0):
    """Tell the ID, the SQL and the headers that this execution has."""
    logger.info("told")
    time.sleep(seconds)
    return {"id": logged_id(), "statement": seen_statement(), "headers": self.request.headers}


@shared_task
def fail():
    """Fail."""
    raise ValueError("failed on request")


@shared_task(bind=True)
def try_again(self):
    """Succeed at the third attempt."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return {"id": logged_id(), "headers": self.request.headers}


@shared_task
def ignore():
    """Ask to be ignored."""
    raise Ignore


@shared_task
def reject():
    """Ask not to be delivered again."""
    raise Reject("on request", requeue=False)


@shared_task(acks_late=True)
def count_books():
    """Ask the database once."""
    return Book.objects.count()


@shared_task
def outer():
    """Send a task, and call one here and now."""
    sent = tell.delay()
    called = tell.apply().result
    return {"id": logged_id(), "called": called["id"], "sent": sent.id}


@shared_task
def sleep(seconds):
    """Take long."""
    time.sleep(seconds)


@shared_task
def die():
    """End as the kernel ends a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task
def leave():
    """Try to end the process."""
    sys.exit(3)
