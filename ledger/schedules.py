"""What beat writes of recurring tasks: what is decided, what fired, how it ended.

Whoever changes an entry holds its row in `schedules` until the commit, so any number of beats may look at
once. A firing's key is its name, its scheduled time and its worker: none can be there twice.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from ledger.connect import Connection

NOW = "SELECT clock_timestamp()"

KNOW = """
    INSERT INTO schedules (name, rhythm, next_at, decided_until)
    VALUES (%(name)s, %(rhythm)s, %(next_at)s, %(now)s)
        ON CONFLICT (name) DO UPDATE
       SET rhythm = excluded.rhythm,
           next_at = coalesce(excluded.next_at, schedules.next_at)
"""

FORGET = "UPDATE schedules SET next_at = NULL WHERE NOT name = ANY (%(names)s) AND next_at IS NOT NULL"

STATES = """
    SELECT name, decided_until, failures, paused_at, paused_why
      FROM schedules
     WHERE name = ANY (%(names)s)
"""

LOCK = """
    SELECT name, decided_until, failures, paused_at, paused_why
      FROM schedules
     WHERE name = %(name)s
       FOR UPDATE SKIP LOCKED
"""

WAIT_AND_LOCK = """
    SELECT name, decided_until, failures, paused_at, paused_why
      FROM schedules
     WHERE name = %(name)s
       FOR UPDATE
"""

DECIDED = "UPDATE schedules SET decided_until = %(until)s, next_at = %(next_at)s WHERE name = %(name)s"

STARTED_ANEW = "UPDATE schedules SET decided_until = %(now)s WHERE name = ANY (%(names)s)"

OPEN = """
    SELECT worker, scheduled_at, sent_to IS NOT NULL AS is_sent
      FROM firings
     WHERE name = %(name)s
       AND outcome IS NULL
     ORDER BY scheduled_at
"""

FIRE = """
    INSERT INTO firings (name, scheduled_at, worker, task_id, is_by_hand, decided_at, outcome, why,
                         finished_at)
    VALUES (%(name)s, %(scheduled_at)s, %(worker)s, %(task_id)s, %(is_by_hand)s, %(now)s, %(outcome)s::text,
            %(why)s, CASE WHEN %(outcome)s::text IS NOT NULL THEN %(now)s::timestamptz END)
        ON CONFLICT (name, scheduled_at, worker) DO NOTHING
    RETURNING name
"""

SPENT = """
    SELECT coalesce(sum(coalesce(a.cost_usd, a.reserved_usd)), 0)
      FROM firings f
      JOIN tasks t ON t.id = f.task_id
      JOIN attempts a ON a.task_id = t.id AND a.queued_at >= t.accepted_at
     WHERE f.name = %(name)s
       AND f.decided_at >= %(since)s
"""

TO_SEND = """
    SELECT name, scheduled_at, worker, task_id
      FROM firings
     WHERE outcome IS NULL
       AND name = ANY (%(names)s)
       AND sent_to IS DISTINCT FROM %(mark)s
       AND NOT EXISTS (SELECT FROM tasks WHERE tasks.id = firings.task_id)
       AND NOT EXISTS (SELECT
                         FROM firings before
                        WHERE before.name = firings.name
                          AND before.worker = firings.worker
                          AND before.outcome IS NULL
                          AND before.scheduled_at < firings.scheduled_at
                          AND NOT firings.is_by_hand)
     ORDER BY scheduled_at
"""

HOLD = f"{TO_SEND} LIMIT 1 FOR UPDATE SKIP LOCKED"

SENT = """
    UPDATE firings
       SET sent_to = %(mark)s, expires_at = %(expires_at)s
     WHERE name = %(name)s AND scheduled_at = %(scheduled_at)s AND worker = %(worker)s
