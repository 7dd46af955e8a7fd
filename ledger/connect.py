"""Connections to the ledger."""

from typing import Any

import psycopg
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

Connection = psycopg.Connection[TupleRow]

CONNECT_TIMEOUT_S = 5

SERVER_OPTIONS = "-c plan_cache_mode=force_generic_plan -c jit=off"
"""The same few statements run all day with arrays of any length: planning them anew each time costs ten
times what running them does."""


def connect(database_url: str, *, name: str) -> Connection:
    """Open a connection in autocommit mode: a statement is its own transaction unless told otherwise.

    Args:
        database_url: in libpq's form.
        name: who connects; shown by pg_stat_activity.

    Raises:
        psycopg.OperationalError: no server answers there.
    """
    return psycopg.connect(
        database_url,
        autocommit=True,
        connect_timeout=CONNECT_TIMEOUT_S,
        application_name=f"fleet {name}",
        options=SERVER_OPTIONS,
    )


FLUSH = """
    BEGIN;
    SET LOCAL synchronous_commit = on;
    SELECT pg_current_xact_id();
    COMMIT
"""


def commit_without_waiting(db: Connection) -> None:
    """Let this connection's commits return before they are on disk; `flush` waits for all of them.

    Write-ahead log is written in order: once a later commit of anybody is on disk, these are too.
    """
    db.execute("SET synchronous_commit = off")


def flush(db: Connection) -> None:
    """Wait until all that was committed so far is on disk."""
    db.execute(FLUSH)


def jsonb(value: object) -> Any:  # noqa: ANN401 - psycopg's adapter type is generic over what it dumps
    """Mark a value as one that the column keeps as jsonb; None stays NULL."""
    return None if value is None else Jsonb(value)
