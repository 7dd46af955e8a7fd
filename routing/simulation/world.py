"""What a simulated policy meets: how fast models are, what fails and when, and who runs them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from config.catalog import Catalog
from config.models import Limits, Model, Tier
from routing.lessons import Cause
from routing.pace import Pace
from routing.simulation.chance import chance, spread

SLOTS = {"mlx": 4, "llama": 1, "echo": 4, "cloud": 32}
"""Attempts at once on each queue, by engine, where nobody said another number."""

FAULT_RATE: dict[Tier, float] = {"local": 0.0, "free": 0.02, "paid": 0.002}
"""Share of the calls that fail outside of outages."""


class Speed(NamedTuple):
    """How long a model takes, on average."""

    first_token_s: float
    read_s: float
    """For each token of the prompt, before the first token."""
    token_s: float
    """For each token of the answer."""


@dataclass(frozen=True)
class Outage:
    """A time in which something does not work."""

    subject: str
    """A provider or a model, whose calls fail; or a queue, whose worker is away."""
    begin: datetime
    end: datetime
    cause: Cause = "fault"
    """What its calls are answered with."""


@dataclass(frozen=True)
class World:
    """All that a policy does not decide."""

    catalog: Catalog
    seed: int = 0
    slots: Mapping[str, int] = field(default_factory=dict[str, int])
    """By queue, where they differ from `SLOTS`."""
    speeds: Mapping[str, Speed] = field(default_factory=dict[str, Speed])
    """By model, where they differ from `usual_speed`."""
    limits: Mapping[str, Limits] = field(default_factory=dict[str, Limits])
    """What a provider or model really allows, where it differs from the catalog."""
    outages: Sequence[Outage] = ()
    fault_rate: Mapping[Tier, float] = field(default_factory=lambda: FAULT_RATE)

    def slots_of(self, queue: str) -> int:
        """Tell how many attempts the workers of a queue run at once, when they are there."""
        known = self.slots.get(queue)
        if known is not None:
            return known
        engines = {model.engine for model in self.catalog.models.values() if model.queue == queue}
        return SLOTS[engines.pop()] if engines else 0

    def queues(self) -> set[str]:
        """List the queues that chat models listen on."""
        return {model.queue for model in self.catalog.models.values() if model.kind == "chat"}

    def limits_of(self, name: str) -> Limits:
        """Tell what a provider or a model really allows."""
        known = self.limits.get(name)
        if known is not None:
            return known
        if name in self.catalog.providers:
            return self.catalog.providers[name].limits_for()
        return self.catalog.models[name].limits if name in self.catalog.models else Limits()

    def outage(self, subjects: Sequence[str], begin: datetime, end: datetime) -> Outage | None:
        """Find the first outage of any of these that touches a time."""
        touching = [
            outage
            for outage in self.outages
            if outage.subject in subjects and outage.begin <= end and begin < outage.end
        ]
        return min(touching, key=lambda outage: outage.begin, default=None)

    def service_s(self, model: Model, prompt: int, completion: int, *name: object) -> tuple[float, float]:
        """Draw how long an answer takes.

        Returns:
            Seconds to the first token, and to the last one.
        """
        speed = self.speeds.get(model.name) or usual_speed(model)
        first_s = (speed.first_token_s + speed.read_s * prompt) * spread(chance(self.seed, "first", *name))
        rest_s = speed.token_s * completion * spread(chance(self.seed, "rest", *name))
        return first_s, first_s + rest_s

    def is_faulty(self, model: Model, *name: object) -> bool:
        """Draw whether a call fails although nothing is out of order."""
        return chance(self.seed, "fault", *name) < self.fault_rate.get(model.tier, 0.0)


def usual_speed(model: Model) -> Speed:
    """Guess a model's speed: a local one's from its size, because it is read from memory for each token.

    Source: our own runs of llama.cpp on two cores, and what owners of 16 GB Macs report of mlx-lm, 2026-11.
    """
    size_gb = model.memory_gb or 2.0
    match model.engine:
        case "mlx":
            return Speed(0.2, size_gb / 1200, size_gb / 100)
        case "llama":
            return Speed(0.2, size_gb / 100, size_gb / 20)
        case "echo":
            return Speed(0.01, 0.0, 0.001)
        case "cloud":
            return Speed(1.5, 0.0001, 0.025)


def seen_speed(pace: Pace) -> Speed:
    """Turn what the ledger saw of a model into its speed; the reading is in the first token."""
    return Speed(pace.first_token_s, 0.0, pace.token_s)


def random_outages(
    seed: int, subject: str, begin: datetime, end: datetime, *, per_day: float, mean: timedelta
) -> Iterator[Outage]:
    """Draw outages of something, in order, none inside another.

    Args:
        seed: of the simulation.
        subject: a provider, a model or a queue.
        begin: of the time in which they begin.
        end: of that time.
        per_day: how many, on average.
        mean: how long one lasts, on average.
    """
    at, number = begin, 0
    while per_day > 0:
        between = timedelta(days=1) / per_day * spread(chance(seed, "outage after", subject, number))
        length = mean * spread(chance(seed, "outage for", subject, number))
        at, number = at + between, number + 1
        if at >= end:
            return
        yield Outage(subject, at, at + length)
        at += length
