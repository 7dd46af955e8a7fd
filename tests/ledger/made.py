"""Tasks, decisions and ends, made with what a test does not care about filled in."""

from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from ledger.attempts import Finish
from ledger.tasks import NewTask, Placement


def a_task(**fields: Any) -> NewTask:
    defaults: dict[str, Any] = {
        "id": uuid4(),
        "profile": "social",
        "focus": None,
        "model": None,
        "agent": "default",
        "priority": 0,
        "not_before": None,
        "deadline": None,
        "needs": {"prompt_tokens": 10, "max_tokens": 20},
        "request": {"messages": [{"role": "user", "content": "hello"}]},
        "envelope": {"headers": {"id": "x"}, "embed": {"chain": None}},
    }
    return NewTask(**{**defaults, **fields})


def a_placement(task_id: UUID, **fields: Any) -> Placement:
    defaults: dict[str, Any] = {
        "model": "echo",
        "tier": "local",
        "queue": "echo.echo",
        "passed_over": [["kimi", "no live worker"]],
        "reserved_usd": Decimal(0),
        "reserved_tokens": 30,
    }
    return Placement(task_id, **{**defaults, **fields})


def a_finish(task_id: UUID, number: int = 1, **fields: Any) -> Finish:
    defaults: dict[str, Any] = {
        "outcome": "succeeded",
        "next_state": "succeeded",
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "cost_usd": Decimal("0.000000001"),
    }
    return Finish(task_id, number, **{**defaults, **fields})
