"""Connections for pages that read: kept open, and unable to write."""

from psycopg_pool import ConnectionPool

from ledger.connect import CONNECT_TIMEOUT_S, NOTICE_SILENCE, Connection

READ_ONLY = "-c default_transaction_read_only=on -c statement_timeout=10s -c jit=off"
"""Whatever the role may do, nothing is written; and a page that nobody waits for any more ends."""


def reading_pool(database_url: str, *, name: str, most: int) -> ConnectionPool[Connection]:
    """Make a pool of read-only connections in autocommit mode; it connects at its first use.

    Args:
        database_url: in libpq's form; best of a role that may only read.
        name: who connects; shown by pg_stat_activity.
        most: connections at once.
    """
    return ConnectionPool(
        database_url,
        kwargs={
            "autocommit": True,
            "connect_timeout": CONNECT_TIMEOUT_S,
            **NOTICE_SILENCE,
            "application_name": f"fleet {name}",
            "options": READ_ONLY,
        },
        min_size=0,
        max_size=most,
        timeout=CONNECT_TIMEOUT_S,
        check=ConnectionPool.check_connection,  # Postgres may have been started again
        open=False,
        name=name,
    )
