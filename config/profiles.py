"""profiles.yaml: the kinds of work, the personas, the budgets, and the order of the models."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool
from pydantic.json_schema import WithJsonSchema

from config.budgets import Budget
from config.entry import Count, Entry, Name, Named, OwnName, Text, period_or_none_at_all
from config.models import Tier
from config.periods import PERIOD

Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]

LONGEST_PATTERN = 1000
"""Characters of a regular expression."""


class Expect(Entry):
    """What an answer must be; one that is not is rejected, and the next candidate is tried."""

    non_empty: StrictBool = True
    """Something besides white space, or a tool call."""
    min_length: Count | None = None
    """Characters."""
    pattern: Annotated[str, Field(min_length=1, max_length=LONGEST_PATTERN)] | None = None
    """A regular expression that is found somewhere in it."""
    json_schema: Mapping[str, Any] | None = None
    """It is JSON, and valid against this schema."""


class Profile(Entry):
    """A kind of work: the model for it, how it is asked, and how long it may wait."""

    name: OwnName
    description: Text | None = None
    model: Name
    fallbacks: tuple[Name, ...] | None = None
    """Tried in this order after the model; None: those of the routing."""
    prefer: Literal["listed", "cheapest"] = "listed"
    """`cheapest`: the candidates are tried in order of price instead."""
    temperature: Temperature
    max_tokens: Count
    system: Text | None = None
    """Put before messages that have no system prompt of their own."""
    prompt: Text
    """What is asked where the caller gives no prompt."""
    max_tier: Tier = "paid"
    """Dearer models are passed over."""
    patience_s: Annotated[int, Field(strict=True, ge=0)] = 60
    """How long a task waits for a cheaper model before a dearer one is taken."""
    keep_text: (
        Annotated[
            timedelta,
            BeforeValidator(period_or_none_at_all),
            WithJsonSchema(
                {"anyOf": [{"const": 0}, {"type": "string", "pattern": PERIOD}], "examples": ["30d", 0]}
            ),
        ]
        | None
    ) = None
    """How long prompts and answers stay in the ledger, such as 30d; 0: answers never come there."""
    on_refusal: Literal["fail", "next"] = "fail"
    """`next`: what a model's content policy refuses is taken to the next candidate."""
    expect: Expect | None = None
    """What its answers must be, where the task does not say it itself."""


class Focus(Entry):
    """An agent's persona; its model counts where the caller gave no profile."""

    name: OwnName
    model: Name
    description: Text | None = None


class Routing(Entry):
    """What holds for tasks whose caller or profile says nothing else."""

    primary: Name
    fallbacks: tuple[Name, ...] = ()
    last_resort: tuple[Name, ...] = ()
    """Local models, taken when nothing else can be reached; the answer says which one it was."""
    temperature: Temperature = 0.7
    max_tokens: Count = 1024
    embedding: Name | None = None
    """The model of `embed` and `similar` where their caller names none."""


class ProfilesFile(Entry):
    """profiles.yaml: the kinds of work, the personas, the budgets, and the order of the models."""

    profiles: Annotated[dict[Name, Profile], Named]
    focuses: Annotated[dict[Name, Focus], Named] = Field(default_factory=dict)
    budgets: Annotated[dict[Name, Budget], Named] = Field(default_factory=dict)
    routing: Routing
