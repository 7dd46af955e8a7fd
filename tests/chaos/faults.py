"""What goes wrong, and when: chosen by a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

LONGER_THAN_A_LEASE_S = (33.0, 38.0)
"""A worker's lease lasts 30 seconds, a dispatcher's five."""

KINDS: dict[str, tuple[float, float]] = {
    "kill_worker": (0, 0),
    "kill_dispatcher": (0, 0),
    "kill_redis": (0.5, 4),
    "kill_postgres": (0.5, 4),
    "stop_worker": LONGER_THAN_A_LEASE_S,
    "stop_dispatcher": (7, 12),
    "flushall": (0, 0),
    "cut_redis": (1, 6),
    "cut_postgres": (1, 6),
    "stall_redis": (2, 9),
    "stall_postgres": (2, 9),
    "full_disk": (2, 6),
}
"""Each kind with the least and the most seconds that it lasts."""

FIRST_S = 3.0


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    at_s: float
    kind: str
    for_s: float
    pick: int
    """Which of several processes it meets."""


def plan_of(seed: int, seconds: float, kinds: Sequence[str], every_s: float) -> list[Fault]:
    """Choose faults until so many seconds are over: every kind once, in some order, then every kind again.

    Args:
        every_s: between two faults, on average; one may begin before another has ended.
    """
    chance = random.Random(seed)
    faults: list[Fault] = []
    deck: list[str] = []
    at_s = FIRST_S
    while at_s < seconds:
        if not deck:
            deck = chance.sample(kinds, len(kinds))
            if not faults:
                # The longest one comes first, so that a short run sees its end.
                deck.sort(key=lambda kind: kind == "stop_worker")
        kind = deck.pop()
        faults.append(Fault(at_s, kind, chance.uniform(*KINDS[kind]), chance.randrange(1000)))
        at_s += chance.uniform(0.5, 1.5) * every_s
    return faults
