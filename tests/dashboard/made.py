"""Tasks for the pages to show, made with what a test does not care about filled in."""

from typing import Any
from uuid import UUID

from ledger import attempts, tasks
from ledger.connect import Connection
from tests.ledger.made import a_finish, a_placement, a_task


def a_done_task(db: Connection, epoch: int, *, prompt: str, answer: str, **fields: Any) -> UUID:
    """Make a task that one attempt has answered."""
    task = a_task(request=a_request(prompt), **fields)
    tasks.accept(db, [task], epoch=epoch, placements=[a_placement(task.id)])
    attempts.claim(db, [(task.id, 1)], worker="echo@host", lease_s=60)
    attempts.finish(db, [a_finish(task.id, answer=an_answer(answer), first_token_s=0.001)])
    return task.id


def a_failed_task(db: Connection, epoch: int, *, text: str, **fields: Any) -> UUID:
    """Make a task that failed, with these words."""
    error = {"type": "EngineError", "module": "workers.engines.errors", "args": [], "text": text}
    task = a_task(**fields)
    tasks.accept(db, [task], epoch=epoch, placements=[a_placement(task.id, passed_over=[["kimi", text]])])
    attempts.claim(db, [(task.id, 1)], worker="echo@host", lease_s=60)
    attempts.finish(db, [a_finish(task.id, outcome="failed", next_state="held", error=error)])
    tasks.fail(db, {task.id: error}, epoch=epoch)
    return task.id


def a_request(prompt: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 20,
        "temperature": 0.5,
        "top_p": 1.0,
        "stop": [],
        "seed": None,
    }


def an_answer(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
