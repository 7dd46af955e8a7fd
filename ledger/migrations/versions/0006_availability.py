"""What each worker says of itself: what its host can run, and the memory it has."""

from alembic import op

revision = "0006"
down_revision = "0005"

UP = """
ALTER TABLE workers ADD COLUMN models jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN workers.models IS '{local model: "ready", or why its host cannot run it and what to do}';
ALTER TABLE workers ADD COLUMN memory_bytes bigint;
COMMENT ON COLUMN workers.memory_bytes IS 'of its process, models included; NULL: it has not said so';
"""


def upgrade() -> None:
    """Go forward; there is no way back."""
    op.execute(UP)
