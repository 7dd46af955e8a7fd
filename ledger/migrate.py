"""Bring a database to the schema that this version of the fleet speaks.

Alembic runs the migrations: it is well kept, records what has run, and takes SQL as it is. Each file in
migrations/versions is forward only.
"""

from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from ledger import partitions, pgvector
from ledger.connect import connect

CURRENT_VERSION = "SELECT version_num FROM alembic_version"
HAS_VERSION = "SELECT to_regclass('alembic_version') IS NOT NULL"


def migrate(database_url: str) -> str:
    """Run the migrations that have not run yet, and make the partitions of the next months.

    Several processes may call this at once.

    Returns:
        The schema version that the database now has.

    Raises:
        NoVectorsError: this Postgres has no pgvector; nothing was changed.
    """
    with connect(database_url, name="migrate") as db:
        pgvector.make_sure(db)
        command.upgrade(configuration(database_url), "head")
        partitions.make_ahead(db, datetime.now(UTC).date())
    return newest_version()


def newest_version() -> str:
    """Tell the schema version that this version of the fleet speaks."""
    head = ScriptDirectory.from_config(configuration("")).get_current_head()
    return head or "none"


def current_version(database_url: str) -> str | None:
    """Tell the schema version of a database; None: it has never been migrated."""
    with connect(database_url, name="migrate") as db:
        has_version = db.execute(HAS_VERSION).fetchone()
        row = db.execute(CURRENT_VERSION).fetchone() if has_version and has_version[0] else None
    return row[0] if row else None


def configuration(database_url: str) -> Config:
    config = Config(attributes={"database_url": database_url})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
