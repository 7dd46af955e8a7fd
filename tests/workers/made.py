"""What the tests of brain and lane do again and again."""

import json
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from celery import Celery
from celery.app.task import Context
from redis import Redis

from ledger import leadership, tasks
from ledger.connect import Connection
from ledger.tasks import Fate
from workers.brain import Brain
from workers.inbox import Batch, Inbox, batch, reading, removal

LEASE_S = 60.0


def send(app: Celery, prompt: Any = "hello", **kwargs: Any) -> UUID:
    return UUID(app.send_task("complete", [prompt], {"profile": "social", **kwargs}, queue="dispatch").id)


def batches_in(inbox: Inbox) -> list[Batch]:
    """Read what has arrived, by priority, as the doorbell does."""
    found: dict[str, Any] = {name: inbox.redis.execute_command(*reading(name)) for name in inbox.lists}
    return [batch(name, messages) for name, messages in found.items() if messages]


def trim(inbox: Inbox, of: Batch) -> int:
    """Remove what was read, as the brain does once it is committed, and tell how many messages went."""
    removed: Any = inbox.redis.execute_command(*removal(of))
    return int(removed)


def tick(brain: Brain, hints: Sequence[str] = ()) -> None:
    """Let the brain do what there is to do."""
    brain.tick(hints, batches_in(brain.inbox))


def wait_for_presence(brain: Brain) -> None:
    for _ in range(500):
        brain.look_at_workers()
        if brain.vitals.slots:
            return
        time.sleep(0.01)
    pytest.fail("the lane did not show itself")


def next_request(redis: Redis, queue: str) -> Context:
    """Take a message off a lane, as Celery would."""
    raw = redis.rpop(queue)
    assert isinstance(raw, bytes), f"nothing on {queue}"
    message = json.loads(raw)
    return Context({**message["headers"], "delivery_info": message["properties"]["delivery_info"]})


def fate_of(db: Connection, task_id: UUID) -> Fate:
    return tasks.fates(db, [task_id])[0]


def next_epoch(brain: Brain) -> int:
    """Let another dispatcher take over."""
    with psycopg.connect(brain.db.info.dsn, autocommit=True) as other:
        leadership.resign(other, brain.epoch)
        epoch = leadership.take(other, "another", LEASE_S)
    assert epoch is not None
    return epoch
