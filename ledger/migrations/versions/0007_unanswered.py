"""Tasks that ended without an answer, to be counted by the time of their end."""

from alembic import op

revision = "0007"
down_revision = "0006"

COLUMN = """
ALTER TABLE tasks ADD COLUMN IF NOT EXISTS is_cancelled boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN tasks.is_cancelled IS 'as the state says: an index on that would change with each claim';
"""

BEFORE = "UPDATE tasks SET is_cancelled = true WHERE state = 'cancelled' AND NOT is_cancelled"

INDEX = """
CREATE INDEX IF NOT EXISTS tasks_unanswered ON tasks (finished_at, is_cancelled)
    WHERE error IS NOT NULL OR is_cancelled
"""


def upgrade() -> None:
    """Go forward; there is no way back.

    Each statement in a transaction of its own: nobody waits for the column's lock while all tasks are read.
    """
    with op.get_context().autocommit_block():
        for statement in (COLUMN, BEFORE, INDEX):
            op.get_bind().exec_driver_sql(statement)
