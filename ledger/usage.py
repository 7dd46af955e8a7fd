"""Reads: one question per function."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from psycopg.rows import class_row

from ledger.connect import Connection

OPEN_TASKS = """
    SELECT (SELECT count(*) FROM tasks WHERE state = 'held' AND finished_at IS NULL) AS held,
           count(*) FILTER (WHERE claimed_at IS NULL) AS queued,
           count(*) FILTER (WHERE claimed_at IS NOT NULL) AS running,
           least((SELECT min(accepted_at) FROM tasks WHERE state = 'held' AND finished_at IS NULL),
                 min(queued_at)) AS oldest_at
      FROM attempts
     WHERE outcome IS NULL
"""

WORKERS = """
    SELECT name, host, pid, slots - name AS slots, started_at, seen_at, memory_bytes,
           extract(epoch FROM clock_timestamp() - seen_at)::float AS silent_s,
           (SELECT count(*)
              FROM attempts
             WHERE outcome IS NULL
               AND attempts.worker = workers.name) AS running,
           (SELECT max(finished_at)
              FROM firings
             WHERE firings.worker = workers.name
               AND outcome = 'succeeded') AS heartbeat_at
      FROM workers
     WHERE seen_at > clock_timestamp() - make_interval(secs => %(since_s)s)
     ORDER BY name
"""

ATTEMPTS_OF = """
    SELECT tasks.id AS task_id, tasks.state, tasks.profile, tasks.accepted_at,
           tasks.finished_at AS task_finished_at,
           attempts.number, attempts.model, attempts.tier, attempts.queue, attempts.outcome,
           attempts.prompt_tokens, attempts.completion_tokens, attempts.cost_usd, attempts.passed_over,
           attempts.claimed_at, attempts.finished_at
      FROM tasks
      LEFT JOIN attempts ON attempts.task_id = tasks.id
     WHERE tasks.id = ANY (%(ids)s)
     ORDER BY tasks.accepted_at, tasks.id, attempts.number
"""

TASKS_BETWEEN = """
    SELECT id
      FROM tasks
     WHERE id BETWEEN %(first)s AND %(last)s
     ORDER BY id
     LIMIT %(most)s
"""

TASK = """
    SELECT id, state, profile, focus, model, agent, priority, not_before, deadline, needs, metadata,
           accepted_at, finished_at, error
      FROM tasks
     WHERE id = %(id)s
"""

LIFE = """
    SELECT number, model, tier, queue, passed_over, reserved_usd, queued_at, worker, claimed_at, lease_until,
           finished_at, outcome, prompt_tokens, cached_tokens, completion_tokens, cost_usd, first_token_s,
           tokens_are_estimated, error
      FROM attempts
     WHERE task_id = %(id)s
     ORDER BY number
"""

STATE = "SELECT state FROM tasks WHERE id = %(id)s"

MODELS = """
    WITH recent AS (
        SELECT model,
               count(*) AS attempts,
               count(*) FILTER (WHERE outcome = 'succeeded') AS succeeded,
               sum(completion_tokens) FILTER (WHERE outcome = 'succeeded')::float8
                   / nullif(sum(extract(epoch FROM finished_at - claimed_at))
                                FILTER (WHERE outcome = 'succeeded'), 0)::float8 AS tokens_per_s,
               max(finished_at) FILTER (WHERE outcome <> 'succeeded') AS last_error_at
          FROM attempts
         WHERE finished_at >= %(since)s
           AND outcome <> 'cancelled'
         GROUP BY model
    )
    SELECT model, attempts, succeeded, tokens_per_s, last_error_at,
           (SELECT coalesce(error ->> 'text', outcome)
              FROM attempts
             WHERE attempts.finished_at = recent.last_error_at
               AND attempts.model = recent.model
               AND outcome NOT IN ('succeeded', 'cancelled')
             LIMIT 1) AS last_error
      FROM recent
     ORDER BY model
