"""What the attempts used, added up by hour (UTC), profile, agent, model, tier and outcome.

Whatever ends or corrects an attempt appends, in the same statement, what that changes to `spend_changes`:
mostly one row for a batch, and no row that two writers want. From there the housekeeper adds it to
`spend_by_hour` and `spend_by_day`. So an hour and the changes that wait for it are together what the attempts
say, at every moment; the view `spend` has both. Sums outlive the attempts: a month that is dropped keeps its
sums.
"""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import LiteralString

from psycopg.rows import class_row

from ledger import partitions
from ledger.connect import Connection

REST_OF_KEY = "month, profile, agent, model, tier, outcome"
KEY = f"at, {REST_OF_KEY}"
DAY_KEY = f"date_trunc('day', at, 'UTC') AS at, {REST_OF_KEY}"

SUMS: tuple[LiteralString, ...] = (
    "attempts",
    "calls",
    "unpriced",
    "cost_usd",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "budget_usd",
    "budget_tokens",
    "wait_ms",
    "run_ms",
)
ALL_SUMS = ", ".join(SUMS)
ADDED_UP = ", ".join(f"sum({name}) AS {name}" for name in SUMS)
NEGATED = ", ".join(f"-{name}" for name in SUMS)
MERGED = ", ".join(f"{name} = kept.{name} + excluded.{name}" for name in SUMS)
DIFFERENT = " OR ".join(f"sum({name}) <> 0" for name in SUMS)

COUNTED = """attempts.queued_at, attempts.claimed_at, attempts.finished_at, attempts.profile, attempts.agent,
                  attempts.model, attempts.tier, attempts.outcome, attempts.prompt_tokens,
                  attempts.cached_tokens, attempts.completion_tokens, attempts.cost_usd,
                  attempts.reserved_usd, attempts.reserved_tokens"""
"""What a statement has to return of the attempts that it ends, for `changes`."""


def summed(rows: LiteralString) -> LiteralString:
    """Write the SELECT that adds up attempts that have ended: rows with the columns of `COUNTED`."""
    return f"""
        SELECT date_trunc('hour', finished_at, 'UTC') AS at,
               date_trunc('month', queued_at AT TIME ZONE 'UTC')::date AS month,
               profile, agent, model, tier, outcome,
               count(*) AS attempts,
               count(claimed_at) AS calls,
               count(*) - count(cost_usd) AS unpriced,
               coalesce(sum(cost_usd), 0) AS cost_usd,
               coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
               coalesce(sum(cached_tokens), 0) AS cached_tokens,
               coalesce(sum(completion_tokens), 0) AS completion_tokens,
               coalesce(sum(coalesce(cost_usd, reserved_usd)) FILTER (WHERE claimed_at IS NOT NULL), 0)
                   AS budget_usd,
               coalesce(sum(coalesce(prompt_tokens + completion_tokens, reserved_tokens))
                            FILTER (WHERE claimed_at IS NOT NULL), 0) AS budget_tokens,
               coalesce(sum(round(extract(epoch FROM claimed_at - queued_at) * 1000)), 0) AS wait_ms,
               coalesce(sum(round(extract(epoch FROM finished_at - claimed_at) * 1000)), 0) AS run_ms
          FROM {rows}
         GROUP BY 1, 2, 3, 4, 5, 6, 7
    """


def changes(rows: LiteralString) -> LiteralString:
    """Write the INSERT that notes what attempts used that a statement has ended."""
    return f"INSERT INTO spend_changes ({KEY}, {ALL_SUMS}) {summed(rows)}"


def corrections(before: LiteralString, after: LiteralString) -> LiteralString:
    """Write the INSERT that notes what a statement has changed about attempts that had ended."""
    return f"""{changes(after)}
         UNION ALL
        SELECT {KEY}, {NEGATED} FROM ({summed(before)}) AS taken_back"""


ONE_AT_A_TIME = "LOCK TABLE spend_by_hour, spend_by_day IN SHARE ROW EXCLUSIVE MODE"

INDEXED = "at, month, coalesce(profile, ''), agent, model, tier, outcome"

