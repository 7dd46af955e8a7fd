"""The rows of tasks and attempts, on a real Postgres."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest

from ledger import attempts, fold, leadership, tasks, usage
from ledger.connect import Connection, connect
from ledger.errors import NotLeadingError
from tests.ledger.made import a_finish, a_placement, a_task

LEASE_S = 60.0


def claimed(db: Connection, epoch: int) -> UUID:
    """Bring a task to the point where a worker runs it."""
    task = a_task()
    tasks.accept(db, [task], epoch=epoch)
    tasks.queue(db, [a_placement(task.id)], epoch=epoch)
    assert attempts.claim(db, [(task.id, 1)], worker="w", lease_s=LEASE_S)
    return task.id


def test_a_task_accepted_twice_is_one_row(db: Connection, epoch: int):
    """A dispatcher that died between commit and trim accepts the same messages again."""
    task = a_task()

    first = tasks.accept(db, [task], epoch=epoch)
    again = tasks.accept(db, [task, a_task()], epoch=epoch)

    assert task.id in first
    assert task.id not in again
    assert len(again) == 1


def test_a_task_walks_from_held_to_succeeded(db: Connection, epoch: int):
    """The life of a task, as DESIGN.md tells it."""
    task = a_task()
    tasks.accept(db, [task], epoch=epoch)
    held = list(tasks.all_held(db))
    queued = tasks.queue(db, [a_placement(task.id)], epoch=epoch)
    claim = attempts.claim(db, [(task.id, 1)], worker="w", lease_s=LEASE_S)[task.id, 1]
    running = tasks.fates(db, [task.id])[0].state
    attempts.finish(db, [a_finish(task.id, answer={"message": {"role": "assistant", "content": "hi"}})])
    fate = tasks.fates(db, [task.id])[0]

    assert [row.id for row in held] == [task.id]
    assert (queued[0].number, queued[0].envelope) == (1, task.envelope)
    assert claim.request == task.request
    assert running == "running"
    assert (fate.state, fate.model, fate.prompt_tokens, fate.completion_tokens) == ("succeeded", "echo", 3, 5)
    assert fate.cost_usd == Decimal("0.000000001")


def test_a_row_says_by_itself_what_it_is_of(db: Connection, epoch: int):
    """Budgets and bills are added up over attempts alone; a caller finds its tasks by its own words."""
    task = a_task(agent="clio", metadata={"ticket": 7})
    tasks.accept(db, [task], epoch=epoch)
    tasks.queue(db, [a_placement(task.id, reserved_tokens=30)], epoch=epoch)

    row = db.execute("SELECT profile, agent, reserved_tokens FROM attempts").fetchone()
    found = usage.task(db, task.id)

    assert row == (task.profile, "clio", 30)
    assert found is not None
    assert found.metadata == {"ticket": 7}


def test_an_attempt_is_claimed_once(db: Connection, epoch: int):
    """Redis may deliver a message twice; a model must be called once."""
    task_id = claimed(db, epoch)

    assert attempts.claim(db, [(task_id, 1)], worker="other", lease_s=LEASE_S) == {}


def test_an_attempt_ends_once(db: Connection, epoch: int):
    """A finish that is written twice changes nothing."""
    task_id = claimed(db, epoch)
    first = attempts.finish(db, [a_finish(task_id)])
    before = tasks.fates(db, [task_id])

    again = attempts.finish(
        db, [a_finish(task_id, outcome="failed", next_state="failed", error={"text": "late"})]
    )

    assert list(first) == [(task_id, 1)]
    assert again == {}
    assert tasks.fates(db, [task_id]) == before


def test_a_failed_attempt_sends_the_task_back_with_what_was_learned(db: Connection, epoch: int):
    """The next plan must know which model was tried and why it failed."""
    task_id = claimed(db, epoch)

    learned = {"cause": "task"}
    error = {"text": "too long", "lesson": learned}

    attempts.finish(db, [a_finish(task_id, outcome="failed", next_state="held", error=error)])

    assert tasks.held(db, [task_id])[0].tried == [["echo", "too long", learned, False]]


def test_a_second_attempt_adds_its_cost_to_the_first(db: Connection, epoch: int):
    """Spend is the sum over attempts, not the price of the last one."""
    task_id = claimed(db, epoch)
    attempts.finish(
        db, [a_finish(task_id, outcome="failed", next_state="held", error={"text": "x"}, cost_usd=Decimal(1))]
    )
    tasks.queue(db, [a_placement(task_id, model="other")], epoch=epoch)

    claim = attempts.claim(db, [(task_id, 2)], worker="w", lease_s=LEASE_S)[task_id, 2]
    attempts.finish(db, [a_finish(task_id, 2, cost_usd=Decimal(2))])

    assert claim.spent_usd == 1
    assert tasks.fates(db, [task_id])[0].cost_usd == 3


def test_an_unknown_price_is_not_free(db: Connection, epoch: int):
    """NULL in a sum disappears; a total with an unknown part is unknown."""
    task_id = claimed(db, epoch)

    attempts.finish(db, [a_finish(task_id, cost_usd=None)])

    assert tasks.fates(db, [task_id])[0].cost_usd is None


def test_only_the_leader_writes(db: Connection, epoch: int):
    """A brain that was paused and wakes up must not start a single attempt."""
    task = a_task()
    tasks.accept(db, [task], epoch=epoch)
    leadership.resign(db, epoch)
    later = leadership.take(db, "another", LEASE_S)

    with pytest.raises(NotLeadingError):
        tasks.queue(db, [a_placement(task.id)], epoch=epoch)
    with pytest.raises(NotLeadingError):
        tasks.accept(db, [a_task()], epoch=epoch)
    with pytest.raises(NotLeadingError):
        tasks.fail(db, {task.id: {"text": "x"}}, epoch=epoch)
    with pytest.raises(NotLeadingError):
        tasks.cancel(db, [task.id], epoch=epoch)

    assert later == epoch + 1
    assert [row.id for row in tasks.all_held(db)] == [task.id]


def test_nobody_takes_over_while_the_leader_commits(db: Connection, db_url: str, epoch: int):
    """Between the check and the commit another brain must not begin."""
    leadership.resign(db, epoch)
    with db.transaction():
        leadership.check(db, epoch)
        with connect(db_url, name="standby") as standby:
            standby.execute("SET lock_timeout = '200ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                leadership.take(standby, "standby", LEASE_S)


def test_a_lease_that_lasts_cannot_be_taken(db: Connection, epoch: int):
    """Two brains would place the same task twice."""
    assert leadership.take(db, "another", LEASE_S) is None
    leadership.renew(db, epoch, LEASE_S)
    assert leadership.current(db).holder == "test"


def test_a_cancelled_task_is_not_claimed(db: Connection, epoch: int):
    """Its message is still in Redis; the claim has to say no."""
    task = a_task()
    tasks.accept(db, [task], epoch=epoch)
    tasks.queue(db, [a_placement(task.id)], epoch=epoch)

    cancelled = tasks.cancel(db, [task.id], epoch=epoch)

    assert [ended.id for ended in cancelled] == [task.id]
    assert attempts.claim(db, [(task.id, 1)], worker="w", lease_s=LEASE_S) == {}
    assert fold.still_open(db) == []


def test_a_cancelled_task_is_not_queued(db: Connection, epoch: int):
    """The brain's memory may be a moment behind the ledger."""
    task = a_task()
    tasks.accept(db, [task], epoch=epoch)
    tasks.cancel(db, [task.id], epoch=epoch)

    assert tasks.queue(db, [a_placement(task.id)], epoch=epoch) == []


