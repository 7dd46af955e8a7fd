"""The fold: what the ledger says of workers and attempts becomes one picture to decide on."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

AHEAD_S = 0.25
"""How much work may lie in a lane beyond its slots, so that a fast worker never waits for the brain.

A slow model gets none: its next task is bound only when a slot is free, and can change its mind until then.
"""

MOST_AHEAD = 1000

LEARNING_RATE = 0.2
"""Weight of the newest service time in the running average."""


@dataclass
class Vitals:
    """The fleet as last recorded."""

    slots: Mapping[str, int] = field(default_factory=dict[str, int])
    """Attempts that live workers can run at once, by queue."""
    open_attempts: Counter[str] = field(default_factory=Counter[str])
    """Attempts that have not ended, by queue."""
    service_s: dict[str, float] = field(default_factory=dict[str, float])
    """From claim to finish, a running average by queue."""

    def room(self, queue: str) -> int:
        """Count the attempts that a queue can take now; 0 or less: none."""
        slots = self.slots.get(queue, 0)
        service_s = self.service_s.get(queue)
        ahead = 0 if service_s is None else int(slots * AHEAD_S / max(service_s, 1e-6))
        return slots + min(ahead, MOST_AHEAD) - self.open_attempts[queue]

    def started(self, queue: str) -> None:
        """Take note of an attempt that was placed."""
        self.open_attempts[queue] += 1

    def ended(self, queue: str, service_s: float | None) -> None:
        """Take note of an attempt that has ended; `service_s` is None where no worker ran it."""
        self.open_attempts[queue] -= 1
        if service_s is not None:
            before = self.service_s.get(queue, service_s)
            self.service_s[queue] = before + LEARNING_RATE * (service_s - before)
