"""What providers say is left of our accounts."""

from alembic import op

revision = "0002"
down_revision = "0001"

UP = """
CREATE TABLE accounts (
    provider     text PRIMARY KEY,
    worker       text NOT NULL,
    credit_usd   numeric(18,9),
    is_free_tier boolean,
    asked_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN accounts.credit_usd IS 'NULL: no bound, or the provider does not tell';
"""


def upgrade() -> None:
    """Go forward; there is no way back."""
    op.get_bind().exec_driver_sql(UP)
