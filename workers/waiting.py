"""A task that waits: from the ledger's row to what a plan sees."""

from datetime import datetime

from ledger.tasks import HeldTask
from routing.lessons import Tried, lesson_from
from routing.scheduler import Scheduler, patience_of
from routing.task import Task, needs_from


def let_wait(scheduler: Scheduler, row: HeldTask, now: datetime) -> Task:
    """Add a ledger row to what waits; its patience is its own, else its profile's."""
    needs = needs_from(row.needs)
    task = Task(
        id=row.id,
        profile=row.profile,
        focus=row.focus,
        model=row.model,
        agent=row.agent,
        priority=row.priority,
        not_before=row.not_before,
        deadline=row.deadline,
        needs=needs,
        accepted_at=row.accepted_at,
        patient_until=row.accepted_at,
        tried=tuple(
            Tried(model, why, lesson_from(lesson), is_lost) for model, why, lesson, is_lost in row.tried
        ),
        spent_usd=row.spent_usd,
    )
    return scheduler.add(task, patience_of(scheduler.catalog, row.profile, needs), now)
