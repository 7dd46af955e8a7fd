"""Questions that are asked of a ledger with a past of months."""

from collections import Counter
from datetime import UTC, datetime
from typing import LiteralString
from uuid import UUID

import pytest

from ledger import attempts, tasks, usage
from ledger.connect import Connection, connect
from tests.ledger.made import a_finish, a_placement, a_task

BEGINNING = {"first": UUID(int=0), "last": UUID(int=1), "most": 4}


@pytest.mark.parametrize(
    ("query", "asked", "index"),
    [
        (usage.MODELS, {"since": datetime.now(UTC)}, "finished_at_idx"),
        (usage.TASKS_BETWEEN, BEGINNING, "tasks_pkey"),
        (usage.UNANSWERED, {"since": datetime.now(UTC), "grain": "hour"}, "tasks_unanswered"),
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


def test_tasks_without_an_answer_are_counted_however_they_ended(db: Connection, epoch: int):
    """One that was refused, or cancelled before it had a model, has no attempt that would say so."""
    began_at = datetime.now(UTC)
    answered, failed, refused, cancelled_early, cancelled_late, held = (a_task() for _ in range(6))
    with_model = (answered, failed, cancelled_late)
    tasks.accept(db, [*with_model, refused, cancelled_early, held], epoch=epoch)
    tasks.queue(db, [a_placement(task.id) for task in with_model], epoch=epoch)
    attempts.claim(db, [(task.id, 1) for task in with_model], worker="w", lease_s=60)
    error = {"type": "NoModelError", "text": "no model"}
    attempts.finish(
        db,
        [a_finish(answered.id), a_finish(failed.id, outcome="failed", next_state="failed", error=error)],
    )
    tasks.fail(db, {refused.id: error}, epoch=epoch)
    tasks.cancel(db, [cancelled_early.id, cancelled_late.id], epoch=epoch)

    counted = Counter[str]()
    for row in usage.unanswered(db, began_at, "hour"):  # maybe of two hours
        counted[row.state] += row.tasks

    assert counted == {"failed": 2, "cancelled": 2}
