"""Outcomes of recurring tasks on their way to whoever wants them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from ledger.connect import Connection
from ledger.schedules import Firing

TAKE = """
    UPDATE firings
       SET delivery_tries = delivery_tries + 1,
           deliver_at = %(now)s::timestamptz + make_interval(secs => %(first_pause_s)s * 3 ^ delivery_tries)
     WHERE (name, scheduled_at, worker) IN (SELECT name, scheduled_at, worker
                                              FROM firings
                                             WHERE delivery = 'pending'
                                               AND deliver_at <= %(now)s
                                               AND name = ANY (%(names)s)
                                             ORDER BY deliver_at
                                             LIMIT 1
                                               FOR UPDATE SKIP LOCKED)
    RETURNING name, scheduled_at, worker, task_id, outcome, why, delivery_tries AS tries
"""

DELIVERED = """
    UPDATE firings
       SET delivery = %(delivery)s, delivery_why = %(why)s
     WHERE name = %(name)s AND scheduled_at = %(scheduled_at)s AND worker = %(worker)s
       AND delivery = 'pending'
"""


@dataclass(frozen=True)
class Delivery(Firing):
    """An outcome to be delivered."""

    outcome: str
    why: str | None
    tries: int
    """With this one."""


def take(db: Connection, names: Iterable[str], now: datetime, first_pause_s: float) -> Delivery | None:
    """Take the outcome that has waited longest to be delivered.

    It is due again after a pause that triples each time, so that one whose beat dies is not lost.
    """
    asked: dict[str, Any] = {"names": list(names), "now": now, "first_pause_s": first_pause_s}
    with db.cursor(row_factory=class_row(Delivery)) as cursor:
        return cursor.execute(TAKE, asked).fetchone()


def delivered(db: Connection, delivery: Delivery, state: str, why: str | None) -> None:
    """Record what became of a delivery: `delivered`, `failed`, or still `pending`, and why."""
    db.execute(DELIVERED, {**vars(delivery), "delivery": state, "why": why})
