"""Whether the server that keeps the ledger is fit for it."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import LiteralString, TypeVar

from psycopg.rows import class_row

from ledger.connect import Connection

Row = TypeVar("Row")

SERVER = """
    SELECT current_setting('server_version') AS version,
           current_setting('server_version_num')::int / 10000 AS major,
           current_setting('fsync')::boolean AS has_fsync,
           current_setting('full_page_writes')::boolean AS has_full_page_writes,
           current_setting('synchronous_commit') AS synchronous_commit,
           current_setting('default_transaction_read_only')::boolean OR pg_is_in_recovery() AS is_read_only,
           current_setting('max_connections')::int
               - current_setting('superuser_reserved_connections')::int AS connections,
           (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend') AS in_use
"""

CLOCK = "SELECT clock_timestamp()"

LIMIT = "SELECT set_config('statement_timeout', %(milliseconds)s, false)"

HAS_VERSION = "SELECT to_regclass('alembic_version') IS NOT NULL"

VERSION = "SELECT version_num FROM alembic_version"

LEASE = """
    SELECT epoch, holder,
           CASE WHEN isfinite(lease_until)
                THEN extract(epoch FROM lease_until - clock_timestamp())::float END AS left_s
      FROM leadership
"""

RIGHTS = """
    SELECT current_user::text AS name,
           has_table_privilege('leadership', 'UPDATE') AS may_lead,
           has_any_column_privilege('attempts', 'UPDATE')
               AND has_table_privilege('workers', 'INSERT') AS may_work,
           has_any_column_privilege('tasks', 'SELECT') AS may_read
"""

ROUND_TRIPS = 5

MIGRATIONS = Path(__file__).parent / "migrations/versions"


@dataclass(frozen=True)
class Server:
    """The settings that the ledger depends on."""

    version: str
    major: int
    has_fsync: bool
    has_full_page_writes: bool
    synchronous_commit: str
    """Of this connection, for which `connect` asks for `on`; a pooler in between may have dropped that."""
    is_read_only: bool
    connections: int
    """That everybody but a superuser can have, at once."""
    in_use: int


@dataclass(frozen=True)
class Clock:
    """The server's clock beside ours."""

    ahead_s: float
    """By how much the server's is ahead; negative: behind."""
    best_round_trip_s: float
    """So exact is the above, and so long takes the shortest statement."""


@dataclass(frozen=True)
class Lease:
    """Who leads, or led last."""

    epoch: int
    holder: str
    left_s: float | None
    """Until the lease ends; negative: since it ended. None: nobody has led yet."""


@dataclass(frozen=True)
class Rights:
    """What the user of a connection may do with the ledger."""

    name: str
    may_lead: bool
    may_work: bool
    may_read: bool


@dataclass(frozen=True)
class Encryption:
    """How a connection is protected on its way."""

    is_on: bool
    sslmode: str
    """What was asked for; only `verify-full` and `verify-ca` make sure of who answers."""


def limit(db: Connection, seconds: float) -> None:
    """Let a connection's statements take no longer."""
    db.execute(LIMIT, {"milliseconds": f"{seconds * 1000:.0f}"})


def server(db: Connection) -> Server:
    """Read the settings of the server."""
    return the_row(db, Server, SERVER)


def clock(db: Connection) -> Clock:
    """Compare clocks, in the shortest of a few round trips."""
    tries: list[tuple[float, float]] = []
    for _ in range(ROUND_TRIPS):
        began, before = time.perf_counter(), datetime.now(UTC)
        row = db.execute(CLOCK).fetchone()
        took_s = time.perf_counter() - began
        if row is not None:
            there: datetime = row[0]
            tries.append((took_s, (there - before - timedelta(seconds=took_s / 2)).total_seconds()))
    best_s, ahead_s = min(tries)
    return Clock(ahead_s, best_s)


def schema(db: Connection) -> str | None:
    """Tell the schema version of a database; None: it has never been migrated."""
    has_version = db.execute(HAS_VERSION).fetchone()
    row = db.execute(VERSION).fetchone() if has_version and has_version[0] else None
    return row[0] if row else None


def newest_schema() -> str:
    """Tell the schema version of this fleet by the names of its migrations; alembic takes a second."""
    return max(file.stem.partition("_")[0] for file in MIGRATIONS.glob("[0-9]*.py"))


def lease(db: Connection) -> Lease | None:
    """Tell who leads, or led last; None: the row is lost."""
    with db.cursor(row_factory=class_row(Lease)) as cursor:
        return cursor.execute(LEASE).fetchone()


def rights(db: Connection) -> Rights:
    """Tell what the user of this connection may do; only where there is a ledger."""
    return the_row(db, Rights, RIGHTS)


def encryption(db: Connection) -> Encryption:
    """Tell how this connection is protected, by what libpq made of the URL and of its own variables."""
    asked = {option.keyword: option.val for option in db.pgconn.info}
    return Encryption(bool(db.pgconn.ssl_in_use), (asked.get(b"sslmode") or b"prefer").decode())


def the_row(db: Connection, kind: type[Row], query: LiteralString) -> Row:
    """Ask what always has one answer."""
    with db.cursor(row_factory=class_row(kind)) as cursor:
        found = cursor.execute(query).fetchone()
    if found is None:
        message = "a SELECT without FROM gave no row"
        raise LookupError(message)
    return found
