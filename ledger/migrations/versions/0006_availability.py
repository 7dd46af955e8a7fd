"""What each worker's host says of the local models."""

from alembic import op

revision = "0006"
down_revision = "0005"

UP = """
ALTER TABLE workers ADD COLUMN models jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN workers.models IS '{local model: "ready", or why its host cannot run it and what to do}';
"""


def upgrade() -> None:
    """Go forward; there is no way back."""
    op.execute(UP)
