"""How long the lines are in which attempts wait for a worker."""

from dataclasses import dataclass

from psycopg.rows import class_row

from ledger.connect import Connection

QUEUES = """
    SELECT queue AS name,
           count(*) FILTER (WHERE claimed_at IS NULL) AS waiting,
           count(*) FILTER (WHERE claimed_at IS NOT NULL) AS running,
           coalesce(extract(epoch FROM clock_timestamp() - min(queued_at) FILTER (WHERE claimed_at IS NULL)),
                    0)::float8 AS oldest_s
      FROM attempts
     WHERE outcome IS NULL
     GROUP BY queue
     ORDER BY queue
"""


@dataclass(frozen=True)
class Queue:
    """A queue in which something waits or runs."""

    name: str
    waiting: int
    running: int
    oldest_s: float
    """Since when the first that waits was planned; 0: none waits."""


def queues(db: Connection) -> list[Queue]:
    """Count the attempts that have not ended, by queue; quick, however many have."""
    with db.cursor(row_factory=class_row(Queue)) as cursor:
        return cursor.execute(QUEUES).fetchall()
