"""A worker's signs of life: its row, its leases; and the news that an attempt of its own is not wanted."""

import os
import socket
import time
from collections.abc import Mapping
from threading import Event, Thread

import psutil
import psycopg
import structlog

from ledger import attempts, workers
from ledger.attempts import Key
from ledger.connect import Connection
from workers.picture import STALE_S
from workers.reconnecting import LONGEST_PAUSE_S, Reconnecting

LEASE_S = 30.0
"""How long an attempt stays this worker's without another sign of life."""

BEAT_S = 2.0
"""How often the worker shows that it is there, and renews its leases."""

LOOK_S = 0.8
"""How often it looks whether what it runs was cancelled, or given to another while it was away."""

log = structlog.get_logger()


class Alive:
    """A thread that speaks for a worker as long as it runs anything."""

    def __init__(
        self, database_url: str, worker: str, slots: Mapping[str, int], running: Mapping[Key, Event]
    ) -> None:
        """Begin to show signs of life.

        Args:
            database_url: of the ledger.
            worker: its name.
            slots: attempts it can run at once, by queue.
            running: what it runs; the event of an attempt is set once nobody wants its answer any more.
        """
        self.worker = worker
        self.slots = dict(slots)
        self.process = psutil.Process()
        self.models: Mapping[str, str] = {}
        """What this host says of each local model."""
        self.running = running
        self.db = Reconnecting(database_url, "presence")
        self.is_shown = False
        self.shown_at = float("-inf")
        self.leaving = Event()
        self.closing = Event()
        self.wake = Event()
        self.gone = Event()
        """Set: the brain can know that it left."""
        self.thread = Thread(target=self.run, name="presence", daemon=True)
        self.thread.start()

    def run(self) -> None:
        """Go on until `close`."""
        pause_s, is_last = LOOK_S, False
        while not is_last:
            is_last = self.closing.is_set()
            try:
                self.once(self.db.get())
                pause_s = LOOK_S
            except psycopg.Error as error:
                log.warning("presence_not_recorded", error=type(error).__name__, again_in_s=pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            if not is_last:
                self.wake.wait(pause_s)
                self.wake.clear()
        self.db.close()

    def once(self, db: Connection) -> None:
        """Do what is due."""
        keys = list(self.running)
        if time.monotonic() - self.shown_at > BEAT_S or self.is_shown == self.leaving.is_set():
            self.show(db)
            attempts.renew(db, keys, lease_s=LEASE_S)
            self.shown_at = time.monotonic()
        if keys:
            self.call_off(db, keys)

    def show(self, db: Connection) -> None:
        """Write or remove the worker's row, and tell the brain when that changes something."""
        is_leaving = self.leaving.is_set()
        silent_s: float | None = 0.0
        if not is_leaving:
            silent_s = workers.seen(
                db,
                name=self.worker,
                host=socket.gethostname(),
                pid=os.getpid(),
                slots=self.slots,
                models=self.models,
                memory_bytes=self.process.memory_info().rss,
            )
        elif self.is_shown:
            workers.left(db, self.worker)
        is_back = silent_s is None or silent_s > STALE_S  # this host was asleep, say
        if is_back or self.is_shown == is_leaving:
            self.is_shown = not is_leaving
            workers.notify(db)
        if is_leaving:
            self.gone.set()

    def call_off(self, db: Connection, keys: list[Key]) -> None:
        """Stop what has ended in the ledger: it was cancelled, or its lease ended while this worker slept."""
        for key in attempts.called_off(db, keys):
            called_off = self.running.get(key)
            if called_off is not None:
                called_off.set()

    def leave(self) -> None:
        """Say goodbye; the leases of what still runs are renewed to its end."""
        self.leaving.set()
        self.wake.set()

    def close(self) -> None:
        """End; nothing runs any more."""
        self.leaving.set()
        self.closing.set()
        self.wake.set()
        self.thread.join()
