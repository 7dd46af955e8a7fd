"""A task as a plan sees it: what it asks of a model, and how long it may take."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
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
    tried: tuple[tuple[str, str], ...] = ()
    """(model, what went wrong) for each attempt so far."""

    @property
    def kind(self) -> tuple[object, ...]:
        """What tasks have in common that get the same plan at the same moment."""
        return (self.profile, self.focus, self.model, size_class(self.needs), self.tried)


def needs_from(stored: Mapping[str, Any]) -> Needs:
    """Read needs as the ledger keeps them."""
    return Needs(prompt_tokens=int(stored["prompt_tokens"]), max_tokens=int(stored["max_tokens"]))


def size_class(needs: Needs) -> tuple[int, int]:
    """Round the prompt up to a power of two, so that tasks of like size share a plan."""
    return (max(needs.prompt_tokens - 1, 0).bit_length(), needs.max_tokens)
