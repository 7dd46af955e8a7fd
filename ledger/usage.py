"""Reads: one question per function."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from psycopg.rows import class_row

from ledger.connect import Connection

OPEN_TASKS = """
    SELECT (SELECT count(*) FROM tasks WHERE state = 'held') AS held,
           count(*) FILTER (WHERE claimed_at IS NULL) AS queued,
           count(*) FILTER (WHERE claimed_at IS NOT NULL) AS running,
           least((SELECT min(accepted_at) FROM tasks WHERE state = 'held'), min(queued_at)) AS oldest_at
      FROM attempts
     WHERE outcome IS NULL
"""

WORKERS = """
    SELECT name, host, pid, slots, started_at, seen_at,
           extract(epoch FROM clock_timestamp() - seen_at)::float AS silent_s,
           (SELECT count(*)
              FROM attempts
             WHERE outcome IS NULL
               AND attempts.worker = workers.name) AS running
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
    """How many attempts it can run at once, by queue."""
    started_at: datetime
    seen_at: datetime
    silent_s: float
    """Since its last sign of life."""
    running: int


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


def server_version(db: Connection) -> str:
    """Tell which Postgres keeps the ledger."""
    row = db.execute(SERVER_VERSION).fetchone()
    return row[0] if row else "unknown"
