"""What is spent of each budget, what is reserved, and what is left.

An attempt reserves the most that it can use when it is placed, and settles when it ends. It counts in the
window in which it ends; while it is under way, its reservation counts in the window that runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Context, Decimal
from typing import NamedTuple

from config.budgets import Budget
from config.models import Model
from routing.key import Key
from routing.objection import Objection
from routing.windows import window_end, window_start


class Amount(NamedTuple):
    """What an attempt uses, or can use at most."""

    usd: Decimal | None
    """None: the price is unknown."""
    tokens: int
    requests: int = 1


LONG_AGO = datetime.min.replace(tzinfo=UTC)

NOTHING = Amount(Decimal(0), 0, 0)

FOUR_DIGITS = Context(prec=4, rounding=ROUND_DOWN)
"""Of money that is left, for people; never more than there is."""


@dataclass
class Purse:
    """A budget, and what has become of it."""

    budget: Budget
    window_began: datetime = LONG_AGO
    spent: Decimal = Decimal(0)
    """In the window, by attempts that have ended."""
    reserved: dict[Key, Decimal] = field(default_factory=dict[Key, Decimal])
    """By attempts that are under way."""
    reserved_in_all: Decimal = Decimal(0)

    @property
    def allowed(self) -> Decimal:
        budget = self.budget
        return Decimal(next(n for n in (budget.usd, budget.tokens, budget.requests) if n is not None))

    def counted(self, amount: Amount) -> Decimal | None:
        """Give the part of an amount that this budget counts; None: nobody knows it."""
        if self.budget.usd is not None:
            return amount.usd
        return Decimal(amount.tokens if self.budget.tokens is not None else amount.requests)

    def used(self, now: datetime) -> Decimal:
        """Add up what is spent in the window of `now`, and what is reserved."""
        spent = self.spent if self.window_began == window_start(self.budget.window, now) else Decimal(0)
        return spent + self.reserved_in_all

    def reserve(self, key: Key, counted: Decimal) -> None:
        """Put aside what an attempt can use at most."""
        self.reserved[key] = counted
        self.reserved_in_all += counted

    def release(self, key: Key) -> None:
        """Give back what was put aside."""
        self.reserved_in_all -= self.reserved.pop(key, Decimal(0))

    def spend(self, counted: Decimal, at: datetime) -> None:
        """Take note of what an attempt used that ended."""
        began = window_start(self.budget.window, at)
        if began > self.window_began:
            self.window_began, self.spent = began, Decimal(0)
        if began == self.window_began:
            self.spent += counted

    def objection(self, amount: Amount, now: datetime) -> Objection | None:
        """Say why an attempt cannot be paid for; None: it can."""
        counted = self.counted(amount)
        if counted is None:
            return Objection(f"its price is unknown, and {self} bounds dollars", is_final=True)
        if counted > self.allowed:
            return Objection(f"could use {self.say(counted)}, more than {self} has at all", is_final=True)
        used = self.used(now)
        if used + counted <= self.allowed:
            return None
        return Objection(
            f"{self} has {self.say(max(self.allowed - used, Decimal(0)))} left of "
            f"{self.say(self.allowed)} a {self.budget.window}, this could use {self.say(counted)}",
            is_final=self.budget.on_spent == "reject",
            until=window_end(self.budget.window, now),
            ends_plan=self.budget.on_spent != "cheaper",
        )

    def left(self, now: datetime) -> str:
        """Say what is left."""
        left = max(self.allowed - self.used(now), Decimal(0))
        if self.budget.usd is not None:
            left = FOUR_DIGITS.plus(left)
        return f"{self.say(left)} of {self.say(self.allowed)} this {self.budget.window}"

    def say(self, counted: Decimal) -> str:
        """Write a number of what this budget counts."""
        if self.budget.usd is not None:
            return f"${counted.normalize():f}"
        return f"{counted:,f} {'tokens' if self.budget.tokens is not None else 'requests'}"

    def __str__(self) -> str:
        return f"budget {self.budget.name}"


class Budgets:
    """All purses, found by what they count."""

    def __init__(self, budgets: Mapping[str, Budget], models: Mapping[str, Model]) -> None:
        self.purses = {name: Purse(budget) for name, budget in budgets.items()}
        self.of_model: dict[str, list[Purse]] = {
            model.name: [purse for purse in self.purses.values() if counts_model(purse.budget, model)]
            for model in models.values()
        }
        self.agents = {budget.agent for budget in budgets.values() if budget.agent}

    def of(self, model: str, profile: str | None, agent: str) -> Sequence[Purse]:
        """List the purses that pay for a call."""
        return [
            purse
            for purse in self.of_model[model]
            if purse.budget.profile in (None, profile) and purse.budget.agent in (None, agent)
        ]


def counts_model(budget: Budget, model: Model) -> bool:
    return budget.tier in (None, model.tier) and budget.model in (None, model.name)
