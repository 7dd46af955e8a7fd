"""A connection to the ledger that outlives the server."""

from collections.abc import Callable
from threading import Event
from typing import TypeVar

import psycopg
import structlog

from ledger.connect import Connection, connect

FIRST_PAUSE_S = 0.1

LONGEST_PAUSE_S = 5.0

Answer = TypeVar("Answer")

log = structlog.get_logger()


class Reconnecting:
    """A connection that one thread at a time uses, opened again after it broke."""

    def __init__(self, database_url: str, name: str, *, by_key: bool = True) -> None:
        """Prepare; as `ledger.connect.connect` does."""
        self.database_url = database_url
        self.name = name
        self.by_key = by_key
        self.db: Connection | None = None

    def get(self) -> Connection:
        """Give a connection that works, as far as is known.

        Raises:
            psycopg.OperationalError: no server answers.
        """
        if self.db is None or self.db.closed:
            self.db = connect(self.database_url, name=self.name, by_key=self.by_key)
        return self.db

    def insist(self, call: Callable[[Connection, bool], Answer], give_up: Event) -> Answer:
        """Make a call, again and again until the server answers it.

        Args:
            call: gets the connection, and whether it was made before without an answer: it may have been
                carried out.
            give_up: once set, the next failure is raised.

        Raises:
            psycopg.OperationalError: the server did not answer, and there is no time left.
        """
        pause_s, is_again = FIRST_PAUSE_S, False
        while True:
            try:
                return call(self.get(), is_again)
            except psycopg.OperationalError as error:
                is_again = True
                if give_up.is_set():
                    raise
                log.warning(
                    "ledger_lost", wanted=self.name, error=type(error).__name__, again_in_s=round(pause_s, 1)
                )
            give_up.wait(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def close(self) -> None:
        """Close it, if it is open."""
        if self.db is not None:
            self.db.close()
