"""Calls of many threads, made in one go."""

from collections.abc import Callable, Sequence
from threading import Event, Lock
from typing import Generic, TypeVar

MOST_AT_ONCE = 256

Item = TypeVar("Item")
Result = TypeVar("Result")


class Asked(Generic[Item, Result]):
    """What one thread asked for, and what came of it."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.wake = Event()
        self.is_done = False
        self.results: list[Result] = []
        self.error: Exception | None = None

    def outcome(self) -> Result:
        """Give the result, or raise what its batch raised."""
        if self.error is not None:
            raise self.error
        return self.results[0]


class Batcher(Generic[Item, Result]):
    """Collects what threads ask for; whatever arrives while one batch runs goes into the next.

    So an idle fleet answers at once and a busy one commits once for many tasks. The thread that asks
    first runs the batch itself: there is no other thread to wake, and none to stop.
    """

    def __init__(self, run: Callable[[Sequence[Item]], Sequence[Result]]) -> None:
        """Take the call to make.

        Args:
            run: makes one batch of calls and returns their results in the same order; it is called by
                one thread at a time.
        """
        self.run = run
        self.lock = Lock()
        self.waiting: list[Asked[Item, Result]] = []
        self.is_running = False

    def __call__(self, item: Item) -> Result:
        """Ask for one item and wait for its result.

        Raises:
            Exception: what `run` raised, for every item of its batch.
        """
        mine = Asked[Item, Result](item)
        with self.lock:
            self.waiting.append(mine)
            runs_it, self.is_running = not self.is_running, True
        if not runs_it:
            mine.wake.wait()
        if not mine.is_done:
            self.run_batch()
        return mine.outcome()

    def run_batch(self) -> None:
        """Run what waits, wake those it was for, and the one that runs the next batch."""
        with self.lock:
            batch = self.waiting[:MOST_AT_ONCE]
            del self.waiting[:MOST_AT_ONCE]
        try:
            for asked, result in zip(batch, self.run([asked.item for asked in batch]), strict=True):
                asked.results.append(result)
        except Exception as error:  # noqa: BLE001 - every waiting thread gets it
            for asked in batch:
                asked.error = error
        with self.lock:
            following = self.waiting[0] if self.waiting else None
            self.is_running = following is not None
        for asked in batch:
            asked.is_done = True
            asked.wake.set()
        if following is not None:
            following.wake.set()
