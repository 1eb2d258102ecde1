"""A real Celery worker under the agent, and a client without it."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery
from redis import Redis

from tests.helpers.processes import Running, introspect_run, running, script, wait_until
from tests.helpers.site import PROJECT, Site
from tests.helpers.statsd import StatsdListener

HERE = Path(__file__).parent
DATABASE = 9  # of Redis; its keys have a prefix of the test's own as well

POOLS = {
    "prefork": ("--pool=prefork", "--concurrency=2"),
    "threads": ("--pool=threads", "--concurrency=2"),
    "solo": ("--pool=solo",),
    "gevent": ("--pool=gevent", "--concurrency=10"),
}


class Queue:
    """Keys of one's own in a Redis, and a client that sends tasks and waits for results."""

    def __init__(self, host: str, port: int) -> None:
        self.url = f"redis://{host}:{port}/{DATABASE}"
        self.prefix = f"introspect-{os.getpid()}-{uuid.uuid4().hex[:8]}:"
        self.app = celery.Celery("client", broker=self.url, backend=self.url, set_as_current=False)
        options = {"global_keyprefix": self.prefix}
        self.app.conf.update(
            broker_transport_options=options,
            result_backend_transport_options=options,
            task_default_queue="tasked",
        )

    def send(self, name: str, *args: object, **options: Any) -> celery.result.AsyncResult:
        """Send the task of `tasked.tasks` called `name`."""
        return self.app.send_task(f"tasked.tasks.{name}", args, **options)

    def result(self, task_id: str) -> Any:
        """Wait for a task sent by somebody else, and return its result."""
        return self.app.AsyncResult(task_id).get(timeout=30)

    def waiting(self) -> int:
        """Return how many messages no worker has taken or acknowledged yet."""
        with contextlib.closing(Redis.from_url(self.url)) as redis:
            return redis.llen(f"{self.prefix}tasked") + redis.hlen(f"{self.prefix}unacked")

    def close(self) -> None:
        """Close the client, and delete the keys."""
        self.app.backend.result_consumer.stop()
        self.app.backend.client.connection_pool.disconnect()
        self.app.pool.force_close_all()
        self.app.close()
        with contextlib.closing(Redis.from_url(self.url)) as redis:
            for key in redis.scan_iter(f"{self.prefix}*"):
                redis.delete(key)
        # Celery's client leaves a connection to be collected; the warning would be another test's.
        del self.app
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


class Worker:
    """A running worker: what it has measured and written."""

    def __init__(
        self, started: Running, queue: Queue, statsd: StatsdListener, file: Path, site: Site
    ) -> None:
        self.started, self.queue, self.statsd, self.file, self.site = (
            started, queue, statsd, file, site,
        )  # fmt: skip

    def lines(self) -> list[dict[str, Any]]:
        """Return every JSON line so far."""
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text().split("\n")[:-1]]

    def line_of(self, task_id: str) -> dict[str, Any]:
        """Wait for the one canonical line of a task."""
        [line] = self.lines_of(task_id, 1)
        return line

    def lines_of(self, task_id: str, number: int) -> list[dict[str, Any]]:
        """Wait for so many canonical lines of a task, one for each time it was tried."""

        def found() -> list[dict[str, Any]] | None:
            lines = [line for line in self.lines() if line.get("task_id") == task_id]
            return lines if len(lines) >= number else None

        lines = wait_until(found, what=f"{number} lines of task {task_id}")
        assert lines is not None
        return lines


def environment(site: Site, queue: Queue, file: Path, address: str, **more: str) -> dict[str, str]:
    """Return the environment of the site with tasks, under the agent."""
    return site.environment(
        **{
            "DJANGO_SETTINGS_MODULE": "tasked.settings",
            "PYTHONPATH": f"{HERE}:{PROJECT}",
            "TASKED_BROKER": queue.url,
            "TASKED_PREFIX": queue.prefix,
            "INTROSPECT_STATSD": address,
            "INTROSPECT_SERVICE": "tasked",
            "INTROSPECT_LOG": f"file://{file}",
            **more,
        }
    )


@contextlib.contextmanager
def queue_in(redis: tuple[str, int]) -> Iterator[Queue]:
    """Give a queue of one's own."""
    with contextlib.closing(Queue(*redis)) as queue:
        yield queue


@contextlib.contextmanager
def worker(
    site: Site,
    redis: tuple[str, int],
    folder: Path,
    pool: str,
    *options: str,
    **more: str,
) -> Iterator[Worker]:
    """Run a worker while the block lasts, from when it is ready."""
    command = [
        *introspect_run(), script("celery"), "-A", "tasked", "worker", "--loglevel=INFO",
        "--without-gossip", "--without-mingle", "--without-heartbeat", *POOLS[pool], *options,
    ]  # fmt: skip
    file = folder / "log"
    with (
        contextlib.closing(StatsdListener()) as statsd,
        queue_in(redis) as queue,
        running(command, environment(site, queue, file, statsd.address, **more), folder) as started,
    ):
        wait_until(
            lambda: " ready." in started.stderr or started.returncode is not None, 120, "the worker"
        )
        assert started.returncode is None
        yield Worker(started, queue, statsd, file, site)
