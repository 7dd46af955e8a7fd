"""One run of a recurring task: its id, what is asked, and what is held against it beforehand."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from celery import Celery
from redis import Redis

from config.catalog import Catalog, RecurringTask
from config.errors import ConfigError
from ledger import schedules
from ledger.connect import Connection
from ledger.schedules import Firing
from routing.windows import window_start
from workers.app import DISPATCH_QUEUE
from workers.calls import AnyCall, check
from workers.completion import plain
from workers.errors import FleetError
from workers.schedule import delivery
from workers.schedule.heartbeats import any_model
from workers.tasks import shown_arguments, task_id_of


def firing_of(entry: RecurringTask, scheduled_at: datetime, worker: str = "") -> Firing:
    """Name a run: the same name, time and worker are the same task, however often it is sent."""
    key = f"schedule {entry.name} {scheduled_at.astimezone(UTC).isoformat()} {worker}".rstrip()
    return Firing(entry.name, scheduled_at, worker, UUID(task_id_of(key)))


def objection_to(entry: RecurringTask, app: Celery, redis: Redis, catalog: Catalog) -> str | None:
    """Say why a run would be in vain, before a token is spent on it; None: nothing is known against it."""
    try:
        check_run(catalog, entry, arguments(entry, model=any_model(catalog) if entry.each_worker else None))
    except (FleetError, ConfigError) as error:
        return str(error)
    return delivery.objection_to(entry.deliver, app, redis, catalog) if entry.deliver else None


def most_usd(db: Connection, entry: RecurringTask, now: datetime) -> Decimal | None:
    """Tell what a run may cost: its budget, and what is left of that of the day; None: it has neither."""
    budget = entry.budget
    if budget is None:
        return None
    bounds = [] if budget.run_usd is None else [budget.run_usd]
    if budget.day_usd is not None:
        spent = schedules.spent(db, entry.name, window_start("day", now))
        bounds.append(max(budget.day_usd - spent, Decimal(0)))
    return min(bounds, default=None)


def arguments(entry: RecurringTask, **more: object) -> dict[str, Any]:
    """Give what its task is called with."""
    what: Mapping[str, object] = (
        {"texts": [entry.prompt], "collection": entry.collection}
        if entry.task == "embed"
        else {
            "profile": entry.profile,
            "focus": entry.focus,
            "prompt": entry.prompt,
            "messages": None if entry.messages is None else [dict(message) for message in entry.messages],
        }
    )
    known = {**what, "model": entry.model, "agent": entry.agent, "metadata": {"schedule": entry.name}}
    given = {**known, **{name: value for name, value in more.items() if value is not None}}
    return {name: value for name, value in given.items() if value is not None}


def check_run(catalog: Catalog, entry: RecurringTask, asked: Mapping[str, Any]) -> AnyCall:
    """Check what a run is called with.

    Raises:
        FleetError, ConfigError: it can never run.
    """
    return check(entry.task, catalog, (), asked)


def send(
    app: Celery, catalog: Catalog, entry: RecurringTask, firing: Firing, expires_at: datetime, **more: object
) -> None:
    """Enqueue a run, as any caller would; its id makes a second message of it harmless."""
    asked = arguments(
        entry,
        metadata={"schedule": entry.name, "scheduled_at": firing.scheduled_at.astimezone(UTC).isoformat()},
        **{name: plain(value) if isinstance(value, Decimal) else value for name, value in more.items()},
    )
    shown: dict[str, Any] = shown_arguments(check_run(catalog, entry, asked))
    app.send_task(
        entry.task,
        kwargs=asked,
        task_id=str(firing.task_id),
        queue=DISPATCH_QUEUE,
        expires=expires_at,
        ignore_result=entry.deliver is None,
        **shown,
    )
