"""Who is the brain: a lease with an epoch, held by one dispatcher at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.rows import class_row

from ledger.connect import Connection
from ledger.errors import NotLeadingError

TAKE = """
    UPDATE leadership
       SET epoch = epoch + 1,
           holder = %(holder)s,
           lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
     WHERE lease_until < clock_timestamp()
    RETURNING epoch
"""

RENEW = """
    UPDATE leadership
       SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
           ticks = ticks + %(ticks)s,
           tick_s = tick_s + %(tick_s)s
     WHERE epoch = %(epoch)s
    RETURNING epoch
"""

RESIGN = "UPDATE leadership SET lease_until = clock_timestamp() WHERE epoch = %(epoch)s"

STANDS_STILL = "5s"
"""How long a transaction of the brain may wait for its next statement: as long as its lease."""

STILL_LEADS = """
    SELECT epoch, set_config('idle_in_transaction_session_timeout', %(stands_still)s, true)
      FROM leadership
     WHERE epoch = %(epoch)s
       FOR SHARE
"""

CURRENT = """
    SELECT epoch, holder, lease_until > clock_timestamp() AS is_alive, ticks, tick_s
      FROM leadership
"""


@dataclass(frozen=True)
class Leader:
    epoch: int
    holder: str
    is_alive: bool
    """False: nobody leads now; `holder` was the last."""
    ticks: int
    """Of all who ever led."""
    tick_s: float
    """What these took together."""


def take(db: Connection, holder: str, lease_s: float) -> int | None:
    """Become the brain if nobody is.

    Returns:
        The new epoch; None while another dispatcher's lease lasts.
    """
    row = db.execute(TAKE, {"holder": holder, "lease_s": lease_s}).fetchone()
    return row[0] if row else None


def renew(db: Connection, epoch: int, lease_s: float, *, ticks: int = 0, tick_s: float = 0.0) -> None:
    """Stay the brain for another lease.

    Args:
        db: the brain's.
        epoch: of the brain.
        lease_s: how long, from now on.
        ticks: how many there were since the last time, for the books.
        tick_s: what these took together.

    Raises:
        NotLeadingError: another dispatcher took over in the meantime.
    """
    told = {"epoch": epoch, "lease_s": lease_s, "ticks": ticks, "tick_s": tick_s}
    if db.execute(RENEW, told).fetchone() is None:
        raise NotLeadingError(epoch)


def resign(db: Connection, epoch: int) -> None:
    """End the lease now, so that another dispatcher need not wait for its end."""
    db.execute(RESIGN, {"epoch": epoch})


def check(db: Connection, epoch: int) -> None:
    """Make sure that the transaction of `db` can only commit while `epoch` leads.

    The row stays locked until the transaction ends, so nobody can take over in between: a brain that
    was paused and wakes up writes nothing. One that is paused right here does not keep the others waiting:
    Postgres breaks its connection off.

    Raises:
        NotLeadingError: another dispatcher took over.
    """
    if db.execute(STILL_LEADS, {"epoch": epoch, "stands_still": STANDS_STILL}).fetchone() is None:
        raise NotLeadingError(epoch)


def made_sure(rows: Sequence[object], epoch: int) -> None:
    """Read the answer of a statement that checks the epoch itself, in a CTE named `leads`.

    Such a statement starts its answer from `leads`: without a row there, it has written nothing.

    Raises:
        NotLeadingError: another dispatcher took over.
    """
    if not rows:
        raise NotLeadingError(epoch)


def current(db: Connection) -> Leader:
    """Tell who leads, or who led last."""
    with db.cursor(row_factory=class_row(Leader)) as cursor:
        leader = cursor.execute(CURRENT).fetchone()
    if leader is None:
        message = "the table leadership has lost its row; restore the database from a backup"
        raise LookupError(message)
    return leader
