"""Tasks and attempts as plain rows, for whoever reads them outside of Postgres."""

from collections.abc import Generator
from datetime import datetime
from typing import Any, Literal

from psycopg.rows import dict_row

from ledger.connect import ROWS_AT_ONCE, Connection

Table = Literal["tasks", "attempts"]

TASKS = """
    SELECT id, state, profile, focus, model, agent, priority, not_before, deadline, needs, metadata, attempts,
           accepted_at, finished_at, error ->> 'type' AS error, text_removed_at,
           CASE WHEN %(with_text)s THEN error ->> 'text' END AS error_text,
           CASE WHEN %(with_text)s THEN request END AS request
      FROM tasks
     WHERE accepted_at >= %(since)s
"""

ATTEMPTS = """
    SELECT task_id, number, profile, agent, model, tier, queue, epoch, passed_over, reserved_usd,
           reserved_tokens, queued_at, worker, claimed_at, lease_until, finished_at, outcome, prompt_tokens,
           cached_tokens, completion_tokens, tokens_are_estimated, cost_usd, first_token_s,
           error ->> 'type' AS error,
           CASE WHEN %(with_text)s THEN error ->> 'text' END AS error_text,
           CASE WHEN %(with_text)s THEN answer END AS answer
      FROM attempts
     WHERE queued_at >= %(since)s
"""


def rows(db: Connection, table: Table, since: datetime, *, with_text: bool) -> Generator[dict[str, Any]]:
    """Read a table as it is at this moment, a few rows at a time, in no order.

    Args:
        db: has nothing else to do until the last row was read.
        table: which.
        since: tasks by when they were accepted, attempts by when they were queued.
        with_text: also what was asked and answered, and the words of errors.
    """
    query = TASKS if table == "tasks" else ATTEMPTS
    with db.cursor(row_factory=dict_row) as cursor:
        yield from cursor.stream(query, {"since": since, "with_text": with_text}, size=ROWS_AT_ONCE)
