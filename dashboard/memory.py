"""What takes long to add up, remembered for a while: many look at the same page, and it asks again by itself.

A value that is no longer fresh is still shown while another thread makes the next one; so only the first look
after a pause waits for the ledger.
"""

import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from ledger.connect import Connection

Value = TypeVar("Value")

MOST_KEPT = 200

STALE = 5
"""Times as long as a value is fresh, it is shown while the next one is made."""


class Kept(NamedTuple):
    """A value, and when it was made."""

    value: Any
    at: float

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.at


class Memory:
    """Values by what was asked."""

    def __init__(self, reading: Callable[[], AbstractContextManager[Connection]]) -> None:
        self.reading = reading
        self.kept: dict[Hashable, Kept] = {}
        self.making: set[Hashable] = set()
        self.changing = Lock()
        self.waiting = Lock()
        self.behind = ThreadPoolExecutor(1, "memory")

    def recall(self, key: Hashable, fresh_s: float, make: Callable[[Connection], Value]) -> Value:
        """Give a value that is not much older than `fresh_s`.

        Args:
            key: what is asked.
            fresh_s: how long a value is as good as a new one.
            make: reads it from the ledger.
        """
        kept = self.kept.get(key)
        if kept is None or kept.age_s > fresh_s * STALE:
            with self.waiting:  # several who come at once wait for one answer
                kept = self.kept.get(key)
                if kept is None or kept.age_s > fresh_s:
                    kept = self.remember(key, make)
        elif kept.age_s > fresh_s:
            self.refresh(key, make)
        return kept.value

    def refresh(self, key: Hashable, make: Callable[[Connection], Any]) -> None:
        """Let another thread make a value anew, unless one does so already."""
        with self.changing:
            if key in self.making:
                return
            self.making.add(key)

        def run() -> None:
            try:
                self.remember(key, make)
            finally:
                with self.changing:
                    self.making.discard(key)

        self.behind.submit(run)

    def remember(self, key: Hashable, make: Callable[[Connection], Any]) -> Kept:
        began = time.monotonic()
        with self.reading() as db:
            value = make(db)
        with self.changing:
            if len(self.kept) >= MOST_KEPT and key not in self.kept:
                del self.kept[min(self.kept, key=lambda each: self.kept[each].at)]
            kept = self.kept[key] = Kept(value, began)
        return kept

    def close(self) -> None:
        """Let the other thread end."""
        self.behind.shutdown()
