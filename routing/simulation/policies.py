"""Who decides in a simulation: the fleet, and the simple policies that it is compared with."""

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from config.catalog import Catalog
from config.errors import UnknownNameError
from config.models import Model
from routing.candidates import candidates
from routing.estimates import Estimates
from routing.key import Key
from routing.lessons import Tried
from routing.objection import PassedOver
from routing.plan import Run, inability, unfitness, worst_cost_usd
from routing.scheduler import Scheduler, patience_of
from routing.task import Task
from routing.vitals import Ended


@dataclass(frozen=True, slots=True)
class Arrival:
    """A task that comes in, and what it will turn out to be."""

    task: Task
    prompt_tokens: int
    """As a model counts them; the task itself has an estimate."""
    completion_tokens: int
    """Of the answer, if nothing cuts it."""


class Start(NamedTuple):
    """Call a model for a task."""

    task: Task
    model: Model


class GiveUp(NamedTuple):
    """End a task without an answer."""

    task: Task
    how: Literal["failed", "expired"]
    why: str


class Policy(Protocol):
    """One way to decide."""

    name: str
    has_workers: bool
    """False: it calls the models itself, as a gateway does. No slots bound its calls of a provider, and
    nothing waits for a worker that is away."""

    def arrive(self, arrival: Arrival, now: datetime) -> None:
        """Take a task in."""
        ...

    def see_workers(self, slots: Mapping[str, int], away: Collection[str]) -> None:
        """Take note of who is there, and on which queues one is away who is expected back."""
        ...

    def claimed(self, key: Key, at: datetime) -> None:
        """Take note of a call that began."""
        ...

    def ended(self, key: Key, end: Ended, why: str, now: datetime) -> None:
        """Take note of the end of a call."""
        ...

    def act(self, now: datetime) -> Iterator[Start | GiveUp]:
        """Decide what there is to decide now."""
        ...

    def next_moment(self) -> datetime | None:
        """Tell when the clock alone changes something; None: never."""
        ...


MOST_LOSSES = 3
"""Workers that a task may take with it; as in the fleet."""


class Fleet:
    """The fleet's own policy: the dispatcher's scheduler, fed as the dispatcher feeds it."""

    has_workers = True

    def __init__(self, catalog: Catalog, name: str = "this config") -> None:
        self.name = name
        self.catalog = catalog
        self.scheduler = Scheduler(catalog)
        self.running: dict[UUID, Start] = {}
        self.ill_fated: list[Task] = []
        """Tasks that lost their workers too often."""

    def arrive(self, arrival: Arrival, now: datetime) -> None:
        """Let a task wait."""
        self.hold(arrival.task, now)

    def hold(self, task: Task, now: datetime) -> None:
        self.scheduler.add(task, patience_of(self.catalog, task.profile, task.needs), now)

    def see_workers(self, slots: Mapping[str, int], away: Collection[str]) -> None:
        """Take note of the slots that there are."""
        self.scheduler.vitals.slots = slots
        self.scheduler.vitals.away = away

    def claimed(self, key: Key, at: datetime) -> None:
        """Count the call from its begin."""
        self.scheduler.vitals.claimed(key, at)

    def ended(self, key: Key, end: Ended, why: str, now: datetime) -> None:
        """Learn from the end of a call; a task without an answer waits again."""
        task, model = self.running.pop(key[0])
        self.scheduler.vitals.ended(key, end)
        if end.outcome == "succeeded":
            return
        spent = end.cost_usd
        if spent is None:
            spent = worst_cost_usd(model, task.needs, now.date()) or Decimal(0)
        tried = (*task.tried, Tried(model.name, why, end.lesson))
        if sum(attempt.lesson is None for attempt in tried) >= MOST_LOSSES:
            self.ill_fated.append(task)
            return
        self.hold(replace(task, tried=tried, spent_usd=task.spent_usd + spent), now)

    def act(self, now: datetime) -> Iterator[Start | GiveUp]:
        """Make the decisions of a tick."""
        while self.ill_fated:
            yield GiveUp(self.ill_fated.pop(), "failed", "its workers went away again and again")
        for task in self.scheduler.backlog.expired(now):
            yield GiveUp(task, "expired", "its deadline passed")
        self.scheduler.look_again_at = None
        for task, decision in self.scheduler.decisions(now):
            if isinstance(decision, Run):
                start = Start(task, decision.model)
                self.running[task.id] = start
                yield start
            else:
                yield GiveUp(task, "failed", in_words(decision.passed_over))

    def next_moment(self) -> datetime | None:
        """Tell when to look again."""
        return self.scheduler.next_moment()


