"""Beat: Celery's beat service with a scheduler on the ledger; any number of them may run."""

import os
import socket
import time
from typing import Any

import psycopg
import structlog
from celery import Celery
from celery.beat import Scheduler
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from config.catalog import Catalog, load_catalog
from config.errors import CatalogError
from config.schedule import twins
from config.settings import Settings, settings
from ledger import schedules
from ledger.connect import connect
from workers.catalog import catalog
from workers.remote import RemoteControl
from workers.schedule.postman import Postman
from workers.schedule.rounds import Rounds

LOOK_S = 1.0
"""How often ended runs, changed files and a Redis that was emptied are looked for."""

FILES = ("models.yaml", "profiles.yaml", "schedule.yaml")

log = structlog.get_logger()


class LedgerScheduler(Scheduler):
    """What Celery's beat asks how long to sleep; the schedule and what has fired are in files and ledger."""

    rounds: Rounds | None = None
    postman: Postman | None = None
    remote: RemoteControl | None = None

    def setup_schedule(self) -> None:
        """Start to deliver; the rounds begin with the first tick."""
        self.using: Settings = settings()
        self.catalog: Catalog = catalog()
        self.files = self.look_at_files()
        self.postman = Postman(
            self.using.database_url, Redis.from_url(self.using.redis_url), self.app, self.catalog
        ).start()
        self.remote = RemoteControl(self.app, f"beat@{socket.gethostname()}:{os.getpid()}").start()
        say(self.catalog)

    def tick(self, *_: object, **__: object) -> float:
        """Make a round; lost servers are waited for.

        Returns:
            Seconds until the next one.
        """
        if self.remote is not None:
            self.remote.came_round()
        try:
            return self.make_a_round()
        except (psycopg.Error, RedisError, OperationalError, OSError) as error:
            log.warning("server_lost", error=type(error).__name__, again_in_s=LOOK_S)
            self.disconnect()
            return LOOK_S

    def make_a_round(self) -> float:
        if self.rounds is None:
            db = connect(self.using.database_url, name="beat")
            self.rounds = Rounds(db, Redis.from_url(self.using.redis_url), self.app, self.catalog)
            self.rounds.begin(schedules.now(db))
        began = time.monotonic()
        now = schedules.now(self.rounds.db)
        if (changed := self.changed_catalog()) is not None:
            self.rounds.take_over(changed, now)
        following = self.rounds.make_a_round(now)
        if following is None:
            return LOOK_S
        until_s = (following - now).total_seconds() - (time.monotonic() - began)
        return min(max(until_s, 0.01), LOOK_S)

    def changed_catalog(self) -> Catalog | None:
        """Read the files again where they have changed; faulty ones leave all as it was."""
        files = self.look_at_files()
        if files == self.files:
            return None
        self.files = files
        try:
            self.catalog = load_catalog(self.using.config)
        except CatalogError as error:
            log.error("files_refused", why=str(error), what_to_do="mend them; until then the old ones count")  # noqa: TRY400 - the faults say it all
            return None
        if self.postman is not None:
            self.postman.catalog = self.catalog
        say(self.catalog)
        return self.catalog

    def look_at_files(self) -> list[tuple[int, int] | None]:
        found: list[tuple[int, int] | None] = []
        for name in FILES:
            try:
                stat = (self.using.config / name).stat()
                found.append((stat.st_mtime_ns, stat.st_size))
            except OSError:
                found.append(None)
        return found

    def disconnect(self) -> None:
        if self.rounds is not None:
            self.rounds.db.close()
            self.rounds.redis.close()
            self.rounds = None

    def close(self) -> None:
        """End."""
        if self.remote is not None:
            self.remote.close()
        if self.postman is not None:
            self.postman.close()
        self.disconnect()


def say(using: Catalog) -> None:
    """Log what the schedule is."""
    enabled = [entry for entry in using.schedule.values() if entry.enabled]
    log.info("beat", schedule={entry.name: entry.rhythm for entry in enabled})
    for first, second in twins(using.schedule):
        log.warning("asks_the_same", schedule=second, also=first, what_to_do="disable one of the two")


def run_beat(app: Celery) -> None:
    """Run beat until SIGTERM or SIGINT."""
    app.set_current()
    options: dict[str, Any] = {"loglevel": "WARNING", "quiet": True, "redirect_stdouts": False}
    app.Beat(scheduler=f"{__name__}:{LedgerScheduler.__name__}", **options).run()