FOLD = f"""
    WITH changes AS (
        DELETE FROM spend_changes RETURNING *
    ), hours AS (
        INSERT INTO spend_by_hour AS kept ({KEY}, {ALL_SUMS})
        SELECT {KEY}, {ADDED_UP}
          FROM changes
         GROUP BY {KEY}
            ON CONFLICT ({INDEXED}) DO UPDATE SET {MERGED}
    ), days AS (
        INSERT INTO spend_by_day AS kept ({KEY}, {ALL_SUMS})
        SELECT {DAY_KEY}, {ADDED_UP}
          FROM changes
         GROUP BY 1, {REST_OF_KEY}
            ON CONFLICT ({INDEXED}) DO UPDATE SET {MERGED}
    )
    SELECT count(*) FROM changes
"""

KEEP_MONTHS = "LOCK TABLE attempts IN ACCESS SHARE MODE"

DIFFERENCES = f"""
    SELECT {KEY}, {ADDED_UP}
      FROM ({summed("attempts WHERE outcome IS NOT NULL")}
            UNION ALL
            SELECT {KEY}, {NEGATED}
              FROM spend
             WHERE month = ANY (%(months)s::date[])) AS both_sides
     GROUP BY {KEY}
    HAVING {DIFFERENT}
"""

CORRECT = f"""
    WITH different AS (
        INSERT INTO spend_changes ({KEY}, {ALL_SUMS}) {DIFFERENCES} RETURNING *
    )
    SELECT at, profile, agent, model, outcome, attempts, cost_usd FROM different ORDER BY at, model
"""

COMPARE = f"""
    SELECT at, profile, agent, model, outcome, attempts::bigint, cost_usd
      FROM ({DIFFERENCES}) AS different
     ORDER BY at, model
"""

DAY_DIFFERENCES = f"""
    SELECT {KEY}, {ADDED_UP}
      FROM (SELECT {DAY_KEY}, {ALL_SUMS} FROM spend_by_hour
             UNION ALL
            SELECT {KEY}, {NEGATED} FROM spend_by_day) AS both_sides
     GROUP BY {KEY}
    HAVING {DIFFERENT}
"""

CORRECT_DAYS = f"""
    INSERT INTO spend_by_day AS kept ({KEY}, {ALL_SUMS}) {DAY_DIFFERENCES}
        ON CONFLICT ({INDEXED}) DO UPDATE SET {MERGED}
"""

COMPARE_DAYS = f"""
    SELECT at, profile, agent, model, outcome, attempts::bigint, cost_usd
      FROM ({DAY_DIFFERENCES}) AS different
     ORDER BY at, model
"""


@dataclass(frozen=True)
class Difference:
    """By how much the attempts of an hour are more than their sums said."""

    at: datetime
    """The beginning of the hour; or of the day, where only the sums of days are wrong."""
    profile: str | None
    agent: str
    model: str
    outcome: str
    attempts: int
    cost_usd: Decimal


def fold(db: Connection) -> int:
    """Add the changes that wait to the sums of their hours and days; several processes may call this.

    Returns:
        How many changes there were.
    """
    with db.transaction():
        db.execute(ONE_AT_A_TIME)
        row = db.execute(FOLD).fetchone()
    return row[0] if row else 0


def differences(db: Connection) -> list[Difference]:
    """Compare the sums with the attempts, all of them: a minute for some ten millions.

    Returns:
        What differs, by hour and model; sums of months that were dropped are believed.
    """
    with db.transaction(), db.cursor(row_factory=class_row(Difference)) as cursor:
        found = cursor.execute(COMPARE, {"months": months(db)}).fetchall()
        return found + cursor.execute(COMPARE_DAYS).fetchall()


def recount(db: Connection) -> list[Difference]:
    """Correct the sums by what the attempts say.

    Nobody is kept waiting: what differs is found in one look at attempts, sums and changes, and noted as
    one more change.

    Returns:
        What differed, as `differences` does.
    """
    with db.transaction(), db.cursor(row_factory=class_row(Difference)) as cursor:
        found = cursor.execute(CORRECT, {"months": months(db)}).fetchall()
    fold(db)
    with db.transaction(), db.cursor(row_factory=class_row(Difference)) as cursor:
        cursor.execute(ONE_AT_A_TIME)
        found += cursor.execute(COMPARE_DAYS).fetchall()
        cursor.execute(CORRECT_DAYS)
    return found


def months(db: Connection) -> list[date]:
    """List the months that still have their attempts, and keep them until the transaction ends."""
    db.execute(KEEP_MONTHS)
    return partitions.months(db)
