"""The vectors of a worker: looked up, computed where they are missing, kept, and searched."""

from collections.abc import Callable, Sequence
from threading import Event, Lock
from typing import TypeVar

from ledger import embeddings, passages
from ledger.connect import Connection
from ledger.embeddings import NewVector, Vector
from ledger.passages import Collection, Match, Passage
from workers.reconnecting import Reconnecting

Answer = TypeVar("Answer")


class Vectors:
    """A connection for vectors, which are large, so that claims and ends do not wait behind them."""

    def __init__(self, database_url: str, closing: Event) -> None:
        self._db = Reconnecting(database_url, "vectors", by_key=False)
        self._closing = closing
        self._one_at_a_time = Lock()

    def computed(self, model: str, hashes: Sequence[bytes]) -> dict[bytes, Vector]:
        """Read those that are there, by hash."""
        return self._insist(lambda db: embeddings.computed(db, model, hashes))

    def keep(self, model: str, new: Sequence[NewVector]) -> None:
        self._insist(lambda db: embeddings.keep(db, model, new))

    def find(self, name: str) -> Collection | None:
        return self._insist(lambda db: passages.find(db, name))

    def make(self, name: str, model: str, dimensions: int) -> Collection:
        return self._insist(lambda db: passages.make(db, name, model, dimensions))

    def add(self, to: Collection, new: Sequence[Passage]) -> None:
        self._insist(lambda db: passages.add(db, to, new))

    def nearest(self, collection: Collection, vector: Sequence[float], k: int) -> list[Match]:
        return self._insist(lambda db: passages.nearest(db, collection, vector, k))

    def close(self) -> None:
        self._db.close()

    def _insist(self, call: Callable[[Connection], Answer]) -> Answer:
        """Make a call; each of them may be made twice. While Postgres is away it waits."""
        with self._one_at_a_time:
            return self._db.insist(lambda db, _: call(db), self._closing)