"""

ENDED = """
    SELECT f.name, f.scheduled_at, f.worker, f.task_id, t.attempts,
           coalesce(t.state, CASE WHEN f.sent_to IS NULL THEN 'unsent' ELSE 'unaccepted' END) AS state,
           t.error ->> 'type' AS error,
           coalesce(t.finished_at, %(now)s) AS finished_at
      FROM firings f
      LEFT JOIN tasks t ON t.id = f.task_id
     WHERE f.outcome IS NULL
       AND (t.finished_at IS NOT NULL
            OR t.id IS NULL AND (f.expires_at < %(before)s
                                 OR f.sent_to IS NULL AND NOT f.name = ANY (%(names)s)))
     ORDER BY t.finished_at, f.scheduled_at
"""

END = """
    UPDATE firings
       SET outcome = %(outcome)s, why = %(why)s, finished_at = %(finished_at)s,
           delivery = CASE WHEN %(delivers)s THEN 'pending' END,
           deliver_at = CASE WHEN %(delivers)s THEN %(finished_at)s::timestamptz END
     WHERE name = %(name)s AND scheduled_at = %(scheduled_at)s AND worker = %(worker)s
       AND outcome IS NULL
    RETURNING name
"""

COUNT = "UPDATE schedules SET failures = %(failures)s WHERE name = %(name)s RETURNING failures"

PAUSE = """
    UPDATE schedules
       SET paused_at = %(now)s, paused_why = %(why)s
     WHERE name = %(name)s
       AND paused_at IS NULL
    RETURNING name
"""

RESUME = """
    UPDATE schedules
       SET paused_at = NULL, paused_why = NULL, failures = 0, decided_until = %(now)s
     WHERE name = %(name)s
       AND paused_at IS NOT NULL
    RETURNING name
"""


@dataclass(frozen=True)
class Entry:
    """What the ledger is told of an entry of schedule.yaml."""

    name: str
    rhythm: str
    next_at: datetime | None
    """None: leave it as it is."""


@dataclass(frozen=True)
class State:
    """What the ledger knows of an entry."""

    name: str
    decided_until: datetime
    failures: int
    paused_at: datetime | None
    paused_why: str | None


@dataclass(frozen=True)
class Open:
    """A firing that has not ended."""

    worker: str
    scheduled_at: datetime
    is_sent: bool


@dataclass(frozen=True)
class Firing:
    """One run of an entry."""

    name: str
    scheduled_at: datetime
    worker: str
    """The only one that may run it; empty: any."""
    task_id: UUID


@dataclass(frozen=True)
class Ended(Firing):
    """A firing whose task has ended."""

    state: str
    """Of the task; `unsent` and `unaccepted`: there is none."""
    attempts: int | None
    error: str | None
    """The type of the task's error."""
    finished_at: datetime


def now(db: Connection) -> datetime:
    """Ask for the time of the fleet: Postgres's, the same for every beat."""
    row = db.execute(NOW).fetchone()
    if row is None:
        message = "a SELECT without FROM gave no row"
        raise LookupError(message)
    return row[0]


def know(db: Connection, entry: Entry, now: datetime) -> None:
    """Note an entry; of one that is seen for the first time, nothing before now is made up for."""
    db.execute(KNOW, {**vars(entry), "now": now})


def forget(db: Connection, but: Collection[str]) -> None:
    """Note that no other entry will fire any more."""
    db.execute(FORGET, {"names": list(but)})


def start_anew(db: Connection, names: Collection[str], now: datetime) -> None:
    """Forget what entries had missed until now, because they were changed."""
    db.execute(STARTED_ANEW, {"names": list(names), "now": now})


def states(db: Connection, names: Collection[str]) -> dict[str, State]:
    """Read what is known of entries, by name."""
    with db.cursor(row_factory=class_row(State)) as cursor:
        return {state.name: state for state in cursor.execute(STATES, {"names": list(names)})}


def lock(db: Connection, name: str, *, wait: bool = False) -> State | None:
    """Hold an entry until the transaction ends; None: somebody else does, or nobody knows it."""
    with db.cursor(row_factory=class_row(State)) as cursor:
        return cursor.execute(WAIT_AND_LOCK if wait else LOCK, {"name": name}).fetchone()


