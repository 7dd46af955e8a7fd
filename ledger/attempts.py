"""Attempts on their way through a worker: claimed, renewed, finished."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from ledger.connect import Connection, records
from ledger.rollup import COUNTED, changes, corrections

CHANNEL = "fleet"
"""Where the brain listens for hints that something happened."""

HINT_IDS = 150
"""Ids in one notification: 8,000 bytes are the most that it carries."""

LATELY = timedelta(days=2)
"""Attempts are looked for first among those that were queued so lately, then among all.

A statement opens every partition that it may have to look into, and its steps through them are counted in
milliseconds once there are years of them. Almost always the attempt is of this month.
"""

EVER = datetime.min.replace(tzinfo=UTC)

CLAIM = """
    WITH claimed AS (
        UPDATE attempts
           SET worker = %(worker)s,
               claimed_at = clock_timestamp(),
               lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
          FROM unnest(%(task_id)s::uuid[], %(number)s::smallint[]) AS asked (task_id, number)
         WHERE attempts.task_id = asked.task_id
           AND attempts.number = asked.number
           AND attempts.task_id = ANY (%(task_id)s::uuid[])
           AND attempts.queued_at >= %(since)s
           AND outcome IS NULL
           AND (claimed_at IS NULL OR (%(again)s AND worker = %(worker)s))
        RETURNING attempts.task_id, attempts.number, attempts.model, attempts.tier, attempts.queued_at,
                  claimed_at
    )
    UPDATE tasks
       SET state = 'running'
      FROM claimed
     WHERE tasks.id = claimed.task_id
    RETURNING claimed.task_id, claimed.number, claimed.model, claimed.tier, tasks.profile, tasks.request,
              tasks.accepted_at, claimed.claimed_at, tasks.deadline
"""

SPENT = """
    SELECT attempts.task_id,
           CASE WHEN count(*) = count(cost_usd) THEN coalesce(sum(cost_usd), 0) END
      FROM unnest(%(task_id)s::uuid[], %(number)s::smallint[]) AS asked (task_id, number)
      JOIN attempts ON attempts.task_id = asked.task_id AND attempts.number < asked.number
     WHERE attempts.task_id = ANY (%(task_id)s::uuid[])
       AND attempts.queued_at >= %(since)s
     GROUP BY attempts.task_id
"""

RENEW = """
    WITH mine AS (
        SELECT attempts.task_id, attempts.number, attempts.queued_at
          FROM unnest(%(task_id)s::uuid[], %(number)s::smallint[]) AS asked (task_id, number)
          JOIN attempts ON attempts.task_id = asked.task_id AND attempts.number = asked.number
         WHERE attempts.task_id = ANY (%(task_id)s::uuid[])
           AND attempts.queued_at >= %(since)s
           AND outcome IS NULL
           AND claimed_at IS NOT NULL
           FOR UPDATE OF attempts SKIP LOCKED -- what is just being ended needs no lease
    )
    UPDATE attempts
       SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
      FROM mine
     WHERE attempts.task_id = mine.task_id
       AND attempts.number = mine.number
       AND attempts.queued_at = mine.queued_at
       AND attempts.task_id = ANY (%(task_id)s::uuid[])
    RETURNING attempts.task_id, attempts.number
