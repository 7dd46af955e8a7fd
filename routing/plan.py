"""Candidates and vitals become a plan, with an objection for each candidate that is passed over."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from config.catalog import Catalog
from config.models import TIERS, Model
from routing.budgets import Amount
from routing.estimates import Estimates
from routing.health import pause
from routing.lessons import MOST_FAULTS, faults_on, used_up
from routing.limits import MINUTE, SLACK
from routing.objection import Objection, PassedOver
from routing.price import cost_usd
from routing.task import Needs, Task
from routing.vitals import UnderWay, Vitals


@dataclass(frozen=True)
class Run:
    """Give the task to this model now."""

    model: Model
    passed_over: PassedOver


@dataclass(frozen=True)
class Wait:
    """No candidate can take the task now, or a better one is worth waiting for."""

    passed_over: PassedOver

    @property
    def until(self) -> datetime | None:
        """The earliest moment at which an objection ends by itself; None: none is known."""
        ends = [objection.until for _, objection in self.passed_over if objection.until]
        return min(ends, default=None)


@dataclass(frozen=True)
class Refuse:
    """No candidate can ever take the task."""

    passed_over: PassedOver


Plan = Run | Wait | Refuse


def plan(task: Task, candidates: Sequence[Model], catalog: Catalog, vitals: Vitals, now: datetime) -> Plan:
    """Pick the first candidate that can take the task now, unless waiting is cheaper.

    A dearer candidate, and one of the last resort, is taken only once the task has lost its patience,
    as long as a better one is merely busy.

    Args:
        task: what was asked, what was tried so far, and until when it is patient.
        candidates: in order of preference.
        catalog: for the bounds that the task's profile sets.
        vitals: the fleet as last recorded.
        now: aware, UTC.

    Returns:
        `Run`, `Wait` or `Refuse`; `passed_over` holds one (model, objection) pair for each candidate
        before the one taken.
    """
    passed_over: list[tuple[str, Objection]] = []
    busy: list[tuple[Model, Objection]] = []
    for model in candidates:
        objection = objection_to(model, task, catalog, vitals, now)
        if objection is None and now < task.patient_until:
            objection = too_early(model, busy, catalog, task.patient_until)
        if objection is None:
            return Run(model, tuple(passed_over))
        passed_over.append((model.name, objection))
        if objection.ends_plan:
            return Refuse(tuple(passed_over)) if objection.is_final else Wait(tuple(passed_over))
        if is_worth_waiting(objection, task.patient_until, now):
            busy.append((model, objection))
    if all(objection.is_final for _, objection in passed_over):
        return Refuse(tuple(passed_over))
    return Wait(tuple(passed_over))


def is_worth_waiting(objection: Objection, patient_until: datetime, now: datetime) -> bool:
    """Tell whether a candidate may come free while the task is still patient.

    One that is away for long, until midnight say, is not waited for in vain; one that is back within a
    minute always gets the task's patience, because others may come free in the meantime too.
    """
    if not objection.is_worth_waiting:
        return False
    until = objection.until
    return until is None or until <= max(patient_until, now + MINUTE + SLACK)


def too_early(
    model: Model, busy: Sequence[tuple[Model, Objection]], catalog: Catalog, patient_until: datetime
) -> Objection | None:
    """Say which busy candidate is worth waiting for instead of taking this one; None: none is."""
    is_stopgap = model.name in catalog.routing.last_resort
    for better, objection in busy:
        if objection.only_before_paid and model.tier != "paid":
            continue
        if is_stopgap or TIERS.index(better.tier) < TIERS.index(model.tier):
            why = f"ready, but {better.name} is worth waiting for until {patient_until:%H:%M:%S} UTC"
            return Objection(why, until=patient_until)
    return None


def objection_to(
    model: Model, task: Task, catalog: Catalog, vitals: Vitals, now: datetime
) -> Objection | None:
    """Say why a model cannot take a task now; None: it can."""
    unfit = unfitness(model, task, catalog, now.date(), vitals.estimates)
    if unfit is not None:
        return Objection(unfit, is_final=True)
    closed = absence(model, vitals) or vitals.closed(model, now) or bad_luck(model, task, vitals, now)
    if closed is not None:
        return closed
    most = most_used(model, task.needs, now.date())
    full = vitals.full(model, most.tokens, now)
    if full is not None:
        return Objection(full.why, until=full.until, is_worth_waiting=True)
    crowded = no_room(model.queue, task, vitals)
    if crowded is not None:
        return Objection(crowded, is_worth_waiting=True)
    # Last, so that a budget ends a plan only for a candidate that would have taken the task.
    return vitals.unpaid(model, task.profile, task.agent, most, now)


def no_room(queue: str, task: Task, vitals: Vitals) -> str | None:
    """Say why a queue cannot take one more attempt of a task now; None: it can."""
    if vitals.room(queue) <= 0:
        return f"all {vitals.slots[queue]} slots of queue {queue} are taken"
    if task.is_suspect and vitals.suspects[queue] > 0:
        # Else those that were lost beside the culprit would be lost beside it again and again.
        return f"a worker died with it; another such task runs on queue {queue} first"
    return None


def absence(model: Model, vitals: Vitals) -> Objection | None:
    """Say that nobody serves a model; None: somebody does."""
    if vitals.slots.get(model.queue):
        return None
    why = f"no live worker on queue {model.queue}"
    if model.queue not in vitals.away:
        return Objection(why)
    return Objection(f"{why}, but one is expected back", is_worth_waiting=True, only_before_paid=True)


def bad_luck(model: Model, task: Task, vitals: Vitals, now: datetime) -> Objection | None:
    """Say that a task failed on a model again and again; another one takes it, or the same after a pause."""
    if not task.tried:
        return None
    faults, failed_at = faults_on(task.tried, model.name), vitals.failed_at(model)
    if len(faults) < MOST_FAULTS or failed_at is None:
        return None
    until = failed_at + pause(len(faults) - MOST_FAULTS, (task.id, task.number))
    return Objection(f"tried: {faults[-1].why}", until=until) if now < until else None


def unfitness(model: Model, task: Task, catalog: Catalog, today: date, estimates: Estimates) -> str | None:
    """Say why a model can never run a task; None: it may."""
    return (
        inability(model, task, today, estimates)
        or too_small(model, task, catalog)
        or out_of_bounds(model, task, catalog, today)
    )


def too_small(model: Model, task: Task, catalog: Catalog) -> str | None:
    """Say which model with as large a context has said that the task does not fit."""
    for attempt in task.tried:
        if attempt.lesson is not None and attempt.lesson.again == "larger":
            tried = catalog.models.get(attempt.model)
            if tried is not None and model.context_tokens <= tried.context_tokens:
                return f"its context is not larger than that of {tried.name}, which was too small"
    return None


def inability(model: Model, task: Task, today: date, estimates: Estimates) -> str | None:
    """Say why a model cannot do what a task asks."""
    tried = used_up(task.tried, model.name) if task.tried else None
    if tried is not None:
        return tried
    if model.is_retired(today):
        return f"retired on {model.retired_on} without a successor"
    if model.kind != task.needs.kind:
        return f"is of kind {model.kind}, the task needs one of kind {task.needs.kind}"
    lacking = model.capabilities.lacks(task.needs.requires)
    if lacking:
        return f"has no {' and no '.join(lacking)}, which the task needs"
    needs = task.needs
    prompt = estimates.tokens(model.name, needs.script, needs.prompt_tokens, needs.wide_tokens)
    needed = prompt + output_tokens(model, needs.max_tokens)
    # The texts of an embedding are read one by one; the engine counts them, and nobody else could take them.
    if needs.kind == "chat" and needed > model.context_tokens:
        return f"needs up to {needed} tokens, its context has {model.context_tokens}"
    return None


def out_of_bounds(model: Model, task: Task, catalog: Catalog, today: date) -> str | None:
    """Say which bound of a task, or of its profile, forbids a model."""
    bounds = [("profile", catalog.profile(task.profile).max_tier)] if task.profile else []
    for whose, max_tier in (*bounds, ("task", task.needs.max_tier)):
        if max_tier and TIERS.index(model.tier) > TIERS.index(max_tier):
            return f"tier {model.tier} is above the {whose}'s max_tier {max_tier}"
    allowed = task.needs.max_cost_usd
    if allowed is None:
        return None
    worst = worst_cost_usd(model, task.needs, today)
    if worst is None:
        return "its price is unknown, and the task bounds its cost"
    if worst + task.spent_usd <= allowed:
        return None
    so_far = f" besides the ${task.spent_usd.normalize():f} so far" if task.spent_usd else ""
    return f"could cost ${worst.normalize():f}{so_far}, the task allows ${allowed.normalize():f}"


def suiting(
    task: Task, candidates: Sequence[Model], catalog: Catalog, today: date, estimates: Estimates
) -> tuple[str, ...]:
    """List the candidates that may run a task at all; tasks that these are the same for are of a kind."""
    return tuple(
        model.name for model in candidates if unfitness(model, task, catalog, today, estimates) is None
    )


def under_way(model: Model, task: Task, now: datetime) -> UnderWay:
    """Describe the attempt that a placement of a task on a model becomes."""
    most = most_used(model, task.needs, now.date())
    return UnderWay(
        model,
        most,
        profile=task.profile,
        agent=task.agent,
        placed_at=now,
        needs=task.needs,
        is_suspect=task.is_suspect,
    )


def most_used(model: Model, needs: Needs, today: date) -> Amount:
    """Bound what an attempt can use."""
    return Amount(worst_cost_usd(model, needs, today), most_tokens(model, needs))


def worst_cost_usd(model: Model, needs: Needs, today: date) -> Decimal | None:
    """Price the longest prompt and answer that an attempt can have; None: the price is unknown."""
    return cost_usd(
        model,
        today,
        prompt_tokens=needs.prompt_tokens,
        completion_tokens=output_tokens(model, needs.max_tokens),
    )


def most_tokens(model: Model, needs: Needs) -> int:
    """Bound the tokens of an attempt, prompt and answer together."""
    return needs.prompt_tokens + output_tokens(model, needs.max_tokens)


def output_tokens(model: Model, max_tokens: int) -> int:
    """Bound an answer by what was asked and by what the model can give."""
    return min(max_tokens, model.max_output_tokens or max_tokens)
