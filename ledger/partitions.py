"""The months of `attempts`: each has a partition, made before the first attempt of it is queued.

An attempt that finds no partition of its month goes to the default one: an insert never fails. When the
partition is made after all, those attempts move into it.
"""

from collections.abc import Iterator
from contextlib import suppress
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


WITHOUT_PARTITION = """
    SELECT DISTINCT date_trunc('month', queued_at AT TIME ZONE 'UTC')::date
      FROM attempts_default
     ORDER BY 1
"""

PARTITIONS = r"""
    SELECT relname
      FROM pg_inherits
      JOIN pg_class ON pg_class.oid = inhrelid
     WHERE inhparent = 'attempts'::regclass
       AND relname ~ '^attempts_\d{4}_\d{2}$'
     ORDER BY relname
"""

LOCK_ALL = """
    -- A partition's foreign key is a trigger of `tasks`.
    LOCK TABLE tasks, attempts IN ACCESS EXCLUSIVE MODE
"""

HAS_OPEN = SQL("SELECT EXISTS (SELECT FROM {name} WHERE outcome IS NULL)")

DROP = SQL("DROP TABLE {name}")


def make_ahead(db: Connection, today: date) -> bool:
    """Make the partitions of this month and of those to come; several processes may call this at once.

    Args:
        today: in UTC, as the months are.

    Returns:
        Whether all are there now; if not, somebody reads the tables at length, and it is to be tried
        again later.
    """
    try:
        for first in [*upcoming(today), *months_without(db)]:
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


def months_without(db: Connection) -> list[date]:
    """List the months that have attempts and no partition."""
    return [row[0] for row in db.execute(WITHOUT_PARTITION)]


def months(db: Connection) -> list[date]:
    """List the months whose attempts are there, those without a partition of their own too."""
    return [*(month_of(name) for (name,) in db.execute(PARTITIONS)), *months_without(db)]


def drop_before(db: Connection, moment: datetime) -> list[str]:
    """Drop the partitions of months that were over before a moment, and with them their attempts.

    A month in which an attempt has not ended stays.

    Returns:
        The partitions that went.
    """
    names: list[str] = [row[0] for row in db.execute(PARTITIONS)]
    over = [name for name in names if midnight(following(month_of(name))) <= moment]
    return [name for name in over if drop(db, name)]


def drop(db: Connection, name: str) -> bool:
    """Drop a partition, unless an attempt in it has not ended or somebody reads the tables at length."""
    with suppress(LockNotAvailable), db.transaction():
        db.execute(GIVE_UP)
        db.execute(LOCK_ALL)
        if db.execute(HAS_OPEN.format(name=Identifier(name))).fetchone() == (False,):
            db.execute(DROP.format(name=Identifier(name)))
            return True
    return False


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


def month_of(name: str) -> date:
    """Read the first day of a partition's month out of its name."""
    _, year, month = name.split("_")
    return date(int(year), int(month), 1)
