"""The lane: a worker's connections, its engines, and what runs on them."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event, Lock
from typing import cast

import psycopg
import structlog

from config.catalog import Catalog
from config.models import Model
from config.settings import settings
from ledger import attempts, unfinished
from ledger.attempts import Claim, Finish, Key
from ledger.connect import Connection
from routing.pace import average, places
from workers.alive import LEASE_S, Alive
from workers.batcher import Batcher
from workers.engines import make_embedder, make_engine
from workers.engines.base import Embedder, Engine, Loaded
from workers.errors import WorkerStoppedError
from workers.failure import stored
from workers.gate import Gate
from workers.model_files import free_bytes, needed_bytes, room_bytes
from workers.quota import QuotaSync
from workers.reconnecting import Reconnecting
from workers.residents import Residents
from workers.stream_writer import StreamWriter
from workers.vectors import Vectors

BREAK_OFF_S = 5.0
"""How long an engine may take to stop once nobody wants its answer."""

GOODBYE_S = 1.0
"""How long telling the brain that the worker leaves may take."""

LOOK_AGAIN_S = 0.05

Return = tuple[Key, bool]
"""(attempt, whether this worker has begun it)"""

MOST_AHEAD = 64
"""Messages that a worker takes beyond its slots; what it has taken, no other worker can run."""


log = structlog.get_logger()


def nothing() -> None:
    """Do nothing."""


@dataclass
class Lane:
    """A worker's ledger connections, its engines, and the attempts that it runs."""

    database_url: str
    redis_url: str
    """Where answers are streamed to."""
    catalog: Catalog
    worker: str
    slots: Mapping[str, int]
    """Attempts it can run at once, by queue."""
    engines: dict[str, Loaded] = field(default_factory=dict[str, Loaded])
    running: dict[Key, Event] = field(default_factory=dict[Key, Event])
    """What it runs; set: nobody wants the answer any more."""
    leaving: Event = field(default_factory=Event)
    """Set: it begins nothing any more."""
    closing: Event = field(default_factory=Event)
    """Set: it waits for nobody any more."""
    is_full: bool = False
    """A queue had no room when it was last looked at."""
    on_room: Callable[[], None] = nothing
    """Called when an attempt has ended and a queue was full."""
    is_hurried: bool = False
    """What runs is not given the time to end."""
    taken: Counter[str] = field(default_factory=Counter[str])
    """Messages that this worker has and that have not ended, by queue."""
    counting: Lock = field(default_factory=Lock)
    service_s: dict[str, float] = field(default_factory=dict[str, float])
    """How long an attempt takes, a running average by queue."""

    def __post_init__(self) -> None:
        self.gates = {queue: Gate(slots) for queue, slots in self.slots.items()}
        self.claims_db = Reconnecting(self.database_url, "claims")
        self.ends_db = Reconnecting(self.database_url, "ends")
        self.returns_db = Reconnecting(self.database_url, "returns")
        self.vectors = Vectors(self.database_url, self.closing)
        self.claims = Batcher(self.claim_all)
        self.ends = Batcher(self.finish_all)
        self.returns = Batcher(self.return_all)
        self.streams = StreamWriter(self.redis_url)
        self.quota = QuotaSync(self.database_url, self.catalog, self.worker, self.slots)
        self.residents = Residents(
            self.engines,
            self.make,
            needed_bytes,
            free_bytes,
            budget_bytes=room_bytes(),  # a file that is mapped still counts as free to the system
            idle_s=settings().unload_after.total_seconds() or None,
        )
        self.alive = Alive(self.database_url, self.worker, self.slots, self.running)

    def claim_all(self, keys: Sequence[Key]) -> list[Claim | None]:
        """Claim attempts; while Postgres is away they wait, until the worker leaves."""

        def claim(db: Connection, is_again: bool) -> dict[Key, Claim]:  # noqa: FBT001 - as `insist` calls it
            return attempts.claim(db, keys, worker=self.worker, lease_s=LEASE_S, again=is_again)

        claimed = self.claims_db.insist(claim, self.leaving)
        return [claimed.get(key) for key in keys]

    def finish_all(self, ends: Sequence[Finish]) -> list[datetime | None]:
        """Record how attempts ended; while Postgres is away, the answers are kept here."""
        finished = self.ends_db.insist(lambda db, _: attempts.finish(db, ends), self.closing)
        return [finished.get((end.task_id, end.number)) for end in ends]

    def return_all(self, returns: Sequence[Return]) -> list[bool]:
        """Let the brain plan anew what this worker does not run, or not to its end.

        Returns:
            Whether each was this worker's to return.
        """
        error = stored(WorkerStoppedError(self.worker))
        returned: set[Key] = set()
        for worker in (self.worker, None):
            keys = [key for key, is_begun in returns if is_begun == (worker is not None)]
            returned |= self.returns_db.insist(
                lambda db, _, keys=keys, worker=worker: unfinished.hand_back(
                    db, keys, worker=worker, error=error
                ),
                self.closing,
            )
        return [key in returned for key, _ in returns]

    def give_back(self, key: Key, *, is_begun: bool) -> None:
        """Hand an attempt back to the brain; if Postgres does not come back in time, the sweep finds it."""
        if self.leaving.is_set():
            self.alive.gone.wait(GOODBYE_S)  # or the brain would send it here again
        with suppress(psycopg.OperationalError):
            if self.returns((key, is_begun)):
                log.info("handed_back", task=str(key[0]), attempt=key[1], begun=is_begun)

    def make(self, model: Model) -> Loaded:
        """Load a model."""
        make = make_embedder if model.kind == "embedding" else make_engine
        provider = self.catalog.providers.get(model.provider or "")
        return make(model, self.slots.get(model.queue, 1), provider)

    @contextmanager
    def engine_for(self, model: Model, is_given_up: Callable[[], bool]) -> Generator[Engine]:
        """Hold a chat model in memory for a call; see `Residents.use`."""
        with self.residents.use(model, is_given_up) as loaded:
            yield cast("Engine", loaded)

    @contextmanager
    def embedder_for(self, model: Model, is_given_up: Callable[[], bool]) -> Generator[Embedder]:
        """Hold an embedding model in memory for a call; see `Residents.use`."""
        with self.residents.use(model, is_given_up) as loaded:
            yield cast("Embedder", loaded)

    def places(self, queue: str) -> int:
        """Count the messages that a queue may have here: one for each slot, and more if they are short."""
        return places(self.slots[queue], self.service_s.get(queue), MOST_AHEAD)

    def take(self, queue: str, count: int) -> None:
        """Count messages that came, or that ended."""
        with self.counting:
            self.taken[queue] += count

    def timed(self, queue: str, service_s: float) -> None:
        """Learn how long an attempt took."""
        self.service_s[queue] = average(self.service_s.get(queue), service_s)

    def begin(self, key: Key) -> Event | None:
        """Count an attempt among those that run here; None: it is there already."""
        called_off = Event()
        return called_off if self.running.setdefault(key, called_off) is called_off else None

    def leave(self) -> None:
        """Say goodbye: the brain sends no more, and what waits here is handed back."""
        self.leaving.set()
        self.alive.leave()
        for gate in self.gates.values():
            gate.shut()

    def drain(self, finish_s: float, break_off_s: float = BREAK_OFF_S) -> bool:
        """Let what runs come to its end; then break it off, and hand it back.

        Args:
            finish_s: how long it may take to its end; nothing once the worker is hurried.
            break_off_s: how long an engine may take to notice.

        Returns:
            Whether all engines have stopped. What one goes on with is handed back all the same.
        """
        self.leave()
        wait_until(lambda: not self.running or self.is_hurried, finish_s)
        for called_off in list(self.running.values()):
            called_off.set()
        wait_until(lambda: not self.running, break_off_s)
        stuck = list(self.running)
        self.closing.set()
        for key in stuck:
            self.give_back(key, is_begun=True)
        wait_until(lambda: not self.running, LOOK_AGAIN_S * len(stuck))
        return not self.running

    def close(self) -> None:
        """Free the models; nothing runs any more."""
        self.leave()
        self.closing.set()
        self.alive.close()
        self.streams.close()
        self.quota.close()
        for db in (self.claims_db, self.ends_db, self.returns_db, self.vectors):
            db.close()
        self.residents.close()


def wait_until(is_so: Callable[[], bool], limit_s: float) -> None:
    """Wait until something is so, or for so long."""
    end = time.monotonic() + limit_s
    while not is_so() and time.monotonic() < end:
        time.sleep(LOOK_AGAIN_S)


open_lane: Lane | None = None
"""This process's lane: a worker has one, from its start to its end."""


def the_lane() -> Lane:
    """Give this process's lane.

    Raises:
        RuntimeError: this process is no lane worker.
    """
    if open_lane is None:
        message = "no lane is open: `complete` runs in a worker started by `fleet worker`"
        raise RuntimeError(message)
    return open_lane
