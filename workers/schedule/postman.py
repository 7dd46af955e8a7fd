"""A thread of beat that delivers outcomes, one after the other: a slow webhook holds up no run."""

from threading import Event, Thread

import psycopg
import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from config.catalog import Catalog
from ledger import deliveries, schedules
from ledger.connect import Connection, connect
from ledger.deliveries import Delivery
from workers.schedule.delivery import NotDeliveredError, deliver, outcome_of

LOOK_S = 1.0

FIRST_PAUSE_S = 10.0
"""After the first try; three times as long after each further one."""

MOST_TRIES = 6
"""The last one comes twenty minutes after the first."""

STOP_S = 12.0
"""As long as one delivery may take."""

log = structlog.get_logger()


class Postman:
    """Delivers from `start` to `close`."""

    def __init__(self, database_url: str, redis: Redis, app: Celery, catalog: Catalog) -> None:
        self.database_url = database_url
        self.redis = redis
        self.app = app
        self.catalog = catalog
        self.closing = Event()
        self.thread = Thread(target=self.run, name="postman", daemon=True)

    def start(self) -> "Postman":
        self.thread.start()
        return self

    def close(self) -> None:
        """End after the delivery that is under way; one that is broken off is made again."""
        self.closing.set()
        self.thread.join(STOP_S)

    def run(self) -> None:
        while not self.closing.is_set():
            try:
                with connect(self.database_url, name="postman") as db:
                    while not self.closing.wait(LOOK_S):
                        self.deliver_all(db)
            except (psycopg.Error, RedisError, OperationalError, OSError) as error:
                log.warning("delivery_waits", error=type(error).__name__, again_in_s=LOOK_S)
                self.closing.wait(LOOK_S)

    def deliver_all(self, db: Connection) -> None:
        """Deliver what is due."""
        while not self.closing.is_set():
            names = list(self.catalog.schedule)
            found = deliveries.take(db, names, schedules.now(db), FIRST_PAUSE_S)
            if found is None:
                return
            self.deliver_one(db, found)

    def deliver_one(self, db: Connection, found: Delivery) -> None:
        to = self.catalog.schedule[found.name].deliver
        if to is None:
            deliveries.delivered(db, found, "failed", "schedule.yaml names no target any more")
            return
        try:
            deliver(to, outcome_of(db, self.app, found), self.app, self.redis)
        except (NotDeliveredError, OperationalError, RedisError) as error:
            why = str(error) if isinstance(error, NotDeliveredError) else f"Redis: {type(error).__name__}"
            state = "pending" if found.tries < MOST_TRIES else "failed"
            deliveries.delivered(db, found, state, why)
            log.warning(
                "not_delivered", schedule=found.name, to=str(to), why=why, tries=found.tries, then=state
            )
        else:
            deliveries.delivered(db, found, "delivered", None)
            log.info("delivered", schedule=found.name, to=str(to), tries=found.tries)
