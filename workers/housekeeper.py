"""What the leading dispatcher does in the background, on a connection of its own: the brain never waits.

What attempts used is added to the sums of its hour and day, partitions are made ahead, texts that are old
enough are removed a batch at a time, and partitions that are older than attempts are kept are dropped.
"""

import time
from datetime import UTC, datetime
from threading import Event, Thread

import psycopg
import structlog

from config.catalog import Catalog
from config.settings import Settings
from ledger import partitions, retention, rollup
from ledger.connect import Connection, connect
from workers.retention import ON_ITS_WAY, keep_text

ROUND_S = 60.0

PARTITIONS_S = 24 * 3600.0
"""Partitions are made months ahead."""

PAUSE_S = 0.2
"""Between two batches: the fleet's own statements come first."""

log = structlog.get_logger()


class Housekeeper:
    """A thread that makes its rounds from `start` to `close`."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self.settings = settings
        self.catalog = catalog
        self.partitions_at: float | None = None
        self.closing = Event()
        self.thread = Thread(target=self.run, name="housekeeper", daemon=True)

    def start(self) -> "Housekeeper":
        self.thread.start()
        return self

    def close(self) -> None:
        """End after the statement that runs."""
        self.closing.set()
        self.thread.join()

    def run(self) -> None:
        while not self.closing.is_set():
            try:
                self.make_a_round()
            except psycopg.Error as error:
                log.warning("housekeeping_failed", error=type(error).__name__, again_in_s=ROUND_S)
            self.closing.wait(ROUND_S)

    def make_a_round(self) -> None:
        """Do what there is to do."""
        with connect(self.settings.database_url, name="housekeeper", by_key=True) as db:
            rollup.fold(db)
            if self.partitions_at is None or time.monotonic() - self.partitions_at > PARTITIONS_S:
                self.tend_partitions(db)
            for profile in retention.profiles_with_text(db):
                self.remove_text(db, profile)

    def tend_partitions(self, db: Connection) -> None:
        now = datetime.now(UTC)
        if partitions.make_ahead(db, now.date()):
            self.partitions_at = time.monotonic()
        else:
            log.info("partitions_wait", why="somebody reads attempts at length", again_in_s=ROUND_S)
        if self.settings.keep_attempts is not None:
            for name in partitions.drop_before(db, now - self.settings.keep_attempts):
                log.info("dropped_attempts", partition=name)

    def remove_text(self, db: Connection, profile: str | None) -> None:
        keep = max(keep_text(self.catalog, profile, default=self.settings.keep_text), ON_ITS_WAY)
        removed, batch = 0, retention.MOST_AT_ONCE
        while batch == retention.MOST_AT_ONCE and not self.closing.is_set():
            batch = retention.remove_text(db, profile, keep)
            removed += batch
            self.closing.wait(PAUSE_S)
        if removed:
            log.info("removed_text", profile=profile, tasks=removed)
