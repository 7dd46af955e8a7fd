"""The dispatcher process: any number may run, one is the brain, the others wait.

It is not a Celery worker, but it hears Celery's remote control: `revoke`.
"""

import os
import signal
import socket
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from threading import Event, Thread
from types import FrameType
from typing import Any
from uuid import UUID

import psycopg
import structlog
from celery import Celery
from psycopg.errors import IdleInTransactionSessionTimeout
from redis import Redis, RedisError

from config.catalog import Catalog
from config.settings import Settings
from ledger import leadership
from ledger.connect import connect
from ledger.errors import NotLeadingError
from workers.app import DISPATCH_QUEUE
from workers.brain import Brain
from workers.doorbell import Doorbell, News
from workers.garbage import collect_rarely
from workers.housekeeper import Housekeeper
from workers.inbox import Inbox
from workers.remote import RemoteControl

LEASE_S = 5.0
"""How long a brain that shows no sign of life keeps the others waiting."""

RENEW_S = LEASE_S / 4

LATEST_RENEW_S = 1.5 * RENEW_S
"""Where there is always something to do: no task that arrives shall wait for it."""

STANDBY_S = 0.5
"""How often a standby tries to take over."""

LONGEST_BACKOFF_S = 5.0

log = structlog.get_logger()


class Dispatcher:
    """One process that leads, or waits to lead."""

    def __init__(self, settings: Settings, catalog: Catalog, app: Celery) -> None:
        self.settings = settings
        self.catalog = catalog
        self.app = app
        self.name = f"dispatcher@{socket.gethostname()}:{os.getpid()}"
        self.stopping = Event()
        self.revoked: SimpleQueue[UUID] = SimpleQueue()
        self.doorbell: Doorbell | None = None
        self.remote = RemoteControl(app, self.name, {"revoke": self.on_revoke})

    def run(self) -> None:
        """Lead whenever nobody else does, until `stop`; lost servers are waited for."""
        self.app.set_current()
        self.remote.start()
        backoff_s = STANDBY_S
        while not self.stopping.is_set():
            began = time.monotonic()
            self.remote.came_round()
            try:
                self.lead_or_stand_by()
            except NotLeadingError as error:
                log.warning("stepped_down", why=str(error))
            except (psycopg.OperationalError, IdleInTransactionSessionTimeout, RedisError, OSError) as error:
                if time.monotonic() - began > LONGEST_BACKOFF_S:
                    backoff_s = STANDBY_S  # it has worked for a while: this is another outage
                log.warning("server_lost", error=type(error).__name__, again_in_s=backoff_s)
                self.stopping.wait(backoff_s)
                backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)

    def stop(self) -> None:
        """End after the tick that runs."""
        self.stopping.set()
        self.remote.close()
        self.wake()

    def on_signal(self, *_: int | FrameType | None) -> None:
        """Stop, from a thread: the one that a signal interrupts may hold the lock that this needs."""
        Thread(target=self.stop).start()

    def wake(self) -> None:
        doorbell = self.doorbell
        if doorbell is not None:
            doorbell.ring()

    def lead_or_stand_by(self) -> None:
        with connect(self.settings.database_url, name="brain", by_key=True) as db:
            log.info("waiting_to_lead", leader=leadership.current(db).holder)
            epoch = None
            while epoch is None and not self.stopping.is_set():
                epoch = leadership.take(db, self.name, LEASE_S)
                self.remote.came_round()
                if epoch is None:
                    self.stopping.wait(STANDBY_S)
            if epoch is not None:
                self.lead(db, epoch)

    def lead(self, db: psycopg.Connection[Any], epoch: int) -> None:
        """Be the brain until told to stop or until another one leads."""
        log.info("leading", epoch=epoch, name=self.name)
        with ExitStack() as stack:
            redis = stack.enter_context(closing(Redis.from_url(self.settings.redis_url)))
            listener = stack.enter_context(connect(self.settings.database_url, name="listener"))
            inbox = Inbox(redis, DISPATCH_QUEUE)
            self.doorbell = stack.enter_context(closing(Doorbell(redis, inbox, listener)))
            brain = Brain(db, redis, self.app, self.catalog, epoch, inbox)
            stack.enter_context(closing(brain.wire))
            stack.enter_context(closing(Housekeeper(self.settings, self.catalog).start()))
            brain.rebuild()
            news = News((), ())
            renewed_at, ticks, tick_s = 0.0, 0, 0.0
            while not self.stopping.is_set():
                self.remote.came_round()
                if time.monotonic() - renewed_at > (RENEW_S if news.is_quiet else LATEST_RENEW_S):
                    leadership.renew(db, epoch, LEASE_S, ticks=ticks, tick_s=tick_s)
                    renewed_at, ticks, tick_s = time.monotonic(), 0, 0.0
                began = time.monotonic()
                brain.tick(news.hints, news.batches)
                ticks, tick_s = ticks + 1, tick_s + time.monotonic() - began
                revoked = drain(self.revoked)
                if revoked:
                    brain.cancel(revoked)
                news = self.doorbell.wait(sleep_s(brain))
            self.doorbell = None
            leadership.resign(db, epoch)
        log.info("stopped_leading", epoch=epoch)

    def on_revoke(self, _state: object, task_id: str | list[str], **_: object) -> dict[str, str]:
        for one in [task_id] if isinstance(task_id, str) else task_id:
            try:
                self.revoked.put(UUID(one))
            except ValueError:
                log.info("revoke_ignored", task=one, why="none of ours: not a uuid")
        self.wake()
        return {"ok": "the tasks that have not ended are cancelled"}


def drain(queue: "SimpleQueue[UUID]") -> list[UUID]:
    found: list[UUID] = []
    while True:
        try:
            found.append(queue.get_nowait())
        except Empty:
            return found


def sleep_s(brain: Brain) -> float:
    """Tell how long nothing will happen by itself."""
    looks_in_s, moment = brain.looks_in_s(), brain.scheduler.next_moment()
    if moment is None:
        return looks_in_s
    return min(looks_in_s, max(0.0, (moment - datetime.now(UTC)).total_seconds()))


def run_dispatcher(settings: Settings, catalog: Catalog, app: Celery) -> None:
    """Run a dispatcher until SIGTERM or SIGINT."""
    collect_rarely()
    dispatcher = Dispatcher(settings, catalog, app)
    signal.signal(signal.SIGTERM, dispatcher.on_signal)
    signal.signal(signal.SIGINT, dispatcher.on_signal)
    dispatcher.run()
