"""A task as a plan sees it: what it asks of a model, and how long it may take."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from config.models import Capability, Kind, Tier
from routing.lessons import Tried, unlucky_with
from routing.tokens import ASCII


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model must be able to do for the task."""

    prompt_tokens: int
    """Estimated, never too low."""
    max_tokens: int
    patience_s: float | None = None
    """Before the profile's own."""
    max_tier: Tier | None = None
    """Dearer models are passed over."""
    max_cost_usd: Decimal | None = None
    """Models that could cost more, with what the task has cost so far, are passed over."""
    requires: tuple[Capability, ...] = ()
    """What a model must be able to do besides text."""
    script: str = ASCII
    """What most of the prompt beyond ASCII is written in; see `routing.tokens.script_of`."""
    wide_tokens: int = 0
    """The part of the estimate that is for that."""
    worker: str | None = None
    """The only one that may run it; None: any."""
    kind: Kind = "chat"
    """Of the model; a task of the kind embedding runs on the model that it names, and on no other."""


@dataclass(frozen=True, slots=True)
class Task:
    """One call of `complete`, `embed` or `similar` that waits for a model."""

    id: UUID
    profile: str | None
    focus: str | None
    model: str | None
    """What the caller named; None: the profile, the focus or the primary decides."""
    agent: str
    priority: int
    """0 first, 9 last."""
    not_before: datetime | None
    deadline: datetime | None
    needs: Needs
    accepted_at: datetime
    patient_until: datetime
    """Until then it waits for a cheaper model that is busy."""
    tried: tuple[Tried, ...] = ()
    """The attempts so far."""
    spent_usd: Decimal = Decimal(0)
    """What they cost, at most."""
    suits: tuple[str, ...] = ()
    """The models that may run it at all, now or later; see `routing.plan.suiting`."""
    purse: str | None = None
    """Its agent, where that one has a budget of its own."""

    @property
    def kind(self) -> tuple[object, ...]:
        """What tasks of an agent have in common that get the same plan at the same moment."""
        unlucky = unlucky_with(self.tried) if self.tried else ()
        whose = (self.agent, self.profile, self.focus, self.model, self.needs.worker)
        return (*whose, self.suits, self.purse, unlucky, self.is_suspect)

    @property
    def is_suspect(self) -> bool:
        """Whether a worker died while it ran: it may be the one that kills them."""
        return any(attempt.is_lost for attempt in self.tried)

    @property
    def number(self) -> int:
        """The number that its next attempt gets."""
        return len(self.tried) + 1


def needs_from(stored: Mapping[str, Any]) -> Needs:
    """Read needs as the ledger keeps them."""
    cost = stored.get("max_cost_usd")
    return Needs(
        prompt_tokens=int(stored["prompt_tokens"]),
        max_tokens=int(stored["max_tokens"]),
        patience_s=stored.get("patience_s"),
        max_tier=stored.get("max_tier"),
        max_cost_usd=None if cost is None else Decimal(cost),
        requires=tuple(stored.get("requires") or ()),
        script=stored.get("script") or ASCII,
        wide_tokens=int(stored.get("wide_tokens") or 0),
        worker=stored.get("worker"),
        kind=stored.get("kind") or "chat",
    )


DEFAULT_PATIENCE_S = 60.0
"""For tasks without a profile."""


def patience_end(start: datetime, patience_s: float, deadline: datetime | None, service_s: float) -> datetime:
    """Tell until when a task waits for a cheaper model.

    Args:
        start: when it was accepted, or the moment before which it must not run.
        patience_s: of its profile.
        deadline: leaves its last seconds to the dearer model.
        service_s: what that one needs.
    """
    end = start + timedelta(seconds=patience_s)
    if deadline is None:
        return end
    return min(end, deadline - timedelta(seconds=service_s))
