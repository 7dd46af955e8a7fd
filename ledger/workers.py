"""Which workers are there, where they listen, and when they were last seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from ledger.attempts import CHANNEL
from ledger.connect import Connection, jsonb

SEEN = """
    WITH before AS (
        SELECT seen_at FROM workers WHERE name = %(name)s
    )
    INSERT INTO workers (name, host, pid, slots, models, memory_bytes)
    VALUES (%(name)s, %(host)s, %(pid)s, %(slots)s, %(models)s, %(memory_bytes)s)
        ON CONFLICT (name) DO UPDATE
       SET host = excluded.host,
           pid = excluded.pid,
           slots = excluded.slots,
           models = excluded.models,
           memory_bytes = excluded.memory_bytes,
           seen_at = clock_timestamp(),
           started_at = CASE WHEN workers.pid = excluded.pid THEN workers.started_at
                             ELSE clock_timestamp() END
    RETURNING (SELECT extract(epoch FROM clock_timestamp() - seen_at)::float8 FROM before)
"""

LEFT = "DELETE FROM workers WHERE name = %(name)s"

NOTIFY = "SELECT pg_notify(%(channel)s, '')"

PRESENT = """
    SELECT name, host, pid, slots, models, started_at, seen_at
      FROM workers
     WHERE seen_at > clock_timestamp() - make_interval(secs => %(stale_s)s)
     ORDER BY name
"""


@dataclass(frozen=True)
class Presence:
    """A worker that was seen lately."""

    name: str
    host: str
    pid: int
    slots: dict[str, int]
    """How many attempts it can run at once, for each queue it listens on; one of them may be its own, which
    has its name."""
    models: dict[str, str]
    """What its host says of each local model: `ready`, or why not and what to do."""
    started_at: datetime
    seen_at: datetime


def seen(
    db: Connection,
    *,
    name: str,
    host: str,
    pid: int,
    slots: Mapping[str, int],
    models: Mapping[str, str] | None = None,
    memory_bytes: int | None = None,
) -> float | None:
    """Record that a worker is there, and what it says of itself and of its host.

    Returns:
        For how many seconds it had not been seen; None: it has just come.
    """
    row = {"name": name, "host": host, "pid": pid, "slots": jsonb(slots), "models": jsonb(models or {})}
    (silent_s,) = db.execute(SEEN, {**row, "memory_bytes": memory_bytes}).fetchone() or (None,)
    return silent_s


def left(db: Connection, name: str) -> None:
    """Record that a worker has gone."""
    db.execute(LEFT, {"name": name})


def notify(db: Connection) -> None:
    """Tell the brain to look at the workers."""
    db.execute(NOTIFY, {"channel": CHANNEL})


def present(db: Connection, stale_s: float) -> list[Presence]:
    """Read the workers that were seen in the last `stale_s` seconds, by name."""
    with db.cursor(row_factory=class_row(Presence)) as cursor:
        return cursor.execute(PRESENT, {"stale_s": stale_s}).fetchall()
