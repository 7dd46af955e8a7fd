"""Vectors without a model, for dry runs, tests and benchmarks: texts that share words are near each other."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import sha256

from workers.engines.base import Vectors
from workers.engines.echo import CANCEL_POLL_S, words_of
from workers.engines.errors import CancelledError


class EchoEmbedder:
    """An engine that counts words: each word is a token, and a direction that its letters choose."""

    def __init__(self, name: str, dimensions: int, *, delay_s: float = 0.0, slots: int = 8) -> None:
        self.name = name
        self.slots = slots
        self._dimensions = dimensions
        self._delay_s = delay_s
        self._free_slots = threading.BoundedSemaphore(slots)

    def embed(self, texts: Sequence[str], *, cancelled: Callable[[], bool]) -> Vectors:
        """Wait for the set delay, then count."""
        with self._free_slots:
            until = time.monotonic() + self._delay_s
            while (left := until - time.monotonic()) > 0:
                if cancelled():
                    raise CancelledError(self.name)
                time.sleep(min(left, CANCEL_POLL_S))
            return Vectors(
                numbers=[self._vector(text) for text in texts],
                tokens=[len(words_of(text)) for text in texts],
            )

    @property
    def is_closed(self) -> bool:
        return False

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _vector(self, text: str) -> list[float]:
        numbers = [0.0] * self._dimensions
        for word in words_of(text.casefold()):
            numbers[int.from_bytes(sha256(word.strip().encode()).digest()[:8]) % self._dimensions] += 1.0
        length = math.hypot(*numbers) or 1.0
        return [number / length for number in numbers]
