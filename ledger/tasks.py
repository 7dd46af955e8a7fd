"""Tasks on their way in: accepted, held, queued; and those that end without a model call."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.rows import class_row, dict_row

from ledger import leadership
from ledger.connect import ROWS_AT_ONCE, Connection, jsonb, records
from ledger.rollup import COUNTED, changes

ACCEPT = """
    WITH leads AS (
        SELECT epoch FROM leadership WHERE epoch = %(epoch)s FOR SHARE
    ), new AS (
        SELECT new.*
          FROM leads,
               ROWS FROM (
                   json_to_recordset(%(new)s)
                   AS (id uuid, profile text, focus text, model text, agent text, priority smallint,
                       not_before timestamptz, deadline timestamptz, needs jsonb, metadata jsonb,
                       request jsonb, envelope jsonb, error jsonb)
               ) WITH ORDINALITY
               AS new (id, profile, focus, model, agent, priority, not_before, deadline, needs, metadata,
                       request, envelope, error, place)
    ), planned AS (
        SELECT *
          FROM json_to_recordset(%(placements)s)
               AS planned (task_id uuid, model text, tier text, queue text, passed_over jsonb,
                           reserved_usd numeric, reserved_tokens int)
    ), accepted AS (
        INSERT INTO tasks (id, state, profile, focus, model, agent, priority, not_before, deadline,
                           needs, metadata, request, envelope, attempts, accepted_at, finished_at, error)
        SELECT new.id,
               CASE WHEN error IS NOT NULL THEN 'failed'
                    WHEN planned.task_id IS NOT NULL THEN 'queued'
                    ELSE 'held' END,
               new.profile, new.focus, new.model, new.agent, new.priority, new.not_before, new.deadline,
               new.needs, new.metadata, new.request, new.envelope,
               CASE WHEN planned.task_id IS NULL THEN 0 ELSE 1 END,
               now() + place * interval '1 microsecond', -- the order of arrival, also within a batch
               CASE WHEN error IS NOT NULL THEN now() + place * interval '1 microsecond' END, error
          FROM new
          LEFT JOIN planned ON planned.task_id = new.id
            ON CONFLICT (id) DO NOTHING
        RETURNING id, accepted_at, profile, agent
    ), inserted AS (
        INSERT INTO attempts (task_id, number, profile, agent, model, tier, queue, epoch, passed_over,
                              reserved_usd, reserved_tokens, queued_at)
        SELECT accepted.id, 1, accepted.profile, accepted.agent, planned.model, tier, queue, %(epoch)s,
               passed_over, reserved_usd, reserved_tokens, accepted_at
          FROM accepted
          JOIN planned ON planned.task_id = accepted.id
    )
    SELECT accepted.id, accepted.accepted_at
      FROM leads
      LEFT JOIN accepted ON true
"""

HELD = """
    SELECT id, profile, focus, model, agent, priority, not_before, deadline, needs, accepted_at,
           (SELECT coalesce(jsonb_agg(jsonb_build_array(a.model, coalesce(a.error ->> 'text', a.outcome),
                                                        a.error -> 'lesson', a.outcome = 'lost')
                                      ORDER BY a.number), '[]')
              FROM attempts a
             WHERE a.task_id = tasks.id
               AND a.queued_at >= tasks.accepted_at
               AND tasks.attempts > 0) AS tried,
           (SELECT coalesce(sum(coalesce(a.cost_usd, a.reserved_usd)), 0)
              FROM attempts a
             WHERE a.task_id = tasks.id
               AND a.queued_at >= tasks.accepted_at
               AND tasks.attempts > 0) AS spent_usd
      FROM tasks
     WHERE state = 'held'
       AND finished_at IS NULL
"""

IN_ORDER = " ORDER BY priority, accepted_at"

HELD_OF = f"{HELD} AND id = ANY (%(ids)s)"

QUEUE = """
    WITH leads AS (
        SELECT epoch FROM leadership WHERE epoch = %(epoch)s FOR SHARE
    ), planned AS (
        SELECT planned.*
          FROM leads,
               json_to_recordset(%(placements)s)
               AS planned (task_id uuid, model text, tier text, queue text, passed_over jsonb,
                           reserved_usd numeric, reserved_tokens int)
    ), moved AS (
        UPDATE tasks
           SET state = 'queued', attempts = attempts + 1
          FROM planned
         WHERE tasks.id = planned.task_id
           AND tasks.id = ANY (ARRAY(SELECT task_id FROM planned))
           AND tasks.state = 'held'
        RETURNING tasks.id, tasks.attempts AS number, tasks.profile, tasks.agent, tasks.envelope,
                  tasks.accepted_at
    ), inserted AS (
        INSERT INTO attempts (task_id, number, profile, agent, model, tier, queue, epoch, passed_over,
                              reserved_usd, reserved_tokens, queued_at)
        SELECT moved.id, moved.number, profile, agent, model, tier, queue, %(epoch)s, passed_over,
               reserved_usd, reserved_tokens,
               greatest(now(), accepted_at) -- also after the clock was set back
          FROM moved
          JOIN planned ON planned.task_id = moved.id
    )
    SELECT moved.id AS task_id, moved.number, moved.profile, planned.model, planned.queue, moved.envelope
      FROM leads
      LEFT JOIN (moved JOIN planned ON planned.task_id = moved.id) ON true
