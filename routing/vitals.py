"""The fold: what the ledger says of workers and attempts becomes one picture to decide on."""

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from config.catalog import Catalog
from config.models import Limits, Model
from routing.account import Account
from routing.budgets import NOTHING, Amount, Budgets, Purse
from routing.estimates import Estimates, Seen, is_telling
from routing.health import Health, is_void
from routing.key import Key
from routing.lessons import Lesson
from routing.limits import Called, Full, Usage
from routing.objection import Objection
from routing.pace import DEFAULT_SERVICE_S, Pace, average, places, seen_pace
from routing.task import Needs

MOST_AHEAD = 1000
"""Attempts in a queue beyond its slots."""


AWAY = timedelta(hours=6)
"""How long a worker that went silent without a goodbye is expected back: a Mac that sleeps, say."""


class UnderWay(NamedTuple):
    """An attempt that has not ended."""

    model: Model
    amount: Amount
    """The most that it will use."""
    profile: str | None = None
    agent: str = "default"
    placed_at: datetime | None = None
    needs: Needs | None = None
    is_suspect: bool = False
    """Whether a worker died with its task before."""


class Ended(NamedTuple):
    """How an attempt ended."""

    outcome: str
    claimed_at: datetime | None
    """None: no worker had it, so nobody was called."""
    finished_at: datetime
    tokens: int | None
    """Prompt and answer; None: nobody knows, so the most that it could."""
    cost_usd: Decimal | None
    """None: nobody knows, so what was reserved."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_token_s: float | None = None
    lesson: Lesson | None = None


class Subject(NamedTuple):
    """Whose limits and health a call counts for: a model, or its account."""

    name: str
    limits: Limits | None
    """None: it has none."""
    needs_proof: bool
    """Whether its quota may be gone without anybody having told us."""


@dataclass
class Vitals:
    """The fleet as last recorded."""

    catalog: Catalog
    slots: Mapping[str, int] = field(default_factory=dict[str, int])
    """Attempts that live workers can run at once, by queue."""
    away: Collection[str] = ()
    """Queues without a live worker whose last one is expected back."""
    under_way: dict[Key, UnderWay] = field(default_factory=dict[Key, UnderWay])
    in_queue: Counter[str] = field(default_factory=Counter[str])
    """Attempts under way, by queue."""
    suspects: Counter[str] = field(default_factory=Counter[str])
    """Those of them that may kill their worker, by queue."""
    usage: defaultdict[str, Usage] = field(default_factory=lambda: defaultdict(Usage))
    """By subject; only of those that have limits."""
    health: defaultdict[str, Health] = field(default_factory=lambda: defaultdict(Health))
    """By subject."""
    service_s: dict[str, float] = field(default_factory=dict[str, float])
    """From claim to finish, a running average by queue."""
    paces: dict[str, Pace] = field(default_factory=dict[str, Pace])
    """By model."""
    estimates: Estimates = field(default_factory=Estimates)
    accounts: Mapping[str, Account] = field(default_factory=dict[str, Account])
    """What providers say of their accounts."""
    budgets: Budgets = field(init=False)
    subjects: dict[str, tuple[Subject, ...]] = field(init=False)
    """By model: whose limits and health a call of it counts for."""

    def __post_init__(self) -> None:
        self.know(self.accounts)
        self.budgets = Budgets(self.catalog.budgets, self.catalog.models)

    def know(self, accounts: Mapping[str, Account]) -> None:
        """Take in what providers say of their accounts: the limits that follow, and credit that came back."""
        for name, account in accounts.items():
            before = self.accounts.get(name)
            if before is not None and before.is_empty and not account.is_empty:
                self.health[f"provider {name}"].pay(account.asked_at)
        self.accounts = accounts
        models = self.catalog.models.values()
        self.subjects = {model.name: subjects_of(model, self.catalog, accounts) for model in models}

    def room(self, queue: str) -> int:
        """Count the attempts that a queue can take now; 0 or less: none."""
        places_there = places(self.slots.get(queue, 0), self.service_s.get(queue), MOST_AHEAD)
        return places_there - self.in_queue[queue]

    def closed(self, model: Model, now: datetime) -> Objection | None:
        """Say why a model, or its account, is not to be called now; None: it may."""
        for subject in self.subjects[model.name]:
            health = self.health.get(subject.name)
            if health is not None:
                objection = health.objection(subject.name, now, needs_proof=subject.needs_proof)
                if objection is not None:
                    return objection
        account = self.accounts.get(model.provider or "")
        if account is not None and model.tier == "paid":
            return account.objection(f"provider {model.provider}", now)
        return None

    def failed_at(self, model: Model) -> datetime | None:
        """Tell when the service of a model failed last; None: never, or it has answered since."""
        failures = [
            health.failed_at
            for subject in self.subjects[model.name]
            if (health := self.health.get(subject.name)) and health.failures and health.failed_at
        ]
        return max(failures, default=None)

    def full(self, model: Model, tokens: int, now: datetime) -> Full | None:
        """Say which limit of a model, or of its account, leaves no room; None: there is room."""
        for subject in self.subjects[model.name]:
            if subject.limits is not None:
                full = self.usage[subject.name].full(subject.limits, tokens, now)
                if full is not None:
                    return Full(f"{subject.name} allows {full.why}", full.until)
        return None

    def left(self, model: Model, now: datetime) -> dict[str, str]:
        """Say what is left of the limits and budgets that a call of a model counts for, by subject."""
        limits = {
            subject.name: ", ".join(self.usage[subject.name].left(subject.limits, now))
            for subject in self.subjects[model.name]
            if subject.limits is not None
        }
        account = self.accounts.get(model.provider or "")
        if account is not None and account.left:
            subject = f"provider {model.provider}"
            limits[subject] = ", ".join(filter(None, (account.left, limits.get(subject))))
        return limits | {str(purse): purse.left(now) for purse in self.budgets.of_model[model.name]}

    def unpaid(
        self, model: Model, profile: str | None, agent: str, amount: Amount, now: datetime
    ) -> Objection | None:
        """Say which budget cannot pay for a call; None: all can."""
        for purse in self.budgets.of(model.name, profile, agent):
            objection = purse.objection(amount, now)
            if objection is not None:
                return objection
        return None

    def needed_s(self, model: str, max_tokens: int) -> float:
        """Tell how long a model takes for an answer of so many tokens, from its placement on."""
        pace = self.paces.get(model)
        return DEFAULT_SERVICE_S if pace is None else pace.needed_s(max_tokens)

    def placed(self, key: Key, attempt: UnderWay, claimed_at: datetime | None = None) -> None:
        """Take note of an attempt that was placed; it counts against everything from now on."""
        model = attempt.model
        if key not in self.under_way:
            self.under_way[key] = attempt
            self.in_queue[model.queue] += 1
            self.suspects[model.queue] += attempt.is_suspect
            for purse in self.purses_of(attempt):
                purse.reserve(key, purse.counted(attempt.amount) or Decimal(0))
        for subject in self.subjects[model.name]:
            self.health[subject.name].under_way[key] = claimed_at
            if subject.limits is not None:
                self.usage[subject.name].place(key, attempt.amount.tokens, claimed_at)

    def claimed(self, key: Key, at: datetime) -> None:
        """Take note of the moment from which an attempt counts."""
        known = self.under_way.get(key)
        if known is not None:
            self.placed(key, known, at)

    def withdrawn(self, key: Key) -> None:
        """Take back an attempt that was never placed after all."""
        known = self.under_way.pop(key, None)
        if known is not None:
            self.release(key, known, None, 0)

    def ended(self, key: Key, end: Ended) -> None:
        """Take note of the end of an attempt."""
        known = self.under_way.pop(key, None)
        if known is None:
            return
        used = amount_used(known.amount, end)
        self.release(key, known, end.claimed_at, used.tokens)
        for purse in self.purses_of(known):
            purse.spend(purse.counted(used) or Decimal(0), end.finished_at)
        self.learn(known.model, key, end)
        if end.claimed_at is not None:
            self.time(known, end, end.claimed_at)

    def release(self, key: Key, known: UnderWay, claimed_at: datetime | None, tokens: int) -> None:
        self.in_queue[known.model.queue] -= 1
        self.suspects[known.model.queue] -= known.is_suspect
        for purse in self.purses_of(known):
            purse.release(key)
        for subject in self.subjects[known.model.name]:
            self.health[subject.name].under_way.pop(key, None)
            if subject.limits is not None:
                self.usage[subject.name].end(key, claimed_at, tokens)

    def learn(self, model: Model, key: Key | None, end: Ended) -> None:
        """Take note of what an attempt taught about a model and its account.

        Args:
            key: None: many attempts that succeeded.
        """
        if end.outcome in ("succeeded", "rejected"):
            for subject in self.subjects[model.name]:
                self.health[subject.name].succeed(end.finished_at)
        elif key is not None and end.lesson is not None and not is_void(end.lesson, model):
            self.health[concerned(model, end.lesson)].learn(end.lesson, key, end.finished_at)

    def time(self, known: UnderWay, end: Ended, claimed_at: datetime) -> None:
        queue, run_s = known.model.queue, (end.finished_at - claimed_at).total_seconds()
        self.service_s[queue] = average(self.service_s.get(queue), run_s)
        if end.outcome != "succeeded":
            return
        if known.needs and end.prompt_tokens:
            self.count(known.model.name, known.needs, end.prompt_tokens)
        if known.placed_at is not None:
            queue_s = max((claimed_at - known.placed_at).total_seconds(), 0)
            pace = seen_pace(queue_s, run_s, end.first_token_s, end.completion_tokens or 0)
            before_it = self.paces.get(known.model.name)
            self.paces[known.model.name] = pace if before_it is None else before_it.learn(pace)

    def count(self, model: str, needs: Needs, counted: int) -> None:
        """Take note of how many tokens a model counted in a prompt."""
        if needs.kind == "chat" and is_telling(counted, needs.prompt_tokens, needs.wide_tokens):
            self.estimates.learn(model, needs.script, Seen(1, counted / max(needs.prompt_tokens, 1)))

    def purses_of(self, attempt: UnderWay) -> Iterable[Purse]:
        return self.budgets.of(attempt.model.name, attempt.profile, attempt.agent)

    def remember_calls(
        self, recent: Iterable[tuple[Model, Called]], today: date, calls_today: Iterable[tuple[Model, int]]
    ) -> None:
        """Take in what ended before this picture was begun: the last minute's calls, and the day's count."""
        for model, called in recent:
            for subject in self.subjects[model.name]:
                if subject.limits is not None:
                    insort(self.usage[subject.name].recent, called)
        for model, calls in calls_today:
            for subject in self.subjects[model.name]:
                if subject.limits is not None:
                    self.usage[subject.name].count_on(today, calls)


def concerned(model: Model, lesson: Lesson) -> str:
    """Name the subject that a lesson is about."""
    if lesson.scope == "provider" and model.provider:
        return f"provider {model.provider}"
    return f"model {model.name}"


def amount_used(reserved: Amount, end: Ended) -> Amount:
    """Say what an attempt used, as far as is known; what is not known counts as reserved."""
    if end.claimed_at is None:
        return NOTHING
    return Amount(
        usd=reserved.usd if end.cost_usd is None else end.cost_usd,
        tokens=reserved.tokens if end.tokens is None else end.tokens,
    )


def subjects_of(model: Model, catalog: Catalog, accounts: Mapping[str, Account]) -> tuple[Subject, ...]:
    """List whose limits and health a call of a model counts for: its own, and those of its account."""
    is_free = model.tier == "free"
    found = [Subject(f"model {model.name}", known(model.limits), is_free and not model.provider)]
    if model.provider:
        told = accounts.get(model.provider)
        provider = catalog.providers[model.provider]
        limits = provider.limits_for(is_free_tier=told.is_free_tier if told else None)
        found.append(Subject(f"provider {model.provider}", known(limits), is_free))
    return tuple(found)


def known(limits: Limits) -> Limits | None:
    return None if limits == Limits() else limits
