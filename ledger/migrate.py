"""Bring a database to the schema that this version of the fleet speaks.

Alembic runs the migrations: it is well kept, records what has run, and takes SQL as it is. Each file in
migrations/versions is forward only.
"""

import time
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from psycopg.errors import LockNotAvailable
from sqlalchemy.exc import OperationalError

from ledger import health, partitions, pgvector, roles
from ledger.connect import connect
from ledger.errors import LedgerBusyError

ONE_AT_A_TIME = "SELECT pg_advisory_lock(hashtext('fleet migrations'))"
"""Until the connection ends."""

TRIES_S = 60.0
"""How long a lock is tried for that somebody else holds; `migrations/env.py` says how long each time."""

PAUSE_S = 0.5
"""Between two tries the fleet's own statements come through."""


def migrate(database_url: str) -> str:
    """Run the migrations that have not run yet, and make the partitions of the next months.

    Several processes may call this at once, also while the fleet works. A ledger that a later version has
    migrated is left as it is: migrations only add.

    Returns:
        The schema version that the database now has.

    Raises:
        NoVectorsError: this Postgres has no pgvector; nothing was changed.
        LedgerBusyError: somebody holds a table for long; the migrations before that have run.
    """
    with connect(database_url, name="migrate") as db:
        pgvector.make_sure(db)
        db.execute(ONE_AT_A_TIME)
        found, newest = health.schema(db), health.newest_schema()
        if found is not None and found > newest:
            return found  # a later version of the fleet has migrated it
        upgrade(database_url)
        partitions.make_ahead(db, datetime.now(UTC).date())
        if found != newest and roles.has(db):
            roles.make(db)  # their rights name tables and columns, of which some are new
    return newest


def upgrade(database_url: str, to: str = "head") -> None:
    """Run migrations, each in a transaction of its own, until each has got its locks."""
    until = time.monotonic() + TRIES_S
    while True:
        try:
            command.upgrade(configuration(database_url), to)
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
            if time.monotonic() > until:
                raise LedgerBusyError(TRIES_S) from error
            time.sleep(PAUSE_S)
        else:
            return


def current_version(database_url: str) -> str | None:
    """Tell the schema version of a database; None: it has never been migrated."""
    with connect(database_url, name="migrate") as db:
        return health.schema(db)


def configuration(database_url: str) -> Config:
    config = Config(attributes={"database_url": database_url})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
