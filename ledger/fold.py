"""What a new brain reads of the past, to know as much as the one before it."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from ledger.connect import Connection

OPEN = """
    SELECT task_id, number, attempts.model, attempts.profile, attempts.agent, reserved_usd, reserved_tokens,
           queued_at, claimed_at, needs,
           number > 1 AND EXISTS (SELECT
                                    FROM attempts before
                                   WHERE before.task_id = attempts.task_id
                                     AND before.queued_at >= tasks.accepted_at
                                     AND before.outcome = 'lost') AS is_suspect
      FROM attempts
      JOIN tasks ON tasks.id = task_id
     WHERE outcome IS NULL
"""

RECENT_CALLS = """
    SELECT model, claimed_at, prompt_tokens + completion_tokens AS tokens
      FROM attempts
     WHERE finished_at > %(since)s
       AND claimed_at > %(since)s
"""

CALLS_SINCE = """
    SELECT model, count(*) AS calls
      FROM attempts
     WHERE finished_at >= %(since)s
       AND claimed_at >= %(since)s
     GROUP BY model
"""

FAILURES = """
    SELECT task_id, number, model, finished_at, error -> 'lesson' AS lesson
      FROM attempts
     WHERE finished_at >= %(since)s
       AND outcome = 'failed'
       AND error ? 'lesson'
     ORDER BY finished_at, task_id
"""

LAST_SUCCESSES = """
    SELECT model, max(finished_at) AS finished_at
      FROM attempts
     WHERE finished_at >= %(since)s
       AND outcome IN ('succeeded', 'rejected')
     GROUP BY model
"""

SPENT = """
    SELECT model, profile, agent,
           sum(coalesce(cost_usd, reserved_usd)) AS usd,
           sum(coalesce(prompt_tokens + completion_tokens, reserved_tokens)) AS tokens,
           count(*) AS requests
      FROM attempts
     WHERE finished_at >= %(since)s
       AND claimed_at IS NOT NULL
     GROUP BY model, profile, agent
"""

PACES = """
    SELECT model,
           avg(extract(epoch FROM claimed_at - queued_at))::float8 AS queue_s,
           avg(extract(epoch FROM finished_at - claimed_at))::float8 AS run_s,
           avg(first_token_s)::float8 AS first_token_s,
           avg(completion_tokens)::float8 AS completion_tokens
      FROM (SELECT model, queued_at, claimed_at, finished_at, first_token_s, completion_tokens
              FROM attempts
             WHERE finished_at >= %(since)s
               AND outcome = 'succeeded'
             ORDER BY finished_at DESC
             LIMIT %(most)s) AS latest
     GROUP BY model
"""

PROMPTS = """
    SELECT latest.model, latest.prompt_tokens AS counted, tasks.needs
      FROM (SELECT task_id, model, prompt_tokens
              FROM attempts
             WHERE finished_at >= %(since)s
               AND outcome = 'succeeded'
             ORDER BY finished_at DESC
             LIMIT %(most)s) AS latest
      JOIN tasks ON tasks.id = latest.task_id
"""


@dataclass(frozen=True)
class OpenAttempt:
    """An attempt that has not ended."""

    task_id: UUID
    number: int
    model: str
    profile: str | None
    agent: str
    reserved_usd: Decimal
    reserved_tokens: int
    queued_at: datetime
    claimed_at: datetime | None
    needs: dict[str, Any]
    is_suspect: bool
    """Whether a worker died with an earlier attempt of its task."""


@dataclass(frozen=True)
class RecentCall:
    """A call that began and ended lately."""

    model: str
    claimed_at: datetime
    tokens: int | None
    """None: nobody knows."""


@dataclass(frozen=True)
class Failure:
    """An attempt that taught something about its model."""

    task_id: UUID
    number: int
    model: str
    finished_at: datetime
    lesson: dict[str, Any]


@dataclass(frozen=True)
class Spent:
    """What the calls of one model, profile and agent used; what is not known counts as reserved."""

    model: str
    profile: str | None
    agent: str
    usd: Decimal
    tokens: int
    requests: int


@dataclass(frozen=True)
class PaceSeen:
    """Averages over the latest successful attempts of a model."""

    model: str
    queue_s: float
    run_s: float
    first_token_s: float | None
    completion_tokens: float


@dataclass(frozen=True)
class PromptSeen:
    """How many tokens a model counted in a prompt, and what was estimated."""

    model: str
    counted: int
    needs: dict[str, Any]


def still_open(db: Connection) -> list[OpenAttempt]:
    """Read every attempt that has not ended, in no order."""
    with db.cursor(row_factory=class_row(OpenAttempt)) as cursor:
        return cursor.execute(OPEN).fetchall()


def recent_calls(db: Connection, since: datetime) -> list[RecentCall]:
    """Read the calls that began and ended since a moment, in no order."""
    with db.cursor(row_factory=class_row(RecentCall)) as cursor:
        return cursor.execute(RECENT_CALLS, {"since": since}).fetchall()


def calls_since(db: Connection, since: datetime) -> dict[str, int]:
    """Count the calls of each model that began and ended since a moment."""
    return dict(db.execute(CALLS_SINCE, {"since": since}).fetchall())


def failures(db: Connection, since: datetime) -> list[Failure]:
    """Read the failures that taught something, in the order in which they happened."""
    with db.cursor(row_factory=class_row(Failure)) as cursor:
        return cursor.execute(FAILURES, {"since": since}).fetchall()


def last_successes(db: Connection, since: datetime) -> dict[str, datetime]:
    """Tell when each model answered last."""
    return dict(db.execute(LAST_SUCCESSES, {"since": since}).fetchall())


def spent(db: Connection, since: datetime) -> list[Spent]:
    """Add up what was used by the attempts that ended since a moment, in no order."""
    with db.cursor(row_factory=class_row(Spent)) as cursor:
        return cursor.execute(SPENT, {"since": since}).fetchall()


def paces(db: Connection, since: datetime, most: int) -> list[PaceSeen]:
    """Average how long the latest `most` successful attempts took, by model."""
    with db.cursor(row_factory=class_row(PaceSeen)) as cursor:
        return cursor.execute(PACES, {"since": since, "most": most}).fetchall()


def prompts(db: Connection, since: datetime, most: int) -> list[PromptSeen]:
    """Read what the latest `most` successful attempts say about estimates, newest first."""
    with db.cursor(row_factory=class_row(PromptSeen)) as cursor:
        return cursor.execute(PROMPTS, {"since": since, "most": most}).fetchall()
