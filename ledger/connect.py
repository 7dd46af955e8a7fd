"""Connections to the ledger."""

import json
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
from psycopg.rows import TupleRow
from psycopg.types.json import Json, Jsonb

Connection = psycopg.Connection[TupleRow]

CONNECT_TIMEOUT_S = 5

NOTICE_SILENCE: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""A server on another host that falls silent (a cable, a firewall) is noticed within half a minute. Linux's
own limits are two hours; systems that do not know tcp_user_timeout ignore it."""

ROWS_AT_ONCE = 1_000
"""Rows of a long answer that are in memory at once, where it is streamed."""

DURABLE = "-c synchronous_commit=on"
"""Whatever the server's default is: a commit that returned must survive a crash. Then a task leaves Redis, a
model is called, a caller is told."""

BY_KEY = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_mergejoin=off -c jit=off"
"""The same few statements run all day and find their rows by key. They are planned once, when the tables
may still be empty, and a plan for empty tables is a scan: it would be slower with every task done.

A statement that joins a table to the keys it was given also says `= ANY (keys)`: a join condition alone
lets the planner read the whole of an index that is empty today, and later all that is held or open. So
each side of a join is one batch, and a hash joins them: comparing each with each took a third of the time
of a batch of 500."""


def connect(database_url: str, *, name: str, by_key: bool = False) -> Connection:
    """Open a connection in autocommit mode: a statement is its own transaction unless told otherwise.

    Args:
        database_url: in libpq's form.
        name: who connects; shown by pg_stat_activity.
        by_key: for the statements of the hot path, which never scan a table.

    Raises:
        psycopg.OperationalError: no server answers there.
    """
    return psycopg.connect(
        database_url,
        autocommit=True,
        connect_timeout=CONNECT_TIMEOUT_S,
        **NOTICE_SILENCE,
        application_name=f"fleet {name}",
        options=f"{DURABLE} {BY_KEY}" if by_key else DURABLE,
    )


@contextmanager
def one_moment(db: Connection) -> Generator[None]:
    """Let several statements read the ledger as it is at one moment; they can write nothing.

    In an ordinary transaction each sees what was committed before it: what moves from one table to another in
    between is in both or, worse, in none.
    """
    with db.transaction():
        db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def jsonb(value: object) -> Any:  # noqa: ANN401 - psycopg's adapter type is generic over what it dumps
    """Mark a value as one that the column keeps as jsonb; None stays NULL."""
    return None if value is None else Jsonb(value)


def records(rows: Iterable[Any]) -> Json:
    """Write dataclass instances for `json_to_recordset`.

    An array for each column, for `unnest`, costs several times as much: psycopg writes those in Python.
    Not jsonb: an array of that holds 256 MB at most, and what large prompts add up to may be more.
    """
    return Json([vars(row) for row in rows], dumps=partial(json.dumps, default=str))
