"""From the sockets to the file: starts the readers, and writes what they read each half second."""

from __future__ import annotations

import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Final

from introspect.console.batch import Batch
from introspect.console.receive import Inbox, LogReceiver, Receiver, StatsdReceiver

if TYPE_CHECKING:
    import socket

    from introspect.console.say import Voice
    from introspect.console.store import Store

WRITE_EVERY: Final = 0.5
"""Seconds; with what the readers hold back less than a second is lost if we are killed."""


class Pipeline:
    """The console without its pages."""

    def __init__(
        self,
        store: Store,
        statsd: socket.socket,
        log_udp: socket.socket,
        log_tcp: socket.socket,
        voice: Voice,
    ) -> None:
        self._store = store
        self._voice = voice
        self._inbox = Inbox()
        self._waiting = Batch()
        self._receivers: list[Receiver] = [
            StatsdReceiver(statsd, self._inbox, voice, store.gauges()),
            LogReceiver(log_udp, log_tcp, self._inbox, voice, store.retention),
        ]
        self._stopping = threading.Event()
        self._writer = threading.Thread(
            target=self._write_until_stopped, name="writer", daemon=True
        )

    def start(self) -> None:
        """Begin to receive."""
        for receiver in self._receivers:
            receiver.start()
        self._writer.start()

    def stop(self) -> None:
        """Receive what has already arrived, write it, and end; the store is left open."""
        for receiver in self._receivers:
            receiver.stop()
        for receiver in self._receivers:
            receiver.join()
        self._stopping.set()
        self._writer.join()

    def _write_until_stopped(self) -> None:
        while not self._stopping.wait(WRITE_EVERY):
            self._write()
        self._write()
        if self._waiting.works or self._waiting.logs or self._waiting.points:
            lost = len(self._waiting.works) + len(self._waiting.logs)
            self._voice.say("lost", f"{lost} lines could not be written before the end")

    def _write(self) -> None:
        """Write what came in; what the file does not take now waits for the next time."""
        # If much waits already, the rest does so in the inbox, and then with the senders.
        if not self._waiting.is_crowded():
            self._waiting.add(self._inbox.take())
        lost = self._waiting.counts.get("store.lost")
        if lost:
            self._voice.say(
                "lost",
                f"{lost:.0f} lines were given up: {self._store.path} took them too slowly",
            )
        began = time.perf_counter()
        try:
            self._store.write(self._waiting, time.time())
        except (sqlite3.OperationalError, OSError) as error:
            self._waiting.count("store.put_off", 1)
            self._voice.say(
                "store",
                f"{self._store.path} cannot be written now ({error}); {self._remedy(error)}",
            )
        except Exception as error:
            # Not the file's fault: the batch itself cannot be written, and never will be.
            self._voice.say(
                "batch", f"a batch was given up because of {type(error).__name__}: {error}"
            )
            self._waiting = Batch()
            self._waiting.count("store.given_up", 1)
        else:
            self._waiting = Batch()
            self._waiting.count("store.write_seconds", time.perf_counter() - began)

    @staticmethod
    def _remedy(error: Exception) -> str:
        if "full" in str(error):
            return "make room, or start with a smaller --max-size; until then the oldest lines go"
        if "locked" in str(error):
            return "another program holds it; what comes in waits in memory"
        return "what comes in waits in memory"