"""

FINISH = f"""
    WITH ended AS (
        SELECT *
          FROM json_to_recordset(%(ends)s)
               AS ended (task_id uuid, number smallint, outcome text, next_state text,
                         prompt_tokens int, cached_tokens int, completion_tokens int,
                         tokens_are_estimated boolean, cost_usd numeric, first_token_s real, error jsonb,
                         answer jsonb)
    ), closed AS (
        UPDATE attempts
           SET finished_at = clock_timestamp(),
               outcome = ended.outcome,
               prompt_tokens = ended.prompt_tokens,
               cached_tokens = ended.cached_tokens,
               completion_tokens = ended.completion_tokens,
               tokens_are_estimated = ended.tokens_are_estimated,
               cost_usd = ended.cost_usd,
               first_token_s = ended.first_token_s,
               error = ended.error,
               answer = ended.answer
          FROM ended
         WHERE attempts.task_id = ended.task_id
           AND attempts.number = ended.number
           AND attempts.task_id = ANY (ARRAY(SELECT task_id FROM ended))
           AND attempts.queued_at >= %(since)s
           AND attempts.outcome IS NULL
        RETURNING ended.task_id, ended.number, ended.next_state, ended.error,
                  {COUNTED}
    ), counted AS (
        {changes("closed")}
    )
    UPDATE tasks
       SET state = closed.next_state,
           finished_at = CASE WHEN closed.next_state <> 'held' THEN closed.finished_at END,
           error = CASE WHEN closed.next_state = 'failed' THEN closed.error END
      FROM closed
     WHERE tasks.id = closed.task_id
    RETURNING closed.task_id, closed.number, closed.finished_at,
              (SELECT count(pg_notify(%(channel)s, ids)) FROM unnest(%(hints)s::text[]) AS hints (ids))
"""

FINISH_LATE = f"""
    WITH late AS (
        SELECT *
          FROM json_to_recordset(%(ends)s)
               AS late (task_id uuid, number smallint, outcome text, prompt_tokens int, cached_tokens int,
                        completion_tokens int, tokens_are_estimated boolean, cost_usd numeric,
                        first_token_s real)
    ), before AS (
        SELECT attempts.task_id, attempts.number,
                  {COUNTED}
          FROM late
          JOIN attempts ON attempts.task_id = late.task_id AND attempts.number = late.number
         WHERE attempts.task_id = ANY (ARRAY(SELECT task_id FROM late))
           AND attempts.queued_at >= %(since)s
           AND attempts.outcome IN ('lost', 'cancelled')
           AND attempts.claimed_at IS NOT NULL
           FOR UPDATE OF attempts
    ), noted AS (
        UPDATE attempts
           SET prompt_tokens = late.prompt_tokens,
               cached_tokens = late.cached_tokens,
               completion_tokens = late.completion_tokens,
               tokens_are_estimated = late.tokens_are_estimated,
               cost_usd = late.cost_usd,
               first_token_s = late.first_token_s
          FROM late
          JOIN before ON before.task_id = late.task_id AND before.number = late.number
         WHERE attempts.task_id = late.task_id
           AND attempts.number = late.number
           AND attempts.task_id = ANY (ARRAY(SELECT task_id FROM late))
           AND attempts.queued_at >= %(since)s
        RETURNING {COUNTED}
    ), counted AS (
        {corrections("before", "noted")}
    )
    SELECT late.task_id, late.number, CASE WHEN attempts.outcome = late.outcome THEN attempts.finished_at END
      FROM late
      JOIN attempts ON attempts.task_id = late.task_id AND attempts.number = late.number
     WHERE attempts.task_id = ANY (ARRAY(SELECT task_id FROM late))
       AND attempts.queued_at >= %(since)s
"""

CLAIMED = """
    SELECT task_id, number, claimed_at
      FROM attempts
     WHERE outcome IS NULL
       AND claimed_at IS NOT NULL
"""

FINISHED = """
    SELECT task_id, attempts.number, outcome, claimed_at, finished_at,
           prompt_tokens + completion_tokens AS tokens, cost_usd, prompt_tokens, completion_tokens,
           first_token_s, error -> 'lesson' AS lesson
      FROM unnest(%(task_id)s::uuid[], %(number)s::smallint[]) AS asked (id, number)
      JOIN attempts ON attempts.task_id = asked.id AND attempts.number = asked.number
     WHERE attempts.task_id = ANY (%(task_id)s::uuid[])
       AND attempts.queued_at >= %(since)s
