"""Whether a Postgres has pgvector, which keeps and compares vectors."""

from dataclasses import dataclass

from psycopg.errors import InsufficientPrivilege
from psycopg.rows import class_row

from ledger.connect import Connection
from ledger.errors import NoVectorsError

NEEDED = (0, 7)
"""The first with halfvec."""

FACTS = """
    SELECT default_version AS available, installed_version AS installed
      FROM pg_available_extensions
     WHERE name = 'vector'
"""

CREATE = """
    SELECT pg_advisory_xact_lock(hashtext('fleet migrations')); -- the same as that of the migrations
    CREATE EXTENSION IF NOT EXISTS vector
"""


@dataclass(frozen=True)
class Pgvector:
    """The versions of pgvector, None where there is none."""

    available: str | None
    """That the server could give this database."""
    installed: str | None
    """That this database has."""

    @property
    def fault(self) -> tuple[str, str] | None:
        """Say why the ledger cannot be made with it, and what to do; None: it can."""
        if self.available is None and self.installed is None:
            what_to_do = (
                "install it on its host (Debian: `apt install postgresql-NN-pgvector`), or name another"
            )
            return "this Postgres does not have it", what_to_do
        version = self.installed or self.available or ""
        if version_of(version) < NEEDED:
            needed = ".".join(map(str, NEEDED))
            what_to_do = f"install {needed} or later, then `ALTER EXTENSION vector UPDATE` in the database"
            return f"its version {version} is too old", what_to_do
        return None


def look(db: Connection) -> Pgvector:
    """Look which versions there are."""
    with db.cursor(row_factory=class_row(Pgvector)) as cursor:
        return cursor.execute(FACTS).fetchone() or Pgvector(None, None)


def make_sure(db: Connection) -> None:
    """Let this database have pgvector.

    Raises:
        NoVectorsError: it is not there, too old, or this user may not create it.
    """
    found = look(db)
    if found.fault is not None:
        raise NoVectorsError(*found.fault)
    if found.installed is None:
        try:
            with db.transaction():
                db.execute(CREATE)
        except InsufficientPrivilege as error:
            what_to_do = "let a superuser run `CREATE EXTENSION vector` in the database, then try again"
            raise NoVectorsError("this user may not create it", what_to_do) from error


def version_of(text: str) -> tuple[int, ...]:
    """Read `0.8.1`."""
    return tuple(int(part) for part in text.split(".") if part.isdecimal())
