"""What the leading dispatcher does in the background, on a connection of its own: the brain never waits."""

from datetime import UTC, datetime
from threading import Event, Thread

import psycopg
import structlog

from ledger import partitions
from ledger.connect import connect

ROUND_S = 24 * 3600.0
"""Partitions are made months ahead."""

AGAIN_S = 60.0
"""After a round that could not do all."""

log = structlog.get_logger()


class Housekeeper:
    """A thread that makes its rounds from `start` to `close`."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url
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
                is_done = self.make_a_round()
            except psycopg.Error as error:
                log.warning("housekeeping_failed", error=type(error).__name__, again_in_s=AGAIN_S)
                is_done = False
            self.closing.wait(ROUND_S if is_done else AGAIN_S)

    def make_a_round(self) -> bool:
        """Do what there is to do.

        Returns:
            Whether all of it is done.
        """
        with connect(self.database_url, name="housekeeper") as db:
            is_done = partitions.make_ahead(db, datetime.now(UTC).date())
        if not is_done:
            log.info("partitions_wait", why="somebody reads attempts at length", again_in_s=AGAIN_S)
        return is_done