"""

CALLED_OFF = """
    SELECT task_id, attempts.number, outcome IN ('lost', 'cancelled')
      FROM unnest(%(task_id)s::uuid[], %(number)s::smallint[]) AS asked (id, number)
      JOIN attempts ON attempts.task_id = asked.id AND attempts.number = asked.number
     WHERE attempts.task_id = ANY (%(task_id)s::uuid[])
       AND attempts.queued_at >= %(since)s
"""


@dataclass(frozen=True)
class Claim:
    """An attempt that this worker runs, with what the model is asked."""

    task_id: UUID
    number: int
    model: str
    tier: str
    profile: str | None
    request: dict[str, Any]
    accepted_at: datetime
    claimed_at: datetime
    deadline: datetime | None = None
    spent_usd: Decimal | None = Decimal(0)
    """By earlier attempts of the task; None: the price of one of them is unknown."""


@dataclass(frozen=True)
class Finish:
    """How an attempt ended, and what becomes of its task."""

    task_id: UUID
    number: int
    outcome: str
    next_state: str
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: Decimal | None = None
    first_token_s: float | None = None
    tokens_are_estimated: bool = False
    """Nobody counted them."""
    error: dict[str, Any] | None = None
    answer: dict[str, Any] | None = None


@dataclass(frozen=True)
class FinishedAttempt:
    """An attempt that has ended, as the brain learns of it."""

    task_id: UUID
    number: int
    outcome: str
    claimed_at: datetime | None
    finished_at: datetime
    tokens: int | None
    """Prompt and answer; None: nobody knows."""
    cost_usd: Decimal | None
    prompt_tokens: int | None
    completion_tokens: int | None
    first_token_s: float | None
    lesson: dict[str, Any] | None
    """What it taught; see `routing.lessons`."""


Key = tuple[UUID, int]
"""(task id, number of the attempt)"""


def claim(
    db: Connection, keys: Sequence[Key], *, worker: str, lease_s: float, again: bool = False
) -> dict[Key, Claim]:
    """Make attempts this worker's own, if nobody has them yet.

    Args:
        db: the worker's.
        keys: of the attempts.
        worker: its name.
        lease_s: how long they are its own without another sign of life.
        again: the answer to the same claim was lost with the connection; it may have been written.

    Returns:
        What to run, by key. An attempt that was claimed before, cancelled or never planned is not
        there: its message is a duplicate and can be dropped.
    """
    claims: dict[Key, Claim] = {}
    for since, asked in lately_then_ever(keys, claims):
        lease = {"worker": worker, "lease_s": lease_s, "again": again}
        with db.cursor(row_factory=class_row(Claim)) as cursor:
            rows = cursor.execute(CLAIM, {**columns_of(asked), **lease, "since": since})
            claims |= {(row.task_id, row.number): row for row in rows}
    return with_spent(db, claims)


def with_spent(db: Connection, claims: dict[Key, Claim]) -> dict[Key, Claim]:
    """Fill in what the earlier attempts cost."""
    again = {key: claim for key, claim in claims.items() if claim.number > 1}
    if not again:
        return claims
    since = min(claim.accepted_at for claim in again.values())
    spent: dict[UUID, Decimal | None] = dict(
        db.execute(SPENT, {**columns_of(list(again)), "since": since}).fetchall()
    )
    return claims | {key: replace(claim, spent_usd=spent[claim.task_id]) for key, claim in again.items()}


def renew(db: Connection, keys: Sequence[Key], *, lease_s: float) -> None:
    """Extend the leases of what this worker still runs."""
    renewed: set[Key] = set()
    for since, asked in lately_then_ever(keys, renewed):
        found = db.execute(RENEW, {**columns_of(asked), "lease_s": lease_s, "since": since})
        renewed |= {(task_id, number) for task_id, number in found}


def finish(db: Connection, ends: Sequence[Finish]) -> dict[Key, datetime]:
    """Record how attempts ended and what becomes of their tasks; of each, both or nothing.

    An attempt that was counted as lost, or cancelled, while its worker went on gets the tokens and the cost
    that it really had; neither its outcome nor its task changes.

    Returns:
        When each ended, by key. An attempt that had ended otherwise before is not there.
    """
    by_key = {(end.task_id, end.number): end for end in ends}
    finished: dict[Key, datetime] = {}
    for since, keys in lately_then_ever(list(by_key), finished):
        written = {
            "ends": records(by_key[key] for key in keys),
            "since": since,
            "channel": CHANNEL,
            "hints": hints(keys),
        }
        rows = db.execute(FINISH, written).fetchall()
        finished |= {(task_id, number): finished_at for task_id, number, finished_at, _ in rows}
    late = [end for key, end in by_key.items() if key not in finished]
    return finished | finish_late(db, late) if late else finished


def finish_late(db: Connection, ends: Sequence[Finish]) -> dict[Key, datetime]:
    """Write down what attempts cost that had ended without their worker.

    Returns:
        When those had ended that had ended so: this is then the second time that it is written.
    """
    by_key = {(end.task_id, end.number): end for end in ends}
    found: dict[Key, datetime | None] = {}
    for since, keys in lately_then_ever(list(by_key), found):
        written = {"ends": records(by_key[key] for key in keys), "since": since}
        rows = db.execute(FINISH_LATE, written).fetchall()
        found |= {(task_id, number): finished_at for task_id, number, finished_at in rows}
    return {key: finished_at for key, finished_at in found.items() if finished_at is not None}


def lately_then_ever(keys: Sequence[Key], found: Container[Key]) -> Iterator[tuple[datetime, Sequence[Key]]]:
    """Say twice what to look for and how far back: the second time what was not found the first time.

    Args:
        keys: of the attempts.
        found: those that were found; grows between the two times.
    """
    if keys:
        yield datetime.now(UTC) - LATELY, keys
    missing = [key for key in keys if key not in found]
    if missing:
        yield EVER, missing


def hints(keys: Sequence[Key]) -> list[str]:
    """Write notifications that tell the brain which attempts are worth a look."""
    words = [f"{task_id}:{number}" for task_id, number in keys]
    return [" ".join(words[start : start + HINT_IDS]) for start in range(0, len(words), HINT_IDS)]


def hinted(payload: str) -> list[Key]:
    """Read what `hints` wrote."""
    pairs = (word.split(":") for word in payload.split())
    return [(UUID(task_id), int(number)) for task_id, number in pairs]


def claimed(db: Connection) -> dict[Key, datetime]:
    """Tell since when each attempt runs that a worker has."""
    rows = db.execute(CLAIMED).fetchall()
    return {(task_id, number): claimed_at for task_id, number, claimed_at in rows}


def finished(db: Connection, keys: Iterable[Key]) -> list[FinishedAttempt]:
    """Read those of the attempts that have ended, in no order."""
    seen: dict[Key, FinishedAttempt | None] = {}
    for since, asked in lately_then_ever(list(keys), seen):
        for row in db.execute(FINISHED, {**columns_of(asked), "since": since}):
            seen[row[0], row[1]] = FinishedAttempt(*row) if row[2] else None
    return [ended for ended in seen.values() if ended is not None]


def called_off(db: Connection, keys: Iterable[Key]) -> list[Key]:
    """Read those of the attempts that have ended without their worker: cancelled, or lost with it."""
    seen: dict[Key, bool | None] = {}
    for since, asked in lately_then_ever(list(keys), seen):
        for task_id, number, is_so in db.execute(CALLED_OFF, {**columns_of(asked), "since": since}):
            seen[task_id, number] = is_so
    return [key for key, is_so in seen.items() if is_so]


def columns_of(keys: Sequence[Key]) -> dict[str, str]:
    """Write the keys as two arrays, in Postgres's form: for lists psycopg takes several times as long."""
    task_ids = ",".join(str(task_id) for task_id, _ in keys)
    numbers = ",".join(str(number) for _, number in keys)
    return {"task_id": f"{{{task_ids}}}", "number": f"{{{numbers}}}"}
