"""`/metrics`: what Prometheus asks every few seconds, read from the ledger.

So it counts on from where it was when this process, or the whole fleet, is started again. Counters never go
down: what lost and cancelled attempts cost may be corrected, so it is a gauge of its own.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ledger import leadership, usage
from ledger.connect import Connection
from ledger.queues import queues
from ledger.spend import Spend, spend, together

EVER = datetime(1970, 1, 1, tzinfo=UTC)

PROVISIONAL = ("lost", "cancelled")
"""Outcomes whose tokens and cost may still be corrected."""

REMEMBERED_S = 60.0
"""How long a worker that fell silent is still told of."""

Reading = Callable[[], AbstractContextManager[Connection]]
Sample = tuple[Sequence[str], float]


def exposition(reading: Reading, accept: str = "") -> tuple[bytes, str]:
    """Write all metrics in the format that a scraper accepts.

    Returns:
        The text and its content type.
    """
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    with reading() as db:
        registry.register(Ledger(db))
        return encode(registry), content_type


class Ledger(Collector):
    """The ledger as Prometheus sees it."""

    def __init__(self, db: Connection) -> None:
        self.db = db

    def describe(self) -> list[Metric]:
        """Say nothing before it is asked: prometheus_client would read the ledger once more for that."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read all of it."""
        yield from of_tasks(self.db)
        yield from of_workers(self.db)
        yield from of_the_brain(self.db)
        yield from of_attempts(spend(self.db, EVER, by=("model", "tier", "outcome")))


def of_tasks(db: Connection) -> Iterator[Metric]:
    found = usage.open_tasks(db)
    age_s = (datetime.now(UTC) - found.oldest_at).total_seconds() if found.oldest_at else 0.0
    states = [((state,), getattr(found, state)) for state in ("held", "queued", "running")]
    yield gauge("fleet_tasks", "Tasks that have not ended.", ["state"], states)
    yield gauge("fleet_task_oldest_age_seconds", "Age of the oldest task that waits.", [], [((), age_s)])
    waiting = queues(db)
    yield gauge(
        "fleet_queue_attempts",
        "Attempts that wait for a worker, or run.",
        ["queue", "state"],
        [((each.name, state), getattr(each, state)) for each in waiting for state in ("waiting", "running")],
    )
    yield gauge(
        "fleet_queue_oldest_age_seconds",
        "Since when the first attempt of a queue waits for a worker.",
        ["queue"],
        [((each.name,), each.oldest_s) for each in waiting],
    )


def of_workers(db: Connection) -> Iterator[Metric]:
    workers = usage.workers(db, REMEMBERED_S)
    yield gauge(
        "fleet_worker_slots",
        "Attempts that a worker can run at once.",
        ["worker", "queue"],
        [((each.name, queue), slots) for each in workers for queue, slots in each.slots.items()],
    )
    yield gauge(
        "fleet_worker_slots_in_use",
        "Attempts that a worker runs.",
        ["worker"],
        [((each.name,), each.running) for each in workers],
    )
    yield gauge(
        "fleet_worker_memory_bytes",
        "Memory of a worker's process, with the models that it has loaded.",
        ["worker"],
        [((each.name,), each.memory_bytes) for each in workers if each.memory_bytes is not None],
    )
    yield gauge(
        "fleet_worker_silent_seconds",
        "Since the last sign of life of a worker.",
        ["worker"],
        [((each.name,), each.silent_s) for each in workers],
    )
    now = datetime.now(UTC)
    yield gauge(
        "fleet_worker_heartbeat_age_seconds",
        "Since a recurring task for a worker alone last came back through its queue.",
        ["worker"],
        [
            ((each.name,), (now - each.heartbeat_at).total_seconds())
            for each in workers
            if each.heartbeat_at is not None
        ],
    )


def of_the_brain(db: Connection) -> Iterator[Metric]:
    leader = leadership.current(db)
    yield gauge("fleet_brain_leading", "1 if a dispatcher leads.", [], [((), float(leader.is_alive))])
    yield gauge("fleet_brain_epoch", "How often the leader has changed.", [], [((), leader.epoch)])
    yield SummaryMetricFamily(
        "fleet_brain_tick_seconds",
        "What the ticks of the brain took.",
        count_value=leader.ticks,
        sum_value=leader.tick_s,
    )


def of_attempts(groups: Sequence[Spend]) -> Iterator[Metric]:
    """Tell what ended attempts used.

    Args:
        groups: by model, tier and outcome, since ever.
    """
    yield counter(
        "fleet_attempts",
        "Attempts that have ended; lost: the lease of their worker has.",
        ["model", "tier", "outcome"],
        [(each.key, each.attempts) for each in groups],
    )
    yield counter(
        "fleet_unpriced_attempts",
        "Attempts of unknown price, whose cost is counted nowhere.",
        ["model", "tier", "outcome"],
        [(each.key, each.unpriced) for each in groups],
    )
    final = by_model(each for each in groups if each.key[2] not in PROVISIONAL)
    yield counter(
        "fleet_cost_usd",
        "Dollars spent, without lost and cancelled attempts.",
        ["model", "tier"],
        [(key, float(each.cost_usd)) for key, each in final.items()],
    )
    yield counter(
        "fleet_tokens",
        "Tokens used, without lost and cancelled attempts; prompt tokens include cached ones.",
        ["model", "tier", "type"],
        [
            ((*key, kind), getattr(each, f"{kind}_tokens"))
            for key, each in final.items()
            for kind in ("prompt", "cached", "completion")
        ],
    )
    yield gauge(
        "fleet_provisional_cost_usd",
        "Dollars that lost and cancelled attempts cost; what is not known counts as reserved.",
        ["model", "tier"],
        [
            (key, float(each.cost_usd))
            for key, each in by_model(each for each in groups if each.key[2] in PROVISIONAL).items()
        ],
    )
    waits = SummaryMetricFamily("fleet_attempt_wait_seconds", "From plan to claim.", labels=["model", "tier"])
    runs = SummaryMetricFamily("fleet_attempt_run_seconds", "From claim to end.", labels=["model", "tier"])
    for key, each in by_model(groups).items():
        waits.add_metric(key, count_value=each.calls, sum_value=each.waited_s)
        runs.add_metric(key, count_value=each.calls, sum_value=each.ran_s)
    yield waits
    yield runs


def by_model(groups: Iterator[Spend] | Sequence[Spend]) -> dict[tuple[str, str], Spend]:
    """Add groups up by model and tier."""
    found: defaultdict[tuple[str, str], list[Spend]] = defaultdict(list)
    for each in groups:
        found[each.key[0], each.key[1]].append(each)
    return {key: together(several) for key, several in found.items()}


def gauge(name: str, what: str, labels: Sequence[str], samples: Sequence[Sample]) -> Metric:
    family = GaugeMetricFamily(name, what, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def counter(name: str, what: str, labels: Sequence[str], samples: Sequence[Sample]) -> Metric:
    family = CounterMetricFamily(name, what, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
