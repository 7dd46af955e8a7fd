"""What people wrote, removed from the ledger once it is old; counts and costs stay.

Of a task these are its request, what Celery attached to the caller's message (a chain carries the prompts
of the tasks that follow) and the words of its error; of an attempt its answer and the words of its error.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from ledger.connect import Connection

MOST_AT_ONCE = 500
"""Tasks in one transaction: it holds its locks for some 50 ms."""

PROFILES = """
    WITH RECURSIVE present AS (
        (SELECT coalesce(profile, '') AS profile
           FROM tasks
          WHERE finished_at IS NOT NULL
            AND text_removed_at IS NULL
          ORDER BY coalesce(profile, '')
          LIMIT 1)
         UNION ALL
        SELECT (SELECT coalesce(tasks.profile, '')
                  FROM tasks
                 WHERE finished_at IS NOT NULL
                   AND text_removed_at IS NULL
                   AND coalesce(tasks.profile, '') > present.profile
                 ORDER BY coalesce(tasks.profile, '')
                 LIMIT 1)
          FROM present
         WHERE present.profile IS NOT NULL
    )
    SELECT nullif(profile, '')
      FROM present
     WHERE profile IS NOT NULL
"""
"""From name to name along the index, not through all tasks."""

DUE = """
    SELECT id, accepted_at
      FROM tasks
     WHERE finished_at IS NOT NULL
       AND text_removed_at IS NULL
       AND coalesce(profile, '') = coalesce(%(profile)s, '')
       AND finished_at < now() - %(keep)s::interval
     ORDER BY finished_at
     LIMIT %(most)s
       FOR UPDATE SKIP LOCKED
"""

EMPTY_TASKS = """
    UPDATE tasks
       SET text_removed_at = now(),
           request = NULL,
           envelope = '{}',
           error = error - ARRAY['args', 'text']
     WHERE id = ANY (%(ids)s)
"""

EMPTY_ATTEMPTS = """
    UPDATE attempts
       SET answer = NULL,
           error = error - ARRAY['args', 'text']
     WHERE task_id = ANY (%(ids)s)
       AND queued_at >= %(since)s
       AND (answer IS NOT NULL OR error IS NOT NULL)
"""


def profiles_with_text(db: Connection) -> list[str | None]:
    """Name the profiles of the tasks that have ended and still have their text; None: tasks without one."""
    return [row[0] for row in db.execute(PROFILES)]


def remove_text(db: Connection, profile: str | None, keep: timedelta, most: int = MOST_AT_ONCE) -> int:
    """Remove the text of the tasks of a profile that ended longer than `keep` ago, oldest first.

    Several processes may call this at once.

    Returns:
        Of how many tasks; fewer than `most`: no more are due, or others are at them.
    """
    with db.transaction():
        due: Sequence[tuple[UUID, datetime]] = db.execute(
            DUE, {"profile": profile, "keep": keep, "most": most}
        ).fetchall()
        if due:
            ids = [task_id for task_id, _ in due]
            db.execute(EMPTY_TASKS, {"ids": ids})
            db.execute(EMPTY_ATTEMPTS, {"ids": ids, "since": min(accepted_at for _, accepted_at in due)})
    return len(due)
