"""The months of `attempts`: each has a partition, made before the first attempt of it is queued.

An attempt that finds no partition of its month goes to the default one: an insert never fails. When the
partition is made after all, those attempts move into it.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time

from psycopg.errors import LockNotAvailable
from psycopg.sql import SQL, Identifier, Literal

from ledger.connect import Connection

MONTHS_AHEAD = 2
"""How many months may pass in which no partition can be made."""

GIVE_UP = "SET LOCAL lock_timeout = '500ms'"
"""The whole fleet waits behind whoever waits for these locks, and there are months to try again.

Shorter than `deadlock_timeout`: in a deadlock it must be this transaction that gives up.
"""

ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtext('fleet partitions'))"

IS_THERE = "SELECT to_regclass(%(name)s) IS NOT NULL"

MAKE = SQL("""
    -- In the order in which the statements of the fleet lock them.
    LOCK TABLE tasks IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE attempts IN SHARE UPDATE EXCLUSIVE MODE;
    LOCK TABLE attempts_default IN ACCESS EXCLUSIVE MODE;
    CREATE TABLE {name} (LIKE attempts INCLUDING ALL);
    WITH early AS (
        DELETE FROM attempts_default
         WHERE queued_at >= {first}
           AND queued_at < {next}
        RETURNING *
    )
    INSERT INTO {name} SELECT * FROM early;
    ALTER TABLE attempts ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({next})
""")


def make_ahead(db: Connection, today: date) -> bool:
    """Make the partitions of this month and of those to come; several processes may call this at once.

    Args:
        today: in UTC, as the months are.

    Returns:
        Whether all are there now; if not, somebody reads the tables at length, and it is to be tried
        again later.
    """
    months = upcoming(today)
    try:
        for first in months:
            make(db, first)
    except LockNotAvailable:
        return False
    return True


def make(db: Connection, first: date) -> None:
    """Make the partition of the month that begins on `first`, unless it is there.

    Raises:
        LockNotAvailable: somebody held the tables for too long; nothing was changed.
    """
    name = partition(first)
    with db.transaction():
        db.execute(GIVE_UP)
        db.execute(ONE_AT_A_TIME)
        if db.execute(IS_THERE, {"name": name}).fetchone() == (True,):
            return
        bounds = {"first": Literal(midnight(first)), "next": Literal(midnight(following(first)))}
        db.execute(MAKE.format(name=Identifier(name), **bounds))


def upcoming(today: date) -> Iterator[date]:
    first = today.replace(day=1)
    for _ in range(1 + MONTHS_AHEAD):
        yield first
        first = following(first)


def following(first: date) -> date:
    return first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def partition(first: date) -> str:
    """Name the partition of a month."""
    return f"attempts_{first:%Y_%m}"