"""

PERCENTILES = """
    SELECT count(*) AS answers,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY waited_s) AS waited_p50_s,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY waited_s) AS waited_p95_s,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY ran_s) AS ran_p50_s,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY ran_s) AS ran_p95_s
      FROM (SELECT extract(epoch FROM claimed_at - tasks.accepted_at)::float8 AS waited_s,
                   extract(epoch FROM latest.finished_at - claimed_at)::float8 AS ran_s
              FROM (SELECT task_id, claimed_at, finished_at
                      FROM attempts
                     WHERE finished_at >= %(since)s
                       AND outcome = 'succeeded'
                     ORDER BY finished_at DESC
                     LIMIT %(most)s) AS latest
              JOIN tasks ON tasks.id = latest.task_id) AS answered
"""

UNANSWERED = """
    SELECT date_trunc(%(grain)s, finished_at, 'UTC') AS at,
           CASE WHEN is_cancelled THEN 'cancelled' ELSE 'failed' END AS state,
           count(*) AS tasks
      FROM tasks
     WHERE (error IS NOT NULL OR is_cancelled)
       AND finished_at >= %(since)s
     GROUP BY 1, 2
"""

SERVER_VERSION = "SELECT current_setting('server_version')"


@dataclass(frozen=True)
class OpenTasks:
    """How many tasks have not ended."""

    held: int
    queued: int
    running: int
    oldest_at: datetime | None
    """When the oldest of the first two came in; None: none waits."""


@dataclass(frozen=True)
class WorkerLoad:
    """A worker, and how much it runs."""

    name: str
    host: str
    pid: int
    slots: dict[str, int]
    """How many attempts it can run at once, by queue; without the queue of its own."""
    started_at: datetime
    seen_at: datetime
    silent_s: float
    """Since its last sign of life."""
    running: int
    memory_bytes: int | None = None
    """Of its process, with the models that it has loaded; None: it has not said so."""
    heartbeat_at: datetime | None = None
    """When the last recurring task that was for it alone came back through its queue; None: none did yet."""


@dataclass(frozen=True)
class TaskAttempt:
    """An attempt with its task; the fields from `number` on are None for a task that has none."""

    task_id: UUID
    state: str
    profile: str | None
    accepted_at: datetime
    task_finished_at: datetime | None
    number: int | None
    model: str | None
    tier: str | None
    queue: str | None
    outcome: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None
    passed_over: list[list[str]] | None
    claimed_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True)
class TaskInFull:
    """All that the ledger has of a task, but for its text and what Celery attached to it."""

    id: UUID
    state: str
    profile: str | None
    focus: str | None
    model: str | None
    """What the caller named."""
    agent: str
    priority: int
    not_before: datetime | None
    deadline: datetime | None
    needs: dict[str, Any]
    metadata: dict[str, Any] | None
    accepted_at: datetime
    finished_at: datetime | None
    error: dict[str, Any] | None


@dataclass(frozen=True)
class AttemptInFull:
    """All that the ledger has of an attempt, but for the answer."""

    number: int
    model: str
    tier: str
    queue: str
    passed_over: list[list[str]]
    """[model, objection] for each candidate before this one."""
    reserved_usd: Decimal
    queued_at: datetime
    worker: str | None
    claimed_at: datetime | None
    lease_until: datetime | None
    finished_at: datetime | None
    outcome: str | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None
    first_token_s: float | None
    tokens_are_estimated: bool
    error: dict[str, Any] | None


@dataclass(frozen=True)
class ModelRecord:
    """How a model did lately; attempts that were cancelled are left out."""

    model: str
    attempts: int
    succeeded: int
    tokens_per_s: float | None
    """What one successful attempt wrote in a second, from claim to finish; None: nothing succeeded."""
    last_error_at: datetime | None
    last_error: str | None
    """Its text, or how the attempt ended if it left none."""


@dataclass(frozen=True)
class Percentiles:
    """How long the latest answers took; None: there is none."""

    answers: int
    waited_p50_s: float | None
    """From the acceptance of the task to the claim of the attempt that answered."""
    waited_p95_s: float | None
    ran_p50_s: float | None
    ran_p95_s: float | None


@dataclass(frozen=True)
class Unanswered:
    """How many tasks ended in one way in an hour, or on a day."""

    at: datetime
    """Its beginning."""
    state: str
    """`failed` or `cancelled`."""
    tasks: int


def open_tasks(db: Connection) -> OpenTasks:
    """Count the tasks that have not ended, by state; quick, however many have.

    `queued` and `running` are counted by their open attempts, for which there is an index.
    """
    with db.cursor(row_factory=class_row(OpenTasks)) as cursor:
        return cursor.execute(OPEN_TASKS).fetchone() or OpenTasks(0, 0, 0, None)


def workers(db: Connection, since_s: float) -> list[WorkerLoad]:
    """Read the workers that were seen in the last `since_s` seconds, by name, with what each one runs."""
    with db.cursor(row_factory=class_row(WorkerLoad)) as cursor:
        return cursor.execute(WORKERS, {"since_s": since_s}).fetchall()


def attempts_of(db: Connection, ids: list[UUID]) -> list[TaskAttempt]:
    """Read tasks with their attempts, in order of acceptance and number.

    Returns:
        One row per attempt, and one for a task that has none; none for a task that is not accepted.
    """
    with db.cursor(row_factory=class_row(TaskAttempt)) as cursor:
        return cursor.execute(ATTEMPTS_OF, {"ids": ids}).fetchall()


def tasks_between(db: Connection, first: UUID, last: UUID, most: int) -> list[UUID]:
    """Read the ids of at most `most` tasks from `first` to `last`, both included, in order of id."""
    return [row[0] for row in db.execute(TASKS_BETWEEN, {"first": first, "last": last, "most": most})]


def task(db: Connection, task_id: UUID) -> TaskInFull | None:
    """Read a task; None: it is not accepted."""
    with db.cursor(row_factory=class_row(TaskInFull)) as cursor:
        return cursor.execute(TASK, {"id": task_id}).fetchone()


def life(db: Connection, task_id: UUID) -> list[AttemptInFull]:
    """Read all attempts of a task, in order of number."""
    with db.cursor(row_factory=class_row(AttemptInFull)) as cursor:
        return cursor.execute(LIFE, {"id": task_id}).fetchall()


def state(db: Connection, task_id: UUID) -> str | None:
    """Tell the state of a task; None: it is not accepted."""
    row = db.execute(STATE, {"id": task_id}).fetchone()
    return row[0] if row else None


def models(db: Connection, since: datetime) -> list[ModelRecord]:
    """Add up how the models did, by name.

    Returns:
        One row per model of which an attempt ended after `since`.
    """
    with db.cursor(row_factory=class_row(ModelRecord)) as cursor:
        return cursor.execute(MODELS, {"since": since}).fetchall()


def percentiles(db: Connection, since: datetime, most: int) -> Percentiles:
    """Tell how long the latest `most` answers since a moment took."""
    with db.cursor(row_factory=class_row(Percentiles)) as cursor:
        found = cursor.execute(PERCENTILES, {"since": since, "most": most}).fetchone()
    return found or Percentiles(0, None, None, None, None)


def unanswered(db: Connection, since: datetime, grain: Literal["hour", "day"]) -> list[Unanswered]:
    """Count the tasks that ended without an answer since a moment, by hour or day (UTC) and state."""
    with db.cursor(row_factory=class_row(Unanswered)) as cursor:
        return cursor.execute(UNANSWERED, {"since": since, "grain": grain}).fetchall()


def server_version(db: Connection) -> str:
    """Tell which Postgres keeps the ledger."""
    row = db.execute(SERVER_VERSION).fetchone()
    return row[0] if row else "unknown"
