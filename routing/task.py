"""A task as a plan sees it: what it asks of a model, and how long it may take."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model must be able to do for the task."""

    prompt_tokens: int
    """Estimated, never too low."""
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Task:
    """One call of `complete` that waits for a model."""

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
    tried: tuple[tuple[str, str], ...] = ()
    """(model, what went wrong) for each attempt so far."""

    @property
    def kind(self) -> tuple[object, ...]:
        """What tasks of an agent have in common that get the same plan at the same moment."""
        return (self.agent, self.profile, self.focus, self.model, size_class(self.needs), self.tried)


def needs_from(stored: Mapping[str, Any]) -> Needs:
    """Read needs as the ledger keeps them."""
    return Needs(prompt_tokens=int(stored["prompt_tokens"]), max_tokens=int(stored["max_tokens"]))


DEFAULT_PATIENCE_S = 60.0
"""For tasks without a profile."""

DEFAULT_SERVICE_S = 30.0
"""What a model needs for a task, as long as none has been seen at work."""


def patience_end(
    start: datetime, patience_s: float, deadline: datetime | None, service_s: float | None
) -> datetime:
    """Tell until when a task waits for a cheaper model.

    Args:
        start: when it was accepted, or the moment before which it must not run.
        patience_s: of its profile.
        deadline: leaves its last seconds to the dearer model.
        service_s: what a model needs for a task; None: none has been seen at work.
    """
    end = start + timedelta(seconds=patience_s)
    if deadline is None:
        return end
    return min(end, deadline - timedelta(seconds=DEFAULT_SERVICE_S if service_s is None else service_s))


def size_class(needs: Needs) -> tuple[int, int]:
    """Round the prompt up to a power of two, so that tasks of like size share a plan."""
    return (max(needs.prompt_tokens - 1, 0).bit_length(), needs.max_tokens)