"""

UNCLAIMED = """
    SELECT a.task_id, a.number, t.profile, a.model, a.queue, t.envelope
      FROM attempts a
      JOIN tasks t ON t.id = a.task_id
     WHERE a.outcome IS NULL
       AND a.claimed_at IS NULL
       AND a.queued_at <= clock_timestamp() - make_interval(secs => %(older_than_s)s)
     ORDER BY a.queued_at
"""

FAIL = """
    UPDATE tasks
       SET state = 'failed', finished_at = now(), error = failed.error
      FROM unnest(%(id)s::uuid[], %(error)s::jsonb[]) AS failed (id, error)
     WHERE tasks.id = failed.id
       AND tasks.id = ANY (%(id)s::uuid[])
       AND tasks.state = 'held'
    RETURNING tasks.id, tasks.envelope
"""

CANCEL_ATTEMPTS = f"""
    WITH closed AS (
        UPDATE attempts
           SET outcome = 'cancelled',
               finished_at = clock_timestamp(),
               cost_usd = CASE WHEN claimed_at IS NULL THEN 0
                               WHEN tier <> 'paid' OR reserved_usd > 0 THEN reserved_usd END
         WHERE task_id = ANY (%(ids)s)
           AND outcome IS NULL
        RETURNING {COUNTED}
    )
    {changes("closed")}
"""

CANCEL = """
    UPDATE tasks
       SET state = 'cancelled', is_cancelled = true, finished_at = clock_timestamp()
     WHERE id = ANY (%(ids)s)
       AND state IN ('held', 'queued', 'running')
    RETURNING id, envelope
"""

FATE = """
    SELECT tasks.id, tasks.state, tasks.profile, tasks.error, tasks.attempts, tasks.accepted_at,
           tasks.finished_at, a.model, a.tier, a.answer, a.claimed_at,
           a.prompt_tokens, a.cached_tokens, a.completion_tokens,
           (SELECT CASE WHEN count(*) = count(cost_usd) THEN sum(cost_usd) END
              FROM attempts
             WHERE task_id = tasks.id
               AND queued_at >= tasks.accepted_at) AS cost_usd,
           tasks.text_removed_at IS NOT NULL AS is_text_removed,
           coalesce(a.tokens_are_estimated, false) AS tokens_are_estimated
      FROM tasks
      LEFT JOIN attempts a
        ON a.task_id = tasks.id AND a.number = tasks.attempts AND a.queued_at >= tasks.accepted_at
     WHERE tasks.id = ANY (%(ids)s)
