"""What a failed call teaches: about the model, about its account, and about trying again."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, cast

Cause = Literal["rate_limit", "quota", "payment", "key", "gone", "fault", "task"]
"""Who or what is to blame.

rate_limit   too many requests just now
quota        nothing is left until a reset
payment      the account has no money
key          the account does not know our key
gone         the provider has no such model
fault        the service failed: an outage, a silence, an answer that was cut
task         the task: too long, refused, malformed, cancelled; the model is as well as before
"""

Scope = Literal["model", "provider"]
"""Whom it concerns: the one model, or all models of its account."""

Again = Literal["same", "other", "larger", "nobody"]
"""Who may try the task next: also the same model, only another, one with a larger context, or nobody."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one failure says."""

    cause: Cause = "task"
    scope: Scope = "model"
    again: Again = "other"
    until: datetime | None = None
    """When the provider said that it will take requests again; None: it did not say."""
    upstream: str | None = None
    """The provider's id of the model, as it was asked; another id in the catalog makes the lesson void."""


class Tried(NamedTuple):
    """An attempt of a task that did not succeed."""

    model: str
    why: str
    lesson: Lesson | None
    """None: it says nothing about the model."""
    is_lost: bool = False
    """Whether its worker died with it."""


def lesson_from(stored: Mapping[str, Any] | None) -> Lesson | None:
    """Read a lesson as the ledger keeps it, in an attempt's error."""
    if stored is None:
        return None
    until = stored.get("until")
    return Lesson(
        cause=cast("Cause", stored["cause"]),
        scope=cast("Scope", stored["scope"]),
        again=cast("Again", stored["again"]),
        until=datetime.fromisoformat(until) if until else None,
        upstream=stored.get("upstream"),
    )


def as_stored(lesson: Lesson) -> dict[str, Any]:
    """Write a lesson as the ledger keeps it."""
    return {
        "cause": lesson.cause,
        "scope": lesson.scope,
        "again": lesson.again,
        "until": lesson.until.isoformat() if lesson.until else None,
        "upstream": lesson.upstream,
    }


MOST_FAULTS = 2
"""Failures of the service after which a task comes back to the same model only after a pause."""

FAULTS_THAT_END = 10
"""Failures of the service after which it does not come back: the task may be the cause."""


def used_up(tried: tuple[Tried, ...], model: str) -> str | None:
    """Say why a task must not go to a model again; None: it may.

    Limits and accounts are no reason: a task waits for those. Nor is an outage, for a while: see `faults_on`.
    """
    for attempt in tried:
        if attempt.model == model and attempt.lesson is not None and attempt.lesson.again != "same":
            return f"tried: {attempt.why}"
    faults = faults_on(tried, model)
    return f"tried: {faults[-1].why}" if len(faults) >= FAULTS_THAT_END else None


def faults_on(tried: tuple[Tried, ...], model: str) -> list[Tried]:
    """List the attempts of a task on a model whose service failed."""
    return [each for each in tried if each.model == model and each.lesson and each.lesson.cause == "fault"]


def unlucky_with(tried: tuple[Tried, ...]) -> tuple[str, ...]:
    """List the models that a task comes back to only after a pause."""
    models = sorted({each.model for each in tried})
    return tuple(model for model in models if len(faults_on(tried, model)) >= MOST_FAULTS)