def in_words(passed_over: PassedOver) -> str:
    return "; ".join(f"{model}: {objection.why}" for model, objection in passed_over) or "no candidate"


Chain = Callable[[Task, date], Sequence[Model]]
"""From a task and a day to the models to call, in order."""


@dataclass
class Passage:
    """How far a task has come along its chain."""

    task: Task
    models: Sequence[Model]
    at: int = 0
    rounds: int = 0
    calls: int = 0
    why: str = ""
    """The last failure."""


@dataclass
class Gateway:
    """What gateways do: call the first model at once and the next one on a failure, then give up.

    It knows contexts, capabilities and bounds, and passes over a model that could never answer.
    """

    name: str
    catalog: Catalog
    chain: Chain
    pauses_s: Sequence[float] = ()
    """After the chain has failed, before it is gone through again."""
    is_bound: bool = True
    """False: what a task or its profile forbids is called all the same; only what cannot answer is not."""
    has_workers: bool = False
    due: list[tuple[datetime, int, Passage]] = field(default_factory=list[tuple[datetime, int, Passage]])
    under_way: dict[UUID, Passage] = field(default_factory=dict[UUID, Passage])
    entered: int = 0

    def arrive(self, arrival: Arrival, now: datetime) -> None:
        """Line the task up for its first call, at once or when its time has come."""
        task = replace(arrival.task, needs=replace(arrival.task.needs, prompt_tokens=arrival.prompt_tokens))
        start = max(now, task.not_before or now)
        self.line_up(start, Passage(task, self.fit(task, start.date())))

    def fit(self, task: Task, today: date) -> list[Model]:
        try:
            models = self.chain(task, today)
        except UnknownNameError:
            return []
        if not self.is_bound:
            return [model for model in models if inability(model, task, today, Estimates()) is None]
        return [m for m in models if unfitness(m, task, self.catalog, today, Estimates()) is None]

    def line_up(self, at: datetime, passage: Passage) -> None:
        self.entered += 1
        heapq.heappush(self.due, (at, self.entered, passage))

    def see_workers(self, slots: Mapping[str, int], away: Collection[str]) -> None:
        """Know nothing of workers."""

    def claimed(self, key: Key, at: datetime) -> None:
        """Count nothing."""

    def ended(self, key: Key, end: Ended, why: str, now: datetime) -> None:
        """Go on to the next model after a failure."""
        passage = self.under_way.pop(key[0])
        if end.outcome == "succeeded":
            return
        passage.why = f"{passage.models[passage.at].name}: {why}"
        passage.at += 1
        if passage.at < len(passage.models) or passage.rounds >= len(self.pauses_s):
            self.line_up(now, passage)
            return
        pause = timedelta(seconds=self.pauses_s[passage.rounds])
        passage.at, passage.rounds = 0, passage.rounds + 1
        self.line_up(now + pause, passage)

    def act(self, now: datetime) -> Iterator[Start | GiveUp]:
        """Make the calls that are due."""
        while self.due and self.due[0][0] <= now:
            _, _, passage = heapq.heappop(self.due)
            task = passage.task
            if task.deadline and task.deadline <= now:
                yield GiveUp(task, "expired", "its deadline passed")
            elif passage.at >= len(passage.models):
                yield GiveUp(task, "failed", passage.why or "no model can answer it")
            else:
                self.under_way[task.id] = passage
                passage.calls += 1
                yield Start(task, passage.models[passage.at])

    def next_moment(self) -> datetime | None:
        """Tell when the next call is due."""
        return self.due[0][0] if self.due else None


BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Six more rounds in about a minute, as client libraries do it."""


def immediate_fallback(catalog: Catalog) -> Gateway:
    """Make the policy of most gateways: the listed order, at once the next one, lost when all have failed."""
    return Gateway("immediate fallback", catalog, lambda task, today: candidates(task, catalog, today))


def retry_with_backoff(catalog: Catalog) -> Gateway:
    """Make the policy of a gateway that goes through the listed order again and again for a minute."""
    chain: Chain = lambda task, today: candidates(task, catalog, today)  # noqa: E731 - named for its type
    return Gateway("fallback and retries", catalog, chain, BACKOFF_S)


def all_paid(catalog: Catalog, model: str) -> Gateway:
    """Make the policy that sends everything to one paid model, with retries."""

    def chain(task: Task, today: date) -> Sequence[Model]:
        del task
        return (catalog.resolve(model, today),)

    return Gateway(f"all on {model}", catalog, chain, BACKOFF_S, is_bound=False)
