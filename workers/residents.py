"""The models that a worker has in memory: loaded at their first use, and given up for others, or when idle.

What a model takes is measured when it is loaded. Before that it is what its proof measured, or else an
estimate from the size of its file. One that nobody uses makes room for one that somebody asks for, the one
that was used the longest ago first. Where all are in use, the newcomer waits for its turn.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Condition, Event, Thread

import psutil
import structlog

from config.models import Model
from workers.engines.base import Loaded
from workers.engines.errors import CancelledError, ModelUnavailableError
from workers.model_files import GB

TURN_S = 20.0
"""Who has waited so long for room goes first: calls of the models in its way wait until it is loaded."""

LOOK_S = 0.2
IDLE_LOOKS = 10
"""Idle models are looked for so often in the time after which one is given up."""

log = structlog.get_logger()


class Residents:
    """The loaded engines of a worker, each with its users and what it takes."""

    def __init__(
        self,
        engines: dict[str, Loaded],
        make: Callable[[Model], Loaded],
        needed_bytes: Callable[[Model], int],
        free_bytes: Callable[[], int],
        *,
        budget_bytes: int,
        idle_s: float | None = None,
        turn_s: float = TURN_S,
    ) -> None:
        """Begin with what is loaded.

        Args:
            needed_bytes: what a model will take, at least; 0: nothing worth counting.
            free_bytes: what this host has left.
            budget_bytes: what all models together may take.
            idle_s: a model that nobody used for so long is given up; None: never.
            turn_s: who has waited so long for room goes first.
        """
        self._engines = engines
        self._make = make
        self._needed_bytes = needed_bytes
        self._free_bytes = free_bytes
        self._budget_bytes = budget_bytes
        self._changed = Condition()
        self._users: Counter[str] = Counter()
        self._taken_bytes: dict[str, int] = {}
        """Of the models that take memory worth counting, the last used one last."""
        self._used_at: dict[str, float] = {}
        self._loading: str | None = None
        self._waiting: dict[str, float] = {}
        """Models that wait for room, and since when."""
        self._closing = Event()
        self._idle_s = idle_s
        self._turn_s = turn_s
        self._tidying = Thread(target=self._tidy, name="unload", daemon=True)
        if idle_s is not None:
            self._tidying.start()

    @property
    def is_loading(self) -> bool:
        """Whether a model is being loaded now."""
        return self._loading is not None

    @property
    def taken_bytes(self) -> int:
        """What all of them take."""
        return sum(self._taken_bytes.copy().values())

    @contextmanager
    def use(self, model: Model, is_given_up: Callable[[], bool]) -> Generator[Loaded]:
        """Hold a model in memory for a call; load it first where it is not there.

        Raises:
            CancelledError: nobody wants it any more, and it was not there yet.
            ModelUnavailableError: it cannot be loaded, or does not fit.
        """
        engine = self._enter(model, is_given_up)
        try:
            yield engine
        finally:
            with self._changed:
                self._users[model.name] -= 1
                self._touch(model.name)
                self._changed.notify_all()

    def close(self) -> None:
        """Give up all of them; none is in use any more."""
        self._closing.set()
        if self._tidying.is_alive():
            self._tidying.join()
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def unload_idle(self, idle_s: float) -> None:
        """Give up the models that nobody has used for so long."""
        with self._changed:
            before = time.monotonic() - idle_s
            for name in [name for name in self._idle() if self._used_at[name] <= before]:
                self._unload(name, "idle")

    def _enter(self, model: Model, is_given_up: Callable[[], bool]) -> Loaded:
        name = model.name
        with self._changed:
            while True:
                if is_given_up():
                    self._waiting.pop(name, None)
                    raise CancelledError(name)
                engine = self._engines.get(name)
                if engine is not None and not engine.is_closed:
                    if not self._is_in_the_way(name):
                        self._users[name] += 1
                        return engine
                elif self._loading is None and self._has_room(model):
                    break
                self._changed.wait(LOOK_S)
            self._waiting.pop(name, None)
            self._loading = name
        return self._load(model)

    def _load(self, model: Model) -> Loaded:
        """Load a model, with the one user who asked for it."""
        began, before = time.monotonic(), psutil.Process().memory_info().rss
        try:
            engine = self._make(model)
        except BaseException:
            with self._changed:
                self._loading = None
                self._changed.notify_all()
            raise
        taken = max(psutil.Process().memory_info().rss - before, 0)
        with self._changed:
            self._engines[model.name] = engine
            if self._needed_bytes(model):
                self._taken_bytes[model.name] = taken
                self._touch(model.name)
            self._users[model.name] += 1
            self._loading = None
            self._changed.notify_all()
        log.info("loaded", model=model.name, took_s=round(time.monotonic() - began, 2), bytes=taken)
        return engine

    def _has_room(self, model: Model) -> bool:
        """Give up idle models until one fits; false: it has to wait for those in use.

        Raises:
            ModelUnavailableError: it does not fit although there is no other.
        """
        needed = self._needed_bytes(model)
        while needed and needed > self._room_bytes():
            idle = self._idle()
            if idle:
                self._unload(idle[0], f"room for {model.name}")
            elif self._taken_bytes:
                self._waiting.setdefault(model.name, time.monotonic())
                return False
            else:
                why = (
                    f"it takes about {needed / GB:.1f} GB of memory, {self._room_bytes() / GB:.1f} GB are "
                    "left for models; close something, raise FLEET_MODEL_MEMORY_MB or choose a smaller one"
                )
                raise ModelUnavailableError(model.name, why)
        return True

    def _room_bytes(self) -> int:
        return min(self._free_bytes(), self._budget_bytes - sum(self._taken_bytes.values()))

    def _is_in_the_way(self, name: str) -> bool:
        """Tell whether a model holds memory for which another has waited long enough."""
        since = time.monotonic() - self._turn_s
        return name in self._taken_bytes and any(began < since for began in self._waiting.values())

    def _idle(self) -> list[str]:
        return [name for name in self._taken_bytes if not self._users[name]]

    def _touch(self, name: str) -> None:
        self._used_at[name] = time.monotonic()
        if name in self._taken_bytes:
            self._taken_bytes[name] = self._taken_bytes.pop(name)

    def _unload(self, name: str, why: str) -> None:
        self._engines.pop(name).close()
        freed = self._taken_bytes.pop(name)
        log.info("unloaded", model=name, why=why, bytes=freed)

    def _tidy(self) -> None:
        idle_s = self._idle_s or 0
        while not self._closing.wait(max(idle_s / IDLE_LOOKS, LOOK_S)):
            self.unload_idle(idle_s)
