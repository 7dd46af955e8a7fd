"""`fleet cancel`: take back a task that has not ended."""

import time
from dataclasses import dataclass
from uuid import UUID

from celery.result import AsyncResult
from kombu.exceptions import OperationalError
from redis import RedisError

from config.settings import Settings
from ledger import leadership, usage
from ledger.connect import Connection
from workers.errors import NotThereError
from workers.life import find_task
from workers.reading import silent

LOOK_S = 0.1
"""How often the ledger is asked what has become of it."""

OPEN = ("held", "queued", "running")

ENDED = ("succeeded", "failed", "cancelled")

AFTER = {
    "held": "cancelled; no worker had begun it",
    "queued": "cancelled; no worker had begun it",
    "running": "cancelled; the worker that runs it breaks it off, and it counts at its reserved cost",
}
"""What to say of a task that was cancelled, by the state in which it was."""


@dataclass(frozen=True)
class Cancelled:
    """What came of it."""

    task_id: UUID
    state: str
    is_cancelled: bool
    text: str


def cancel(db: Connection, settings: Settings, asked: str, timeout_s: float) -> Cancelled:
    """Ask the brain to cancel a task, as Celery's `revoke` does, and see what happens.

    Raises:
        UnknownTaskError: no task, or more than one, is meant.
        NotThereError: nobody can hear it: no dispatcher leads, or there is no Redis.
    """
    task_id = find_task(db, asked)
    state = usage.state(db, task_id) or "gone"
    if state in ENDED:
        return Cancelled(task_id, state, is_cancelled=False, text=too_late(state))
    if not leadership.current(db).is_alive:
        raise NotThereError(
            f"the task {task_id} is {state}, and no dispatcher leads that could cancel it",
            "start one with `fleet up`, then cancel it again",
        )
    revoke(settings, task_id)
    end = time.monotonic() + timeout_s
    before = state
    while state in OPEN and time.monotonic() < end:
        time.sleep(LOOK_S)
        before, state = state, usage.state(db, task_id) or "gone"
    if state == "cancelled":
        return Cancelled(task_id, state, is_cancelled=True, text=AFTER[before])
    if state in OPEN:
        text = f"it is still {state} after {timeout_s:g} s; the dispatcher did not act, see `fleet status`"
        return Cancelled(task_id, state, is_cancelled=False, text=text)
    return Cancelled(task_id, state, is_cancelled=False, text=too_late(state))


def revoke(settings: Settings, task_id: UUID) -> None:
    from workers.tasks import complete  # noqa: PLC0415 - loads the app only where there is something to say

    result: AsyncResult = complete.AsyncResult(str(task_id))
    try:
        result.revoke()
    except (OperationalError, RedisError, OSError) as error:
        raise silent("Redis", settings.redis_url, error) from error


def too_late(state: str) -> str:
    """Say why a task cannot be cancelled any more."""
    return f"it has ended already: {state}"
