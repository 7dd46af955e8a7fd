"""Attempts that end without their worker's answer, on a real Postgres."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from ledger import attempts, leadership, tasks, unfinished
from ledger.connect import Connection, connect
from ledger.errors import NotLeadingError
from tests.ledger.made import a_finish, a_placement, a_task

LEASE_S = 60.0

RESERVED = Decimal("0.5")


def queued(db: Connection, epoch: int, **placement: Any) -> UUID:
    task = a_task()
    tasks.accept(db, [task], epoch=epoch)
    tasks.queue(db, [a_placement(task.id, **{"reserved_usd": RESERVED, **placement})], epoch=epoch)
    return task.id


def running(db: Connection, epoch: int, *, lease_s: float = -1, **placement: Any) -> UUID:
    """Bring a task to where a worker runs it, or died over it: its lease has ended unless told otherwise."""
    task_id = queued(db, epoch, **placement)
    assert attempts.claim(db, [(task_id, 1)], worker="w", lease_s=lease_s)
    return task_id


def try_again(_: unfinished.Lost) -> None:
    """Let a task be tried again, whatever happened to it."""


def row_of(db: Connection, task_id: UUID, number: int = 1) -> Any:
    return db.execute(
        "SELECT state, outcome, attempts.cost_usd, completion_tokens FROM attempts JOIN tasks ON id = task_id"
        " WHERE task_id = %s AND number = %s",
        [task_id, number],
    ).fetchone()


def test_what_a_dead_worker_ran_is_held_again_at_its_reserved_cost(db: Connection, epoch: int):
    """Nobody knows what the provider has charged by then; the books must not say less."""
    task_id = running(db, epoch)

    lost, failed = unfinished.lose(db, try_again, epoch=epoch)

    assert [(each.task_id, each.number, each.worker) for each in lost] == [(task_id, 1, "w")]
    assert failed == []
    assert row_of(db, task_id) == ("held", "lost", RESERVED, None)
    (held,) = list(tasks.all_held(db))
    assert held.tried == [["echo", "lost", None, True]], "its model has taught us nothing"
    assert held.spent_usd == RESERVED


def test_a_lost_attempt_with_an_unknown_price_does_not_count_as_free(db: Connection, epoch: int):
    """Nothing could be reserved for it, and NULL is what says so."""
    task_id = running(db, epoch, tier="paid", reserved_usd=Decimal(0))

    unfinished.lose(db, try_again, epoch=epoch)

    assert row_of(db, task_id) == ("held", "lost", None, None)


def test_a_lease_that_lasts_is_left_alone(db: Connection, epoch: int):
    """A slow worker is not a dead one."""
    alive, waiting = running(db, epoch, lease_s=LEASE_S), queued(db, epoch)

    assert unfinished.lose(db, try_again, epoch=epoch) == ([], [])
    assert row_of(db, alive)[0] == "running"
    assert row_of(db, waiting)[0] == "queued"


def test_a_lease_that_is_renewed_in_time_is_left_alone(db: Connection, epoch: int):
    """The worker slept and woke up before the sweep."""
    task_id = running(db, epoch)

    attempts.renew(db, [(task_id, 1)], lease_s=LEASE_S)

    assert unfinished.lose(db, try_again, epoch=epoch) == ([], [])


def test_a_renewal_does_not_wait_for_what_is_being_finished(db: Connection, db_url: str, epoch: int):
    """Both lock many rows, in orders of their own: they would deadlock, and stop the worker for a second."""
    ending, going_on = running(db, epoch), running(db, epoch)
    with connect(db_url, name="worker") as worker, worker.transaction():
        attempts.finish(worker, [a_finish(ending)])
        db.execute("SET lock_timeout = '200ms'")

        attempts.renew(db, [(ending, 1), (going_on, 1)], lease_s=LEASE_S)

    assert unfinished.lose(db, try_again, epoch=epoch) == ([], [])
    assert row_of(db, ending)[:2] == ("succeeded", "succeeded")


def test_an_attempt_that_is_being_finished_is_not_waited_for(db: Connection, db_url: str, epoch: int):
    """The sweep must neither block the brain nor overrule the answer that is about to be committed."""
    task_id = running(db, epoch)
    with connect(db_url, name="worker") as worker, worker.transaction():
        attempts.finish(worker, [a_finish(task_id)])

        meanwhile = unfinished.lose(db, try_again, epoch=epoch)

    assert meanwhile == ([], [])
    assert unfinished.lose(db, try_again, epoch=epoch) == ([], [])
    assert row_of(db, task_id)[:2] == ("succeeded", "succeeded")


def test_only_the_leader_sweeps(db: Connection, epoch: int):
    """A brain that was paused must not take attempts away from under another."""
    task_id = running(db, epoch)
    leadership.resign(db, epoch)
    leadership.take(db, "another", LEASE_S)

    with pytest.raises(NotLeadingError):
        unfinished.lose(db, try_again, epoch=epoch)

    assert row_of(db, task_id)[0] == "running"


def test_a_task_may_fail_instead_of_being_held(db: Connection, epoch: int):
    """What is known of its earlier losses is there to judge by."""
    task_id = running(db, epoch)
    unfinished.lose(db, try_again, epoch=epoch)
    tasks.queue(db, [a_placement(task_id)], epoch=epoch)
    attempts.claim(db, [(task_id, 2)], worker="v", lease_s=-1)
    seen: list[unfinished.Lost] = []

    def judge(lost: unfinished.Lost) -> dict[str, str]:
        seen.append(lost)
        return {"text": "enough"}

    _, failed = unfinished.lose(db, judge, epoch=epoch)

    assert [[worker for worker, _ in lost.before] for lost in seen] == [["w"]]
    assert [(task.id, error) for task, error in failed] == [(task_id, {"text": "enough"})]
    assert tasks.fates(db, [task_id])[0].error == {"text": "enough"}


def test_a_late_answer_corrects_the_cost_and_nothing_else(db: Connection, epoch: int):
    """The worker was paused beyond its lease: it has spent, but its task has gone on without it."""
    task_id = running(db, epoch)
    unfinished.lose(db, try_again, epoch=epoch)

    first = attempts.finish(db, [a_finish(task_id, cost_usd=Decimal("0.2"))])
    again = attempts.finish(db, [a_finish(task_id, cost_usd=Decimal("0.2"))])

    assert (first, again) == ({}, {}), "its caller gets the answer of another attempt"
    assert row_of(db, task_id) == ("held", "lost", Decimal("0.2"), 5)


def test_a_finish_whose_answer_was_lost_can_be_repeated(db: Connection, epoch: int):
    """The connection broke after the commit: the caller still has to get the result."""
    task_id = running(db, epoch)
    first = attempts.finish(db, [a_finish(task_id)])

    assert attempts.finish(db, [a_finish(task_id)]) == first


def test_a_claim_whose_answer_was_lost_can_be_repeated_by_its_worker(db: Connection, epoch: int):
    """Otherwise the attempt would run nowhere until its lease ends."""
    task_id = running(db, epoch, lease_s=LEASE_S)
    key = (task_id, 1)

    assert attempts.claim(db, [key], worker="other", lease_s=LEASE_S, again=True) == {}
    assert attempts.claim(db, [key], worker="w", lease_s=LEASE_S) == {}
    assert list(attempts.claim(db, [key], worker="w", lease_s=LEASE_S, again=True)) == [key]


def test_a_running_task_is_cancelled_at_its_reserved_cost(db: Connection, epoch: int):
    """Its caller hears of it at once; what it has cost is known when its worker stops, or never."""
    task_id = running(db, epoch, lease_s=LEASE_S)

    cancelled = tasks.cancel(db, [task_id], epoch=epoch)

    assert [ended.id for ended in cancelled] == [task_id]
    assert row_of(db, task_id) == ("cancelled", "cancelled", RESERVED, None)
    assert attempts.finish(db, [a_finish(task_id, cost_usd=Decimal("0.3"))]) == {}
    assert row_of(db, task_id) == ("cancelled", "cancelled", Decimal("0.3"), 5)


def test_a_worker_hands_back_what_it_runs_and_what_it_has_not_begun(db: Connection, epoch: int):
    """Its tasks go on elsewhere at once; what it had begun may have cost something."""
    begun, waiting = running(db, epoch, lease_s=LEASE_S), queued(db, epoch)
    elsewhere, ended = queued(db, epoch), running(db, epoch)
    attempts.claim(db, [(elsewhere, 1)], worker="other", lease_s=LEASE_S)
    attempts.finish(db, [a_finish(ended)])
    keys = [(task_id, 1) for task_id in (begun, waiting, elsewhere, ended)]

    from_running = unfinished.hand_back(db, keys, worker="w", error={"text": "stopped"})
    from_waiting = unfinished.hand_back(db, keys, worker=None, error={"text": "stopped"})

    assert (from_running, from_waiting) == ({(begun, 1)}, {(waiting, 1)})
    assert row_of(db, begun) == ("held", "cancelled", RESERVED, None)
    assert row_of(db, waiting) == ("held", "cancelled", Decimal(0), None)
    assert row_of(db, elsewhere)[0] == "running"
    assert row_of(db, ended)[0] == "succeeded"
    nothing_learned = [["echo", "stopped", None, False]]
    assert {row.id: row.tried for row in tasks.all_held(db)} == {
        begun: nothing_learned,
        waiting: nothing_learned,
    }