"""


@dataclass(frozen=True)
class NewTask:
    """A task as its message told it."""

    id: UUID
    profile: str | None
    focus: str | None
    model: str | None
    agent: str
    priority: int
    not_before: datetime | None
    deadline: datetime | None
    needs: dict[str, Any]
    request: dict[str, Any] | None
    envelope: dict[str, Any]
    """`headers` and `embed` of the Celery message."""
    metadata: dict[str, Any] | None = None
    """What the caller wants to find again."""
    error: dict[str, Any] | None = None
    """Set: the arguments cannot be used, and the task has failed as it arrived."""


@dataclass(frozen=True)
class HeldTask:
    """What a plan needs to know of a task that waits."""

    id: UUID
    profile: str | None
    focus: str | None
    model: str | None
    agent: str
    priority: int
    not_before: datetime | None
    deadline: datetime | None
    needs: dict[str, Any]
    accepted_at: datetime
    tried: list[tuple[str, str, dict[str, Any] | None, bool]]
    """[model, what went wrong, what it taught, whether its worker was lost] for each attempt, in order."""
    spent_usd: Decimal = Decimal(0)
    """What they cost; what is not known counts as reserved."""


@dataclass(frozen=True)
class Placement:
    """A decision: this task goes to this model."""

    task_id: UUID
    model: str
    tier: str
    queue: str
    passed_over: Sequence[Sequence[str]]
    reserved_usd: Decimal
    reserved_tokens: int


@dataclass(frozen=True)
class QueuedAttempt:
    """What a message to a lane is made from."""

    task_id: UUID
    number: int
    profile: str | None
    model: str
    queue: str
    envelope: dict[str, Any]


@dataclass(frozen=True)
class EndedTask:
    """A task that ended without a model call; its caller is told through `envelope`."""

    id: UUID
    envelope: dict[str, Any]


@dataclass(frozen=True)
class Fate:
    """What has become of a task, with its last attempt where there was one."""

    id: UUID
    state: str
    profile: str | None
    error: dict[str, Any] | None
    attempts: int
    accepted_at: datetime
    finished_at: datetime | None
    model: str | None
    tier: str | None
    answer: dict[str, Any] | None
    claimed_at: datetime | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None
    """Of all attempts; None: the price of one of them is unknown."""
    is_text_removed: bool = False
    """Whether retention has removed its texts: the answer, and the words of the error."""
    tokens_are_estimated: bool = False
    """Whether nobody counted the tokens of the last attempt."""


def accept(
    db: Connection, new: Sequence[NewTask], *, epoch: int, placements: Sequence[Placement] = ()
) -> dict[UUID, datetime]:
    """Insert tasks; those that are there already stay as they are.

    Args:
        new: one that brings an error has failed as it arrived.
        placements: of those that have a model already; their attempts are inserted too.

    Returns:
        When each task was accepted, by id, without those that were there already.

    Raises:
        NotLeadingError: nothing was inserted, another dispatcher leads.
    """
    written = {"epoch": epoch, "new": records(new), "placements": records(placements)}
    rows = db.execute(ACCEPT, written).fetchall()
    leadership.made_sure(rows, epoch)
    return {task_id: accepted_at for task_id, accepted_at in rows if task_id is not None}


def held(db: Connection, only: Iterable[UUID]) -> list[HeldTask]:
    """Read those of the tasks that wait, in order of priority and arrival."""
    with db.cursor(row_factory=class_row(HeldTask)) as cursor:
        return cursor.execute(HELD_OF + IN_ORDER, {"ids": list(only)}).fetchall()


def all_held(db: Connection) -> Iterator[HeldTask]:
    """Read all tasks that wait, in order of priority and arrival, a few at a time: they may be many."""
    with db.cursor(row_factory=class_row(HeldTask)) as cursor:
        yield from cursor.stream(HELD + IN_ORDER, size=ROWS_AT_ONCE)


def queue(db: Connection, placements: Sequence[Placement], *, epoch: int) -> list[QueuedAttempt]:
    """Move held tasks to `queued` and insert their attempts.

    Returns:
        The attempts whose messages can go out now, in no order; a task that is no longer held
        (cancelled meanwhile) has none.

    Raises:
        NotLeadingError: nothing was written, another dispatcher leads.
    """
    with db.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(QUEUE, {"epoch": epoch, "placements": records(placements)}).fetchall()
    leadership.made_sure(rows, epoch)
    return [QueuedAttempt(**row) for row in rows if row["task_id"] is not None]


def unclaimed(db: Connection, *, older_than_s: float = 0) -> list[QueuedAttempt]:
    """Read the attempts that have waited so long for a worker, oldest first, to publish them again."""
    with db.cursor(row_factory=class_row(QueuedAttempt)) as cursor:
        return cursor.execute(UNCLAIMED, {"older_than_s": older_than_s}).fetchall()


def fail(db: Connection, errors: dict[UUID, dict[str, Any]], *, epoch: int) -> list[EndedTask]:
    """End held tasks that no model will run.

    Returns:
        Those that it ended; a task that was no longer held is not among them.

    Raises:
        NotLeadingError: nothing was written, another dispatcher leads.
    """
    columns = {"id": list(errors), "error": [jsonb(error) for error in errors.values()]}
    with db.transaction():
        leadership.check(db, epoch)
        with db.cursor(row_factory=class_row(EndedTask)) as cursor:
            return cursor.execute(FAIL, columns).fetchall()


def cancel(db: Connection, ids: Sequence[UUID], *, epoch: int) -> list[EndedTask]:
    """Cancel the tasks that have not ended, with the attempts that they have.

    What runs counts at its reserved cost, until its worker, which looks for this, tells what it was.

    Returns:
        Those that it cancelled, in no order.

    Raises:
        NotLeadingError: nothing was written, another dispatcher leads.
    """
    with db.transaction():
        leadership.check(db, epoch)
        db.execute(CANCEL_ATTEMPTS, {"ids": list(ids)})
        with db.cursor(row_factory=class_row(EndedTask)) as cursor:
            return cursor.execute(CANCEL, {"ids": list(ids)}).fetchall()


def fates(db: Connection, ids: Iterable[UUID]) -> list[Fate]:
    """Tell what has become of tasks, in no order; an id that was never accepted has no row."""
    with db.cursor(row_factory=class_row(Fate)) as cursor:
        return cursor.execute(FATE, {"ids": list(ids)}).fetchall()
