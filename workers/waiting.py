"""A task that waits: from the ledger's row to what a plan sees."""

from dataclasses import replace
from datetime import datetime

from ledger.replay import RecordedTask
from ledger.tasks import HeldTask
from routing.lessons import Tried, lesson_from
from routing.scheduler import Scheduler, patience_of
from routing.task import Task, needs_from


def let_wait(scheduler: Scheduler, row: HeldTask, now: datetime) -> Task:
    """Add a ledger row to what waits; its patience is its own, else its profile's."""
    tried = (Tried(model, why, lesson_from(lesson), is_lost) for model, why, lesson, is_lost in row.tried)
    task = replace(task_of(row), tried=tuple(tried), spent_usd=row.spent_usd)
    return scheduler.add(task, patience_of(scheduler.catalog, row.profile, task.needs), now)


def task_of(row: HeldTask | RecordedTask) -> Task:
    """Turn a ledger row into a task of which nothing has been tried."""
    return Task(
        id=row.id,
        profile=row.profile,
        focus=row.focus,
        model=row.model,
        agent=row.agent,
        priority=row.priority,
        not_before=row.not_before,
        deadline=row.deadline,
        needs=needs_from(row.needs),
        accepted_at=row.accepted_at,
        patient_until=row.accepted_at,
    )
