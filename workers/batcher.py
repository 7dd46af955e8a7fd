"""Calls of many threads, made in one go."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

MOST_AT_ONCE = 256

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Collects what threads ask for; whatever arrives while one batch runs goes into the next.

    So an idle fleet answers at once and a busy one commits once for many tasks.
    """

    def __init__(self, run: Callable[[Sequence[Item]], Sequence[Result]], name: str) -> None:
        """Start the thread.

        Args:
            run: makes one batch of calls and returns their results in the same order.
            name: of the thread.
        """
        self.run = run
        self.inbox: SimpleQueue[tuple[Item, Future[Result]] | None] = SimpleQueue()
        self.thread = Thread(target=self.loop, name=name, daemon=True)
        self.thread.start()

    def __call__(self, item: Item) -> Result:
        """Ask for one item and wait for its result.

        Raises:
            Exception: what `run` raised, for every item of its batch.
        """
        future: Future[Result] = Future()
        self.inbox.put((item, future))
        return future.result()

    def close(self) -> None:
        """Finish what was asked for and end the thread."""
        self.inbox.put(None)
        self.thread.join()

    def loop(self) -> None:
        while True:
            batch = self.next_batch()
            if not batch:
                return
            try:
                results = self.run([item for item, _ in batch])
            except Exception as error:  # noqa: BLE001 - every waiting thread gets it
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    future.set_result(result)

    def next_batch(self) -> list[tuple[Item, Future[Result]]]:
        """Wait for an item, then take what else is there; empty once the batcher is closed."""
        batch: list[tuple[Item, Future[Result]]] = []
        item = self.inbox.get()
        while item is not None:
            batch.append(item)
            if len(batch) == MOST_AT_ONCE or self.inbox.empty():
                return batch
            item = self.inbox.get()
        if batch:
            self.inbox.put(None)
        return batch
