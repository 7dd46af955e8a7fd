"""Attempts that end without their worker's answer: lost with it, called off, or handed back.

What such a call cost is not known, so it counts at what was reserved for it: spend may be over-stated, never
under-stated. Nothing reserved on a paid tier means an unknown price: NULL. A worker that ends the call after
all writes its real cost over that (`attempts.finish`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from ledger import leadership
from ledger.attempts import CHANNEL, Key, columns_of, hints, lately_then_ever
from ledger.connect import Connection, jsonb, records
from ledger.rollup import COUNTED, changes
from ledger.tasks import EndedTask

MOST_AT_ONCE = 500

ANY_EXPIRED = """
    SELECT EXISTS (SELECT FROM attempts WHERE outcome IS NULL AND lease_until < clock_timestamp())
"""

LOSE = f"""
    WITH expired AS (
        SELECT task_id, number, queued_at
          FROM attempts
         WHERE outcome IS NULL
           AND lease_until < clock_timestamp()
         LIMIT %(most)s
           FOR UPDATE SKIP LOCKED
    ), closed AS (
        UPDATE attempts
           SET outcome = 'lost',
               finished_at = clock_timestamp(),
               cost_usd = CASE WHEN tier <> 'paid' OR reserved_usd > 0 THEN reserved_usd END
          FROM expired
         WHERE attempts.task_id = expired.task_id
           AND attempts.number = expired.number
           AND attempts.queued_at = expired.queued_at
           AND attempts.task_id = ANY (ARRAY(SELECT task_id FROM expired))
        RETURNING attempts.task_id, attempts.number, attempts.worker, attempts.lease_until,
                  {COUNTED}
    ), counted AS (
        {changes("closed")}
    )
    SELECT task_id, number, model, worker, claimed_at, lease_until,
           (SELECT coalesce(jsonb_agg(jsonb_build_array(before.worker,
                                                        date_trunc('second', before.lease_until))
                                      ORDER BY before.number), '[]')
              FROM attempts before
             WHERE before.task_id = closed.task_id
               AND before.outcome = 'lost') AS before
      FROM closed
"""

RELEASE = """
    UPDATE tasks
       SET state = CASE WHEN released.error IS NULL THEN 'held' ELSE 'failed' END,
           finished_at = CASE WHEN released.error IS NOT NULL THEN clock_timestamp() END,
           error = released.error
      FROM json_to_recordset(%(released)s) AS released (task_id uuid, error jsonb)
     WHERE tasks.id = released.task_id
       AND tasks.id = ANY (%(task_id)s::uuid[])
       AND tasks.state = 'running'
    RETURNING tasks.id, tasks.envelope
"""

HAND_BACK = f"""
    WITH closed AS (
        UPDATE attempts
           SET outcome = 'cancelled',
               finished_at = clock_timestamp(),
               cost_usd = CASE WHEN claimed_at IS NULL THEN 0
                               WHEN tier <> 'paid' OR reserved_usd > 0 THEN reserved_usd END,
               error = %(error)s
          FROM unnest(%(task_id)s::uuid[], %(number)s::smallint[]) AS given (task_id, number)
         WHERE attempts.task_id = given.task_id
           AND attempts.number = given.number
           AND attempts.task_id = ANY (%(task_id)s::uuid[])
           AND attempts.queued_at >= %(since)s
           AND outcome IS NULL
           AND worker IS NOT DISTINCT FROM %(worker)s
        RETURNING attempts.task_id, attempts.number,
                  {COUNTED}
    ), counted AS (
        {changes("closed")}
    )
    UPDATE tasks
       SET state = 'held'
      FROM closed
     WHERE tasks.id = closed.task_id
    RETURNING closed.task_id, closed.number,
              (SELECT count(pg_notify(%(channel)s, ids)) FROM unnest(%(hints)s::text[]) AS hints (ids))
"""


@dataclass(frozen=True)
class Lost:
    """An attempt whose lease ended before its worker did."""

    task_id: UUID
    number: int
    model: str
    worker: str
    claimed_at: datetime
    lease_until: datetime
    before: list[list[str]]
    """[worker, end of its lease] for each earlier attempt of the task that was lost."""


@dataclass(frozen=True)
class Release:
    """What becomes of a task whose attempt was lost."""

    task_id: UUID
    error: dict[str, Any] | None
    """None: it is held again."""


def lose(
    db: Connection, error_of: Callable[[Lost], dict[str, Any] | None], *, epoch: int
) -> tuple[list[Lost], list[tuple[EndedTask, dict[str, Any]]]]:
    """End the attempts whose lease has ended, by Postgres's clock; their tasks are held again, or fail.

    Args:
        db: the brain's.
        error_of: tells why a task shall not be tried again; None: it shall.
        epoch: of the brain.

    Returns:
        The attempts, in no order, at most `MOST_AT_ONCE`; and the tasks that failed, with
        their errors. An attempt that somebody is just writing to is left for the next time.

    Raises:
        NotLeadingError: nothing was written, another dispatcher leads.
    """
    if db.execute(ANY_EXPIRED).fetchone() != (True,):
        return [], []
    with db.transaction():
        leadership.check(db, epoch)
        with db.cursor(row_factory=class_row(Lost)) as cursor:
            lost = cursor.execute(LOSE, {"most": MOST_AT_ONCE}).fetchall()
        errors = {each.task_id: error_of(each) for each in lost}
        released = [Release(task_id, error) for task_id, error in errors.items()]
        rows = db.execute(RELEASE, {"released": records(released), "task_id": list(errors)}).fetchall()
    ended = ((EndedTask(task_id, envelope), errors[task_id]) for task_id, envelope in rows)
    return lost, [(task, error) for task, error in ended if error is not None]


def hand_back(db: Connection, keys: Sequence[Key], *, worker: str | None, error: dict[str, Any]) -> set[Key]:
    """End attempts that a worker will not run, or not to their end; their tasks are held again.

    Args:
        db: the worker's.
        keys: of the attempts.
        worker: that has claimed them; None: those that nobody has.
        error: why, for the books.

    Returns:
        Those that it ended; one that has ended, or that another worker has, is not among them.
    """
    ended: set[Key] = set()
    why = {"worker": worker, "error": jsonb(error), "channel": CHANNEL}
    for since, given in lately_then_ever(keys, ended):
        rows = db.execute(HAND_BACK, {**columns_of(given), **why, "hints": hints(given), "since": since})
        ended |= {(task_id, number) for task_id, number, _ in rows}
    return ended
