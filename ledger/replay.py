"""What a replay reads: the tasks of a time as they came, and what became of them."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from ledger.connect import Connection

RECORDED_TASKS = """
    SELECT id, state, profile, focus, model, agent, priority, not_before, deadline, needs,
           accepted_at, finished_at, error ->> 'type' AS error
      FROM tasks
     WHERE accepted_at >= %(since)s
       AND state <> 'cancelled'
       AND needs ->> 'kind' IS DISTINCT FROM 'embedding' -- one model can take it, so there is nothing to try
     ORDER BY accepted_at, id
"""

RECORDED_CALLS = """
    SELECT a.task_id, a.model, a.tier, a.outcome, a.claimed_at, a.prompt_tokens, a.completion_tokens,
           CASE WHEN a.outcome = 'lost' THEN coalesce(a.cost_usd, a.reserved_usd) ELSE a.cost_usd
            END AS cost_usd,
           a.error -> 'lesson' ->> 'cause' AS cause
      FROM tasks t
      JOIN attempts a ON a.task_id = t.id AND a.queued_at >= t.accepted_at
     WHERE t.accepted_at >= %(since)s
       AND t.state <> 'cancelled'
       AND t.needs ->> 'kind' IS DISTINCT FROM 'embedding'
       AND a.claimed_at IS NOT NULL
     ORDER BY t.accepted_at, t.id, a.number
"""


@dataclass(frozen=True)
class RecordedTask:
    """A task as it was accepted, and its end."""

    id: UUID
    state: str
    profile: str | None
    focus: str | None
    model: str | None
    agent: str
    priority: int
    not_before: datetime | None
    deadline: datetime | None
    needs: dict[str, Any]
    accepted_at: datetime
    finished_at: datetime | None
    error: str | None
    """The name of the error that it failed with."""


@dataclass(frozen=True)
class RecordedCall:
    """An attempt that a worker began."""

    task_id: UUID
    model: str
    tier: str
    outcome: str | None
    """None: it runs."""
    claimed_at: datetime
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None
    """A lost one counts as reserved. None: unknown, or it runs."""
    cause: str | None
    """What a failure was put down to; see `routing.lessons`."""


def recorded_tasks(db: Connection, since: datetime) -> list[RecordedTask]:
    """Read the tasks accepted since a moment, in that order; not those that were cancelled."""
    with db.cursor(row_factory=class_row(RecordedTask)) as cursor:
        return cursor.execute(RECORDED_TASKS, {"since": since}).fetchall()


def recorded_calls(db: Connection, since: datetime) -> list[RecordedCall]:
    """Read the calls made for these tasks, in the order of the tasks and of their attempts."""
    with db.cursor(row_factory=class_row(RecordedCall)) as cursor:
        return cursor.execute(RECORDED_CALLS, {"since": since}).fetchall()
