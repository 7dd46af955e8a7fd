"""How Alembic reaches the ledger; `ledger.migrate` hands over the URL."""

import psycopg
import sqlalchemy
from alembic import context

GIVE_UP = "-c lock_timeout=500ms"
"""The whole fleet waits behind whoever waits for a table, and `ledger.migrate` tries again.

Shorter than `deadlock_timeout`: in a deadlock it must be the migration that gives up.
"""

url: str = context.config.attributes["database_url"]
engine = sqlalchemy.create_engine(
    "postgresql+psycopg://",
    creator=lambda: psycopg.connect(url, options=GIVE_UP),
    poolclass=sqlalchemy.NullPool,
)
with engine.connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
