"""What the brain would decide on a task now, candidate by candidate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from config.catalog import Catalog
from config.errors import UnknownNameError
from config.models import Model
from ledger.tasks import HeldTask
from routing.errors import refusal
from routing.objection import Objection
from routing.plan import Plan, Refuse, Run
from routing.scheduler import Scheduler
from routing.task import Task
from routing.vitals import Vitals
from workers.calls import AnyCall
from workers.waiting import let_wait
from workers.words import moment

Verdict = Literal["takes it", "not now", "unfit", "not needed"]

Decision = Literal["run", "wait", "refuse"]

NOBODY = UUID(int=0)
"""The id of a task that is only thought of."""


@dataclass(frozen=True)
class Prospect:
    """A candidate, and what is said of it."""

    model: str
    tier: str
    queue: str
    verdict: Verdict
    why: str | None
    """The objection; None: it takes the task, or an earlier one does."""
    until: datetime | None
    """When the objection ends by itself, where that is known."""


@dataclass(frozen=True)
class Forecast:
    """What would be decided."""

    decision: Decision
    text: str
    """The decision in a sentence."""
    candidates: list[Prospect]
    """In order of preference."""


def forecast(held: HeldTask, catalog: Catalog, vitals: Vitals, now: datetime, *, is_led: bool) -> Forecast:
    """Decide as the brain does, and keep what it would say of each candidate.

    Args:
        held: a task that waits, or one that is only thought of.
        catalog: the brain's own may differ, where it runs on another host.
        vitals: the fleet as the ledger has it.
        now: aware, UTC.
        is_led: whether there is a brain to decide anything.
    """
    scheduler = Scheduler(catalog, vitals)
    task = let_wait(scheduler, held, now)
    try:
        models = scheduler.candidates(task, now.date())
    except UnknownNameError as error:
        return Forecast("refuse", f"The catalog of this host has changed since it was asked: {error}.", [])
    decision = scheduler.decide(task, now)
    says, text = held_up(task, now, is_led=is_led) or decided(decision, models, vitals)
    return Forecast(says, text, prospects(models, decision))


def decided(decision: Plan, models: Sequence[Model], vitals: Vitals) -> tuple[Decision, str]:
    """Put a decision into words."""
    if isinstance(decision, Run):
        return "run", f"It runs on {decision.model.name}."
    if isinstance(decision, Refuse):
        error = type(refusal(None, decision.passed_over)).__name__
        return "refuse", f"It fails with {error}: no candidate can take it."
    unfit = {name for name, objection in decision.passed_over if objection.is_final}
    if not any(vitals.slots.get(model.queue) for model in models if model.name not in unfit):
        return "wait", (
            "It waits: no worker serves any of its candidates. `fleet up` starts the workers that its host "
            "can run, and says why not the others."
        )
    if decision.until:
        return "wait", f"It waits; this changes by itself at {moment(decision.until)} at the latest."
    return "wait", "It waits until one of the busy candidates is ready."


def held_up(task: Task, now: datetime, *, is_led: bool) -> tuple[Decision, str] | None:
    """Say what comes before any candidate is looked at; None: nothing."""
    if not is_led:
        return "wait", (
            "It waits: no dispatcher leads, so nobody decides. Start one: `fleet up` or `fleet dispatcher`."
        )
    if task.deadline and task.deadline <= now:
        return "refuse", "It fails with ExpiredError: its deadline has passed."
    if task.not_before and task.not_before > now:
        return "wait", f"It waits for its time, {moment(task.not_before)}."
    return None


def prospects(models: tuple[Model, ...], decision: Plan) -> list[Prospect]:
    objections: Mapping[str, Objection] = dict(decision.passed_over)
    chosen = decision.model.name if isinstance(decision, Run) else None
    return [prospect(model, objections.get(model.name), is_chosen=model.name == chosen) for model in models]


def prospect(model: Model, objection: Objection | None, *, is_chosen: bool) -> Prospect:
    verdict: Verdict = "takes it" if is_chosen else "not needed"
    if objection is not None:
        verdict = "unfit" if objection.is_final else "not now"
    why, until = (objection.why, objection.until) if objection else (None, None)
    return Prospect(model.name, model.tier, model.queue, verdict, why, until)


def imagined(call: AnyCall, now: datetime) -> HeldTask:
    """Make the task that a call would become if it were accepted now."""
    return HeldTask(
        id=NOBODY,
        profile=call.profile,
        focus=call.focus,
        model=call.model,
        agent=call.agent,
        priority=0,
        not_before=None,
        deadline=None,
        needs=call.needs,
        accepted_at=now,
        tried=[],
    )
