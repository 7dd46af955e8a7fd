"""The fold: what the ledger says of workers and attempts becomes one picture to decide on."""

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import NamedTuple

from config.catalog import Catalog
from config.models import Limits, Model
from routing.limits import Called, Full, Key, Usage

AHEAD_S = 0.25
"""How much work may lie in a lane beyond its slots, so that a fast worker never waits for the brain.

A slow model gets none: its next task is bound only when a slot is free, and can change its mind until then.
"""

MOST_AHEAD = 1000

LEARNING_RATE = 0.2
"""Weight of the newest service time in the running average."""


class UnderWay(NamedTuple):
    """An attempt that has not ended."""

    model: Model
    tokens: int
    """The most that it will use."""


@dataclass
class Vitals:
    """The fleet as last recorded."""

    catalog: Catalog
    slots: Mapping[str, int] = field(default_factory=dict[str, int])
    """Attempts that live workers can run at once, by queue."""
    under_way: dict[Key, UnderWay] = field(default_factory=dict[Key, UnderWay])
    in_queue: Counter[str] = field(default_factory=Counter[str])
    """Attempts under way, by queue."""
    usage: defaultdict[str, Usage] = field(default_factory=lambda: defaultdict(Usage))
    """By the model or provider whose limits it counts for; see `limited`."""
    service_s: dict[str, float] = field(default_factory=dict[str, float])
    """From claim to finish, a running average by queue."""
    limits: dict[str, tuple[tuple[str, Limits], ...]] = field(init=False)
    """By model: whose limits a call of it counts for."""

    def __post_init__(self) -> None:
        self.limits = {model.name: limited(model, self.catalog) for model in self.catalog.models.values()}

    def room(self, queue: str) -> int:
        """Count the attempts that a queue can take now; 0 or less: none."""
        slots = self.slots.get(queue, 0)
        service_s = self.service_s.get(queue)
        ahead = 0 if service_s is None else int(slots * AHEAD_S / max(service_s, 1e-6))
        return slots + min(ahead, MOST_AHEAD) - self.in_queue[queue]

    def full(self, model: Model, tokens: int, now: datetime) -> Full | None:
        """Say which limit of a model, or of its provider, leaves no room; None: there is room."""
        for subject, limits in self.limits[model.name]:
            full = self.usage[subject].full(limits, tokens, now)
            if full is not None:
                return Full(f"{subject} allows {full.why}", full.until)
        return None

    def placed(self, key: Key, model: Model, tokens: int, claimed_at: datetime | None = None) -> None:
        """Take note of an attempt that was placed; it counts against every limit from now on."""
        if key not in self.under_way:
            self.under_way[key] = UnderWay(model, tokens)
            self.in_queue[model.queue] += 1
        for subject, _ in self.limits[model.name]:
            self.usage[subject].place(key, tokens, claimed_at)

    def claimed(self, key: Key, at: datetime) -> None:
        """Take note of the moment from which an attempt counts."""
        known = self.under_way.get(key)
        if known is not None:
            self.placed(key, known.model, known.tokens, at)

    def ended(
        self, key: Key, *, claimed_at: datetime | None, finished_at: datetime | None, tokens: int | None
    ) -> None:
        """Take note of the end of an attempt.

        Args:
            claimed_at: None: no worker had it, so nobody was called.
            finished_at: None: it was never placed after all.
            tokens: that it used; None: nobody knows, so the most that it could.
        """
        known = self.under_way.pop(key, None)
        if known is None:
            return
        queue = known.model.queue
        self.in_queue[queue] -= 1
        for subject, _ in self.limits[known.model.name]:
            self.usage[subject].end(key, claimed_at, known.tokens if tokens is None else tokens)
        if claimed_at is not None and finished_at is not None:
            service_s = (finished_at - claimed_at).total_seconds()
            before = self.service_s.get(queue, service_s)
            self.service_s[queue] = before + LEARNING_RATE * (service_s - before)

    def remember(
        self, recent: Iterable[tuple[Model, Called]], today: date, calls_today: Iterable[tuple[Model, int]]
    ) -> None:
        """Take in what ended before this picture was begun: the last minute's calls, and the day's count."""
        for model, called in recent:
            for subject, _ in self.limits[model.name]:
                insort(self.usage[subject].recent, called)
        for model, calls in calls_today:
            for subject, _ in self.limits[model.name]:
                self.usage[subject].count_on(today, calls)


def limited(model: Model, catalog: Catalog) -> tuple[tuple[str, Limits], ...]:
    """List whose limits a call of a model counts for: the model's own, and those of its account."""
    found = [(f"model {model.name}", model.limits)]
    if model.provider:
        found.append((f"provider {model.provider}", catalog.providers[model.provider].limits))
    return tuple((subject, limits) for subject, limits in found if limits != Limits())
