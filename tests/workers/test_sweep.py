"""Workers that die over a task, and a brain that takes their tasks back."""

import time
from uuid import UUID

import pytest
from celery import Celery
from redis import Redis

from ledger import attempts
from ledger.attempts import Key
from ledger.connect import Connection
from tests.workers.made import fate_of, next_request, send, tick, wait_for_presence
from workers.attempt import run_attempt
from workers.brain import Brain
from workers.errors import WorkersDiedError
from workers.lane import Lane
from workers.sweep import AWAY_S, GRACE_S, Sweep


@pytest.fixture
def watchful(brain: Brain) -> Brain:
    """Make a brain that was there all the time."""
    brain.sweep.looked_at = time.time()
    brain.sweep.patient_until = 0
    return brain


def die_over(task_id: UUID, db: Connection, redis: Redis, worker: str) -> Key:
    """Claim the task's newest attempt and show no sign of life any more."""
    number = fate_of(db, task_id).attempts
    assert redis.rpop("echo.echo"), "it was published"
    assert attempts.claim(db, [(task_id, number)], worker=worker, lease_s=-1)
    return task_id, number


def look_again(brain: Brain) -> None:
    brain.polled_at = float("-inf")
    tick(brain)


def test_the_task_of_a_dead_worker_runs_again_on_the_same_model(
    watchful: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """The model has done nothing wrong; with one model there would be nobody left to ask."""
    task_id = send(app, model="echo")
    wait_for_presence(watchful)
    tick(watchful)
    lost = die_over(task_id, db, redis, "dead@host")

    look_again(watchful)
    answer = run_attempt(next_request(redis, "echo.echo"))

    assert answer["fleet"]["attempts"] == 2
    assert fate_of(db, task_id).state == "succeeded"
    assert lost not in watchful.vitals.under_way
    assert watchful.vitals.in_queue["echo.echo"] == 1, "the slot of the lost attempt is free"


def test_a_task_that_takes_its_workers_with_it_fails(
    watchful: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """Out of memory again and again: without an end to it nobody else's task would run."""
    task_id = send(app)
    wait_for_presence(watchful)
    tick(watchful)
    for worker in ("first@host", "second@host", "third@host"):
        die_over(task_id, db, redis, worker)
        look_again(watchful)

    fate = fate_of(db, task_id)
    assert (fate.state, fate.attempts) == ("failed", 3)
    with pytest.raises(WorkersDiedError, match=r"3 workers died .* first@host .* third@host"):
        app.AsyncResult(str(task_id)).get(timeout=5)
    assert redis.llen("echo.echo") == 0


def test_a_brain_that_was_away_gives_the_workers_time(db: Connection, brain: Brain):
    """Postgres was away, or the host slept: the leases ended, but the workers go on and will say so."""
    sweep = Sweep(db, brain.epoch)

    at_start = sweep.is_due(1000.0)
    during_grace = [sweep.is_due(1000.0 + second) for second in range(1, int(GRACE_S))]
    after_grace = sweep.is_due(1000.0 + GRACE_S)
    after_sleep = sweep.is_due(1000.0 + GRACE_S + AWAY_S + 1)

    assert not at_start
    assert not any(during_grace)
    assert after_grace
    assert not after_sleep


def test_a_clock_that_is_set_back_stops_no_sweep_for_long(db: Connection, brain: Brain):
    """Leases are Postgres's; the wall clock here only says when to look."""
    sweep = Sweep(db, brain.epoch)
    sweep.is_due(90_000.0)

    looks = [sweep.is_due(1000.0 + second) for second in range(int(GRACE_S) + 1)]

    assert looks[-1]
