"""The `budgets` of profiles.yaml: how much may be used, by what, and what happens then."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from config.entry import Count, Entry, Name, OwnName, Text, Usd, fault
from config.models import Tier

Window = Literal["day", "month"]
OnSpent = Literal["hold", "cheaper", "reject"]

SCOPES = ("tier", "profile", "agent", "model")
UNITS = ("usd", "tokens", "requests")


class Budget(Entry):
    """What may be used in a day or month, UTC; without a scope, by the whole fleet."""

    name: OwnName
    description: Text | None = None
    tier: Tier | None = None
    """Counts the calls of all models of this tier."""
    profile: Name | None = None
    """Counts the calls for tasks of this profile."""
    agent: Text | None = None
    """Counts the calls for this agent."""
    model: Name | None = None
    """Counts the calls of this model."""
    window: Window
    """`day` or `month`; both begin at midnight UTC."""
    usd: Annotated[Usd, Field(strict=False)] | None = None
    """Dollars."""
    tokens: Count | None = None
    """Of prompts and answers together."""
    requests: Count | None = None
    on_spent: OnSpent = "cheaper"
    """`cheaper`: other models take the task, or it waits. `hold`: it waits. `reject`: it fails."""

    @model_validator(mode="after")
    def counts_one_thing(self) -> Self:
        """Refuse a budget of which nobody could say what is left."""
        units = [unit for unit in UNITS if getattr(self, unit) is not None]
        if len(units) != 1:
            raise fault(f"expected one of {', '.join(UNITS)}, got {' and '.join(units) or 'none'}")
        scopes = [scope for scope in SCOPES if getattr(self, scope) is not None]
        if len(scopes) > 1:
            raise fault(f"expected at most one of {', '.join(SCOPES)}, got {' and '.join(scopes)}")
        return self
