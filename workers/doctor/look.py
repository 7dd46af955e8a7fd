"""A look at something that may never answer."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Generic, TypeVar

from workers.errors import EmbeddedServiceError

Seen = TypeVar("Seen")

LIMIT_S = 3.0
"""The longest that a look is waited for."""


@dataclass(frozen=True)
class Silence:
    """A look that brought nothing."""

    why: str
    """The rest of a sentence that begins with what was looked at."""
    what_to_do: str | None = None
    """What mends this cause; None: whatever mends a server that is not there."""


NOT_RUNNING = Silence("is not running")
"""Of an embedded server."""


Cause = tuple[str, str, str | None]
"""(a part of what a library says, the same in our words, what mends it); see `Silence`."""


def named(said: str, causes: Sequence[Cause]) -> tuple[str, str | None] | None:
    """Find the cause of a silence in what a library says; None: it is none of these."""
    return next(((why, what_to_do) for part, why, what_to_do in causes if part in said), None)


class Look(Generic[Seen]):
    """A look that has begun, in a thread that nobody waits for when it is late."""

    def __init__(self, see: Callable[[], Seen]) -> None:
        self.seen: Seen | Silence = Silence(f"gave no answer within {LIMIT_S:.0f} s")
        self.until = time.monotonic() + LIMIT_S
        self.thread = Thread(target=self.run, args=(see,), name="look", daemon=True)
        self.thread.start()

    def run(self, see: Callable[[], Seen]) -> None:
        try:
            self.seen = see()
        except EmbeddedServiceError as refusal:
            self.seen = Silence(refusal.why, refusal.what_to_do)
        except Exception as fault:  # noqa: BLE001 - one look that fails must not hide what the others saw
            self.seen = Silence(f"could not be looked at ({type(fault).__name__})")

    def result(self) -> Seen | Silence:
        """Give what was seen, at the latest `LIMIT_S` after the beginning."""
        self.thread.join(max(0.0, self.until - time.monotonic()))
        return self.seen