def decide(db: Connection, name: str, until: datetime, next_at: datetime | None) -> None:
    """Note that all that was scheduled until a moment is decided, and when the next run begins."""
    db.execute(DECIDED, {"name": name, "until": until, "next_at": next_at})


def still_open(db: Connection, name: str) -> list[Open]:
    """Read the firings of an entry that have not ended, in the order in which they were scheduled."""
    with db.cursor(row_factory=class_row(Open)) as cursor:
        return cursor.execute(OPEN, {"name": name}).fetchall()


def fire(
    db: Connection,
    firing: Firing,
    now: datetime,
    *,
    outcome: str | None = None,
    why: str | None = None,
    is_by_hand: bool = False,
) -> bool:
    """Insert a firing, or do nothing if it is there.

    Args:
        firing: its key, and the id that its task will have.
        now: aware, UTC.
        outcome: `skipped` or `refused`, of one that has ended as it fired.
        why: it did.
        is_by_hand: somebody asked for it; it waits for no other.

    Returns:
        Whether it was inserted.
    """
    more: dict[str, Any] = {"now": now, "outcome": outcome, "why": why, "is_by_hand": is_by_hand}
    return db.execute(FIRE, {**vars(firing), **more}).fetchone() is not None


def spent(db: Connection, name: str, since: datetime) -> Decimal:
    """Add up what the runs that fired since a moment cost; what is not known counts as reserved."""
    row = db.execute(SPENT, {"name": name, "since": since}).fetchone()
    return row[0] if row else Decimal(0)


def to_send(db: Connection, names: Collection[str], mark: str) -> bool:
    """Tell whether a firing is nowhere yet; see `next_to_send`."""
    return db.execute(TO_SEND, {"names": list(names), "mark": mark}).fetchone() is not None


def next_to_send(db: Connection, names: Collection[str], mark: str) -> Firing | None:
    """Hold the oldest firing that is nowhere yet, neither in this Redis nor in the ledger.

    One of them whose predecessor has not ended waits. Only within a transaction.

    Args:
        db: in a transaction.
        names: of the entries that may be sent.
        mark: of the Redis that is there now.
    """
    with db.cursor(row_factory=class_row(Firing)) as cursor:
        return cursor.execute(HOLD, {"names": list(names), "mark": mark}).fetchone()


def sent(db: Connection, firing: Firing, mark: str, expires_at: datetime) -> None:
    """Note that a firing's message is in Redis."""
    db.execute(SENT, {**vars(firing), "mark": mark, "expires_at": expires_at})


def ended(db: Connection, now: datetime, *, expired_before: datetime, names: Sequence[str]) -> list[Ended]:
    """Read the open firings whose task has ended, or will never be, in the order of their ends.

    Args:
        db: a connection.
        now: aware, UTC.
        expired_before: what expired before that and is no task (`unaccepted`) will never be one.
        names: of the entries that there are; what is `unsent` and of none of them will never be sent.
    """
    asked: dict[str, Any] = {"before": expired_before, "now": now, "names": list(names)}
    with db.cursor(row_factory=class_row(Ended)) as cursor:
        return cursor.execute(ENDED, asked).fetchall()


def end(db: Connection, firing: Ended, outcome: str, why: str | None, *, delivers: bool) -> bool:
    """Record how a firing ended; False: somebody else did."""
    how: dict[str, Any] = {"outcome": outcome, "why": why, "delivers": delivers}
    return db.execute(END, {**vars(firing), **how}).fetchone() is not None


def count_failures(db: Connection, name: str, failures: int) -> None:
    """Write how many runs in a row have failed."""
    db.execute(COUNT, {"name": name, "failures": failures})


def pause(db: Connection, name: str, why: str, now: datetime) -> bool:
    """Let an entry fire no more; False: it was paused before."""
    return db.execute(PAUSE, {"name": name, "why": why, "now": now}).fetchone() is not None


def resume(db: Connection, name: str, now: datetime) -> bool:
    """Let an entry fire again, from now on; False: it was not paused."""
    return db.execute(RESUME, {"name": name, "now": now}).fetchone() is not None
