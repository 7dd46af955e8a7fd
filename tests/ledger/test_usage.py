"""Questions that are asked of a ledger with a past of months."""

from datetime import UTC, datetime
from typing import LiteralString
from uuid import UUID

import pytest

from ledger import usage
from ledger.connect import connect

BEGINNING = {"first": UUID(int=0), "last": UUID(int=1), "most": 4}


@pytest.mark.parametrize(
    ("query", "asked", "index"),
    [
        (usage.MODELS, {"since": datetime.now(UTC)}, "finished_at_idx"),
        (usage.TASKS_BETWEEN, BEGINNING, "tasks_pkey"),
        (usage.LIFE, {"id": UUID(int=0)}, "Index Cond: (task_id ="),
    ],
)
def test_a_question_does_not_read_the_whole_past(
    db_url: str, query: LiteralString, asked: dict[str, object], index: str
):
    """With millions of attempts a command would take minutes, and take them from the fleet."""
    with connect(db_url, name="test") as db:
        db.execute("SET enable_seqscan = off")
        steps = "\n".join(row[0] for row in db.execute(f"EXPLAIN {query}", asked))

    assert index in steps
    assert "Seq Scan" not in steps
