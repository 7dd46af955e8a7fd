"""How Alembic reaches the ledger; `ledger.migrate` hands over the URL."""

import psycopg
import sqlalchemy
from alembic import context

ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtext('fleet migrations'))"

url: str = context.config.attributes["database_url"]
engine = sqlalchemy.create_engine(
    "postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=sqlalchemy.NullPool
)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        connection.exec_driver_sql(ONE_AT_A_TIME)
        context.run_migrations()
