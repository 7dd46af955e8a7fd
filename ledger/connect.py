"""Connections to the ledger."""

from typing import Any

import psycopg
from psycopg.rows import TupleRow

Connection = psycopg.Connection[TupleRow]

CONNECT_TIMEOUT_S = 5


def connect(database_url: str, *, name: str) -> Connection:
    """Open a connection in autocommit mode: a statement is its own transaction unless told otherwise.

    Args:
        database_url: in libpq's form.
        name: who connects; shown by pg_stat_activity.

    Raises:
        psycopg.OperationalError: no server answers there.
    """
    return psycopg.connect(
        database_url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, application_name=f"fleet {name}"
    )


def jsonb(value: object) -> Any:  # noqa: ANN401 - psycopg's adapter type is generic over what it dumps
    """Mark a value as one that the column keeps as jsonb; None stays NULL."""
    return None if value is None else psycopg.types.json.Jsonb(value)
