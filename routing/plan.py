"""Candidates and vitals become a plan, with an objection for each candidate that is passed over."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from config.catalog import Catalog
from config.models import TIERS, Model
from routing.task import Task
from routing.vitals import Vitals


@dataclass(frozen=True)
class Objection:
    """Why a candidate cannot take a task now."""

    why: str
    is_final: bool
    """True: it never can (unfit). False: it may later (busy)."""


PassedOver = tuple[tuple[str, Objection], ...]
"""(model, objection) for each candidate that was not taken, in order."""


@dataclass(frozen=True)
class Run:
    """Give the task to this model now."""

    model: Model
    passed_over: PassedOver


@dataclass(frozen=True)
class Wait:
    """No candidate can take the task now; one may later."""

    passed_over: PassedOver


@dataclass(frozen=True)
class Refuse:
    """No candidate can ever take the task."""

    passed_over: PassedOver


Plan = Run | Wait | Refuse


def plan(task: Task, candidates: Sequence[Model], catalog: Catalog, vitals: Vitals, now: datetime) -> Plan:
    """Pick the first candidate that can take the task now.

    Args:
        task: what was asked, and what was tried so far.
        candidates: in order of preference.
        catalog: for the bounds that the task's profile sets.
        vitals: the fleet as last recorded.
        now: aware, UTC.

    Returns:
        `Run`, `Wait` or `Refuse`; `passed_over` holds one (model, objection) pair for each candidate
        before the one taken.
    """
    passed_over: list[tuple[str, Objection]] = []
    for model in candidates:
        objection = objection_to(model, task, catalog, vitals, now.date())
        if objection is None:
            return Run(model, tuple(passed_over))
        passed_over.append((model.name, objection))
    if all(objection.is_final for _, objection in passed_over):
        return Refuse(tuple(passed_over))
    return Wait(tuple(passed_over))


def objection_to(model: Model, task: Task, catalog: Catalog, vitals: Vitals, today: date) -> Objection | None:
    """Say why a model cannot take a task now; None: it can."""
    unfit = unfitness(model, task, catalog, today)
    if unfit is not None:
        return Objection(unfit, is_final=True)
    if not vitals.slots.get(model.queue):
        return Objection(f"no live worker on queue {model.queue}", is_final=False)
    if vitals.room(model.queue) <= 0:
        return Objection(
            f"all {vitals.slots[model.queue]} slots of queue {model.queue} are taken", is_final=False
        )
    return None


def unfitness(model: Model, task: Task, catalog: Catalog, today: date) -> str | None:
    """Say why a model can never run a task; None: it may."""
    for tried, why in task.tried:
        if tried == model.name:
            return f"tried: {why}"
    if model.is_retired(today):
        return f"retired on {model.retired_on} without a successor"
    if model.kind != "chat":
        return f"is not a chat model but an {model.kind} model"
    max_tier = catalog.profile(task.profile).max_tier if task.profile else "paid"
    if TIERS.index(model.tier) > TIERS.index(max_tier):
        return f"tier {model.tier} is above the profile's max_tier {max_tier}"
    needed = task.needs.prompt_tokens + output_tokens(model, task.needs.max_tokens)
    if needed > model.context_tokens:
        return f"needs up to {needed} tokens, its context has {model.context_tokens}"
    return None


def output_tokens(model: Model, max_tokens: int) -> int:
    """Bound an answer by what was asked and by what the model can give."""
    return min(max_tokens, model.max_output_tokens or max_tokens)
