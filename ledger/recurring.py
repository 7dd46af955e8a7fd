"""Reads of recurring tasks: what each did and cost, and when it runs next."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from psycopg.rows import class_row

from ledger.connect import Connection

SUMMARIES = """
    WITH costs AS (
        SELECT f.name, f.scheduled_at, f.worker,
               sum(a.prompt_tokens + a.completion_tokens) AS tokens,
               sum(coalesce(a.cost_usd, a.reserved_usd)) AS usd,
               max(a.model) FILTER (WHERE a.number = t.attempts) AS model,
               max(a.tier) FILTER (WHERE a.number = t.attempts) AS tier
          FROM firings f
          JOIN tasks t ON t.id = f.task_id
          JOIN attempts a ON a.task_id = t.id AND a.queued_at >= t.accepted_at
         WHERE f.decided_at > %(now)s::timestamptz - interval '30 days'
         GROUP BY f.name, f.scheduled_at, f.worker
    ), spent AS (
        SELECT name,
               min(scheduled_at) AS since,
               count(*) AS runs,
               sum(tokens)::bigint AS tokens_30d,
               sum(usd) AS usd_30d,
               coalesce(sum(tokens) FILTER (WHERE scheduled_at > %(now)s::timestamptz - interval '1 day'),
                        0)::bigint AS tokens_24h,
               coalesce(sum(usd) FILTER (WHERE scheduled_at > %(now)s::timestamptz - interval '1 day'),
                        0) AS usd_24h
          FROM costs
         GROUP BY name
    )
    SELECT s.name, s.rhythm, s.next_at, s.failures, s.paused_at, s.paused_why,
           last.scheduled_at AS last_at, last.outcome, last.why, last.task_id, last.worker, last.delivery,
           last.delivery_why, ran.model, ran.tier,
           coalesce(spent.runs, 0) AS runs,
           coalesce(spent.tokens_24h, 0) AS tokens_24h,
           coalesce(spent.usd_24h, 0) AS usd_24h,
           coalesce(spent.tokens_30d, 0) AS tokens_30d,
           coalesce(spent.usd_30d, 0) AS usd_30d
      FROM schedules s
      LEFT JOIN spent ON spent.name = s.name
      LEFT JOIN LATERAL (SELECT *
                           FROM firings
                          WHERE firings.name = s.name
                          ORDER BY scheduled_at DESC, worker
                          LIMIT 1) AS last ON true
      LEFT JOIN LATERAL (SELECT model, tier
                           FROM costs
                          WHERE costs.name = s.name
                            AND model IS NOT NULL
                          ORDER BY scheduled_at DESC
                          LIMIT 1) AS ran ON true
     ORDER BY s.name
"""

LAST_DECIDED = "SELECT max(decided_at) FROM firings WHERE decided_at > clock_timestamp() - %(within)s"

PAUSED = "SELECT name, paused_why FROM schedules WHERE paused_at IS NOT NULL ORDER BY name"


@dataclass(frozen=True)
class Summary:
    """A recurring task, as the ledger knows it."""

    name: str
    rhythm: str
    next_at: datetime | None
    """When its next run begins; None: beat's schedule.yaml has it no more, or not enabled."""
    failures: int
    """Failed runs in a row."""
    paused_at: datetime | None
    paused_why: str | None
    last_at: datetime | None
    """When its last run was scheduled; None: it never ran."""
    outcome: str | None
    """Of that run: succeeded, failed, expired, cancelled, skipped or refused; None: it has not ended."""
    why: str | None
    task_id: UUID | None
    worker: str | None
    """The only one that might run it; empty: any."""
    delivery: str | None
    """pending, delivered or failed; None: there is nothing to deliver."""
    delivery_why: str | None
    model: str | None
    """Of the last run that called one."""
    tier: str | None
    runs: int
    """Those of the last thirty days that called a model."""
    tokens_24h: int
    usd_24h: Decimal
    tokens_30d: int
    usd_30d: Decimal
    """What is not known counts as reserved."""


def summaries(db: Connection, now: datetime) -> list[Summary]:
    """Read all recurring tasks that there are or were, by name.

    Args:
        db: a connection.
        now: the last 24 hours and 30 days end there.
    """
    with db.cursor(row_factory=class_row(Summary)) as cursor:
        return cursor.execute(SUMMARIES, {"now": now}).fetchall()


def last_decided(db: Connection, within: object) -> datetime | None:
    """Tell when beat last let something fire, or skip; None: not within that time."""
    row = db.execute(LAST_DECIDED, {"within": within}).fetchone()
    return row[0] if row else None


def paused(db: Connection) -> dict[str, str]:
    """List what is paused, with the reason."""
    return dict(db.execute(PAUSED).fetchall())
