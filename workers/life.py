"""The life of one task, as the ledger has it, and what holds it up where it has not ended."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from config.catalog import Catalog
from ledger import leadership, tasks, usage
from ledger.connect import Connection, one_moment
from ledger.usage import AttemptInFull, TaskInFull
from routing.vitals import Vitals
from workers.errors import UnknownTaskError
from workers.forecast import Forecast, forecast
from workers.picture import read_vitals
from workers.words import duration, moment

LEAST_PREFIX = 8
"""Hex digits that a shortened id must have: the first group of a uuid."""

DIGITS = 32

LOST_AFTER = timedelta(seconds=5)
"""How long a worker with a free slot may take to claim: a hundred times what it takes."""

MOST_NAMED = 3
"""Ids that are named where a prefix fits several tasks."""


@dataclass(frozen=True)
class Life:
    """A task from its acceptance to now."""

    task: TaskInFull
    attempts: list[AttemptInFull]
    forecast: Forecast | None
    """What the brain would decide now; None: the task is not held."""
    held_up: str | None
    """Why the task does not go on, although a worker is to run it; None: nothing is known against it."""


def find_task(db: Connection, asked: str) -> UUID:
    """Find the task whose id starts so.

    Raises:
        UnknownTaskError: it is no part of an id, or that of no task, or of several.
    """
    digits = asked.strip().replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]+", digits) or len(digits) > DIGITS:
        raise UnknownTaskError(
            asked,
            "is not the id of a task",
            "expected a uuid, or its beginning, as `complete.delay(...).id` gives it",
        )
    if len(digits) < LEAST_PREFIX:
        raise UnknownTaskError(asked, "is too short for an id", f"give at least {LEAST_PREFIX} of its digits")
    found = usage.tasks_between(
        db, UUID(digits.ljust(DIGITS, "0")), UUID(digits.ljust(DIGITS, "f")), MOST_NAMED + 1
    )
    if not found:
        raise UnknownTaskError(
            asked,
            "is no task in the ledger",
            "if it was enqueued just now, no dispatcher has accepted it yet: see `fleet status`",
        )
    if len(found) > 1:
        named = ", ".join(map(str, found[:MOST_NAMED])) + (" and more" if len(found) > MOST_NAMED else "")
        raise UnknownTaskError(asked, "fits several tasks", f"give more of the id: {named}")
    return found[0]


def life(db: Connection, catalog: Catalog, asked: str) -> Life:
    """Read a task's life, all of one moment.

    Raises:
        UnknownTaskError: no task, or more than one, is meant.
    """
    with one_moment(db):
        task_id = find_task(db, asked)
        now = datetime.now(UTC)
        task = usage.task(db, task_id)
        if task is None:
            raise LookupError(task_id)
        attempts = usage.life(db, task_id)
        if task.finished_at:
            return Life(task, attempts, None, None)
        vitals = read_vitals(db, catalog, now)
        expected = None
        for held in tasks.held(db, [task_id]):
            is_led = leadership.current(db).is_alive
            expected = forecast(held, catalog, vitals, now, is_led=is_led)
        return Life(task, attempts, expected, obstacle(attempts[-1], vitals, now) if attempts else None)


def obstacle(attempt: AttemptInFull, vitals: Vitals, now: datetime) -> str | None:
    """Say why an attempt that has not ended may never go on; None: nothing is known against it."""
    if attempt.outcome is not None:
        return None
    if attempt.lease_until is None:
        if not vitals.slots.get(attempt.queue):
            return f"No live worker is on queue {attempt.queue}; it waits until one starts."
        waited = now - attempt.queued_at
        if waited > LOST_AFTER and vitals.in_queue[attempt.queue] <= vitals.slots[attempt.queue]:
            return (
                f"No worker has claimed it for {duration(waited.total_seconds())}, although queue "
                f"{attempt.queue} has free slots: its message may be lost. A dispatcher that begins to lead "
                "publishes it again; `fleet cancel` takes it back."
            )
        return None
    if attempt.lease_until < now:
        return (
            f"The lease of {attempt.worker} ended {moment(attempt.lease_until)}: that worker is gone. The "
            "dispatcher that leads takes the task back within seconds."
        )
    return None


def cost(attempts: Sequence[AttemptInFull]) -> Decimal | None:
    """Add up what attempts cost; None: the price of one that has ended is unknown."""
    ended = [attempt.cost_usd for attempt in attempts if attempt.outcome is not None]
    known = [usd for usd in ended if usd is not None]
    return sum(known, Decimal(0)) if len(known) == len(ended) else None
