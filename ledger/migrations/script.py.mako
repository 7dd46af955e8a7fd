"""${message}."""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}

UP = """
"""


def upgrade() -> None:
    """Go forward; there is no way back."""
    op.get_bind().exec_driver_sql(UP)