def test_a_finish_tells_the_brain_however_many_ended(db: Connection, db_url: str, epoch: int):
    """A notification holds 8,000 bytes; a batch may be larger."""
    new = [a_task() for _ in range(400)]
    tasks.accept(db, new, epoch=epoch)
    tasks.queue(db, [a_placement(task.id) for task in new], epoch=epoch)
    keys = [(task.id, 1) for task in new]
    attempts.claim(db, keys, worker="w", lease_s=LEASE_S)
    with connect(db_url, name="listener") as listener:
        listener.execute("LISTEN fleet")
        attempts.finish(db, [a_finish(task.id) for task in new])
        heard = [
            key
            for notice in listener.notifies(timeout=1, stop_after=3)
            for key in attempts.hinted(notice.payload)
        ]

    assert heard == keys


def test_the_schema_refuses_what_cannot_be(db: Connection, epoch: int):
    """Named constraints say the rule, also to somebody with psql."""
    task_id = claimed(db, epoch)
    with pytest.raises(psycopg.errors.CheckViolation, match="final_task_has_finished_at"):
        db.execute("UPDATE tasks SET state = 'succeeded' WHERE id = %s", [task_id])
    with pytest.raises(psycopg.errors.CheckViolation, match="finished_has_outcome"):
        db.execute("UPDATE attempts SET finished_at = now() WHERE task_id = %s", [task_id])
    with pytest.raises(psycopg.errors.CheckViolation, match="succeeded_has_tokens"):
        attempts.finish(db, [a_finish(task_id, prompt_tokens=None)])


def test_times_are_aware(db: Connection, epoch: int):
    """A naive time is an hour off twice a year."""
    task = a_task(deadline=datetime.now(UTC) + timedelta(hours=1))
    tasks.accept(db, [task], epoch=epoch)

    row = next(tasks.all_held(db))

    assert row.deadline == task.deadline
    assert row.accepted_at.tzinfo is not None
