"""Tasks as people look through them: newest first, page by page, and the text of one."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.rows import class_row

from ledger.connect import Connection

MOST_LOOKED_AT = 3000
"""Tasks that one page looks at: a filter that fits few of ten million must not read them all."""

LOOKED_AT = """
    SELECT accepted_at, id, state, profile, focus, agent, finished_at, attempts,
           coalesce(error ->> 'text', error ->> 'type') AS error
      FROM tasks
     WHERE accepted_at <= coalesce(%(before_at)s, 'infinity'::timestamptz)
       AND (accepted_at, id) < (coalesce(%(before_at)s, 'infinity'::timestamptz),
                                coalesce(%(before_id)s, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid))
       AND accepted_at < coalesce(%(until)s, 'infinity'::timestamptz)
       AND accepted_at >= coalesce(%(since)s, '-infinity'::timestamptz)
"""

ONLY_OPEN = " AND finished_at IS NULL"
"""Those are few, and have an index of their own: they are found however old they are."""

IN_ORDER = " ORDER BY accepted_at DESC, id DESC"

MOST = " LIMIT %(most)s"

THE_LAST = " OFFSET %(most)s - 1 LIMIT 1"

FITTING = """
    SELECT looked.*, last.model, last.tier, last.outcome, last.claimed_at
      FROM looked
      LEFT JOIN LATERAL (SELECT model, tier, outcome, claimed_at
                           FROM attempts
                          WHERE task_id = looked.id
                            AND number = looked.attempts
                            AND queued_at >= looked.accepted_at
                            AND queued_at <= coalesce(looked.finished_at, 'infinity'::timestamptz)
                        ) AS last ON true
     WHERE (%(state)s::text IS NULL OR state = %(state)s)
       AND (%(profile)s::text IS NULL OR profile = %(profile)s)
       AND (%(agent)s::text IS NULL OR agent = %(agent)s)
       AND (%(model)s::text IS NULL OR last.model = %(model)s)
       AND (%(tier)s::text IS NULL OR last.tier = %(tier)s)
       AND (%(error)s::text IS NULL OR strpos(lower(error), lower(%(error)s)) > 0)
     ORDER BY accepted_at DESC, id DESC
     LIMIT %(rows)s
"""

SUMMED = """
    SELECT fitting.*, sums.tokens, sums.cost_usd
      FROM fitting
      LEFT JOIN LATERAL (SELECT sum(prompt_tokens + completion_tokens) AS tokens,
                                CASE WHEN count(cost_usd) = count(outcome) THEN sum(cost_usd) END AS cost_usd
                           FROM attempts
                          WHERE task_id = fitting.id
                            AND queued_at >= fitting.accepted_at
                            AND queued_at <= coalesce(fitting.finished_at, 'infinity'::timestamptz)
                        ) AS sums ON true
     ORDER BY accepted_at DESC, id DESC
"""
"""The attempts of a task were queued between its acceptance and its end: only the partitions of these months
are looked into."""

PAGE = f"WITH looked AS ({LOOKED_AT}{IN_ORDER}{MOST}), fitting AS ({FITTING}) {SUMMED}"

PAGE_OF_OPEN = f"WITH looked AS ({LOOKED_AT}{ONLY_OPEN}{IN_ORDER}{MOST}), fitting AS ({FITTING}) {SUMMED}"

LAST_LOOKED_AT = LOOKED_AT + IN_ORDER + THE_LAST

REQUEST = "SELECT request, text_removed_at FROM tasks WHERE id = %(id)s"

ANSWER = """
    SELECT answer
      FROM attempts
     WHERE task_id = %(id)s
       AND outcome IN ('succeeded', 'rejected')
     ORDER BY number DESC
     LIMIT 1
"""


class Place(NamedTuple):
    """Where in the list a page begins: after this task."""

    at: datetime
    id: UUID


@dataclass(frozen=True)
class Filter:
    """Which tasks are meant; None: all."""

    state: str | None = None
    profile: str | None = None
    agent: str | None = None
    model: str | None = None
    """Of the last attempt, as is the tier."""
    tier: str | None = None
    error: str | None = None
    """A part of its text, or of its type where it has none, in any case."""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class ListedTask:
    """A task with its last attempt and what it took in all."""

    id: UUID
    state: str
    profile: str | None
    focus: str | None
    agent: str
    accepted_at: datetime
    finished_at: datetime | None
    attempts: int
    error: str | None
    model: str | None
    tier: str | None
    outcome: str | None
    claimed_at: datetime | None
    tokens: int | None
    cost_usd: Decimal | None
    """None: the price of an attempt is unknown, or no attempt has ended."""


@dataclass(frozen=True)
class Listed:
    """One page of tasks."""

    tasks: list[ListedTask]
    older: Place | None
    """Where the next page begins; None: there is nothing older."""
    looked_back_to: datetime | None
    """Set: the page is not full, because no more tasks than so far back were looked at."""


@dataclass(frozen=True)
class Texts:
    """What was asked and answered, as far as it is kept."""

    request: dict[str, Any] | None
    answer: dict[str, Any] | None
    removed_at: datetime | None
    """When retention removed the texts."""


def page(db: Connection, wanted: Filter, before: Place | None, rows: int) -> Listed:
    """Read a page of tasks, newest first; at most `MOST_LOOKED_AT` tasks are looked at.

    Args:
        before: the place at which the page before this one ended.
        rows: that a full page has.
    """
    only_open = wanted.state in ("held", "queued", "running")
    given = {
        **vars(wanted),
        "before_at": before.at if before else None,
        "before_id": before.id if before else None,
        "most": MOST_LOOKED_AT,
        "rows": rows + 1,
    }
    with db.cursor(row_factory=class_row(ListedTask)) as cursor:
        found = cursor.execute(PAGE_OF_OPEN if only_open else PAGE, given).fetchall()
    if len(found) > rows:
        return Listed(found[:rows], Place(found[rows - 1].accepted_at, found[rows - 1].id), None)
    last = None if only_open else db.execute(LAST_LOOKED_AT, given).fetchone()
    return Listed(found, Place(*last[:2]) if last else None, last[0] if last else None)


def texts(db: Connection, task_id: UUID) -> Texts:
    """Read what was asked and the last answer."""
    asked = db.execute(REQUEST, {"id": task_id}).fetchone() or (None, None)
    answered = db.execute(ANSWER, {"id": task_id}).fetchone()
    return Texts(asked[0], answered[0] if answered else None, asked[1])
