"""The sums of hours and days say what the attempts say: whatever ended, came late or was corrected."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import attempts, leadership, partitions, rollup, tasks, unfinished
from ledger.connect import Connection, connect
from tests.ledger.made import a_finish, a_placement, a_task

LEASE_S = 60.0
RESERVED = Decimal("0.5")
PAID: dict[str, Any] = {"model": "kimi", "tier": "paid", "reserved_usd": RESERVED}

TOTALS = """
    SELECT sum(attempts)::int, sum(calls)::int, sum(unpriced)::int, sum(cost_usd),
           sum(prompt_tokens)::int, sum(completion_tokens)::int, sum(budget_usd)
"""


def queued(db: Connection, epoch: int, **placement: Any) -> UUID:
    task = a_task()
    tasks.accept(db, [task], epoch=epoch)
    tasks.queue(db, [a_placement(task.id, **{**PAID, **placement})], epoch=epoch)
    return task.id


def running(db: Connection, epoch: int, **placement: Any) -> UUID:
    task_id = queued(db, epoch, **placement)
    assert attempts.claim(db, [(task_id, 1)], worker="w", lease_s=-1)
    return task_id


def lose(db: Connection, epoch: int, task_id: UUID) -> None:
    unfinished.lose(db, lambda _: None, epoch=epoch)


def finish(db: Connection, epoch: int, task_id: UUID) -> None:
    attempts.finish(db, [a_finish(task_id, cost_usd=Decimal("0.2"))])


def finish_without_price(db: Connection, epoch: int, task_id: UUID) -> None:
    attempts.finish(db, [a_finish(task_id, cost_usd=None)])


def fail(db: Connection, epoch: int, task_id: UUID) -> None:
    end = a_finish(task_id, outcome="failed", next_state="held", prompt_tokens=None, completion_tokens=None)
    attempts.finish(db, [end])


def cancel(db: Connection, epoch: int, task_id: UUID) -> None:
    tasks.cancel(db, [task_id], epoch=epoch)


def hand_back(db: Connection, epoch: int, task_id: UUID) -> None:
    unfinished.hand_back(db, [(task_id, 1)], worker="w", error={"text": "stopped"})


def fold(db: Connection, epoch: int, task_id: UUID) -> None:
    rollup.fold(db)


Step = Callable[[Connection, int, UUID], None]
STEPS: list[Step] = [lose, finish, finish_without_price, fail, cancel, hand_back, fold]


def totals(db: Connection, table: LiteralString) -> Any:
    return db.execute(f"{TOTALS} FROM {table}").fetchone()


@pytest.mark.parametrize("step", STEPS[:-1], ids=lambda step: step.__name__)
def test_whatever_ends_an_attempt_is_in_the_sums_at_once(db: Connection, epoch: int, step: Step):
    """A statement that forgets to note it would let the books say less than was spent."""
    task_id = running(db, epoch)
    before = db.execute("SELECT count(*) FROM spend").fetchone()

    step(db, epoch, task_id)

    assert before == (0,)
    assert totals(db, "spend")[:2] == (1, 1)
    assert rollup.differences(db) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives=st.lists(st.lists(st.sampled_from(STEPS), max_size=4), min_size=1, max_size=3))
def test_the_sums_equal_the_attempts_after_any_story(db: Connection, epoch: int, lives: list[list[Step]]):
    """Lost, cancelled, late, repeated, folded in between: each order has its own way to go wrong."""
    leadership.renew(db, epoch, LEASE_S)
    for steps in lives:
        task_id = running(db, epoch)
        for step in steps:
            step(db, epoch, task_id)

    assert rollup.differences(db) == []
    rollup.fold(db)
    assert rollup.differences(db) == []
    assert totals(db, "spend_by_hour") == totals(db, "spend_by_day") == totals(db, "spend")


def test_a_late_answer_corrects_the_hour_in_which_its_attempt_ended(db: Connection, epoch: int):
    """The reserved half dollar is in the sums by then; both would be too much."""
    task_id = running(db, epoch)
    lose(db, epoch, task_id)
    rollup.fold(db)
    reserved = totals(db, "spend")

    finish(db, epoch, task_id)
    finish(db, epoch, task_id)

    assert reserved == (1, 1, 0, RESERVED, 0, 0, RESERVED)
    assert totals(db, "spend") == (1, 1, 0, Decimal("0.2"), 3, 5, Decimal("0.2"))
    assert rollup.differences(db) == []


def test_an_unknown_price_is_counted_and_not_free(db: Connection, epoch: int):
    """Zero would say that nothing was spent; budgets count what was reserved."""
    finish_without_price(db, epoch, running(db, epoch))

    assert totals(db, "spend") == (1, 1, 1, Decimal(0), 3, 5, RESERVED)


def test_an_attempt_that_never_ran_is_no_call(db: Connection, epoch: int):
    """Its cost is 0 and known."""
    cancel(db, epoch, queued(db, epoch))

    assert totals(db, "spend") == (1, 0, 0, Decimal(0), 0, 0, Decimal(0))


def test_a_recount_mends_what_was_changed_by_hand(db: Connection, epoch: int):
    """Somebody with psql, or a process of an older version, writes attempts without their sums."""
    task_id = running(db, epoch)
    finish(db, epoch, task_id)
    rollup.fold(db)
    db.execute("UPDATE attempts SET cost_usd = 3 WHERE task_id = %s", [task_id])
    db.execute("UPDATE spend_by_day SET cost_usd = 7, attempts = 2")

    found = rollup.differences(db)
    mended = rollup.recount(db)

    assert mended == found
    assert [each.cost_usd for each in found] == [Decimal("2.8"), Decimal("-6.8")]
    assert rollup.differences(db) == []
    assert totals(db, "spend_by_hour")[3] == totals(db, "spend_by_day")[3] == Decimal(3)


def test_what_ends_during_a_recount_is_counted_once(db: Connection, db_url: str, epoch: int):
    """A recount runs on a live ledger and must not stop it."""
    tampered, late = running(db, epoch), running(db, epoch)
    finish(db, epoch, tampered)
    db.execute("UPDATE attempts SET cost_usd = 3 WHERE task_id = %s", [tampered])
    with connect(db_url, name="worker") as worker, worker.transaction():
        finish(worker, epoch, late)
        rollup.recount(db)

    assert rollup.differences(db) == []
    assert totals(db, "spend")[:4] == (2, 2, 0, Decimal("3.2"))


def test_the_sums_of_a_month_outlive_its_attempts(db: Connection, epoch: int):
    """Old attempts are dropped to save room; what they cost is still what was spent."""
    long_ago = datetime.now(UTC) - timedelta(days=200)
    task_id = running(db, epoch)
    db.execute("UPDATE attempts SET queued_at = %s WHERE task_id = %s", [long_ago, task_id])
    finish(db, epoch, task_id)
    finish(db, epoch, running(db, epoch))
    partitions.make_ahead(db, datetime.now(UTC).date())
    before = totals(db, "spend")
    assert partitions.drop_before(db, datetime.now(UTC) - timedelta(days=100))

    mended = rollup.recount(db)

    assert mended == []
    assert totals(db, "spend") == before
    assert before[0] == 2


def test_every_statement_that_ends_an_attempt_notes_what_it_used():
    """The next one to be written must not forget it."""
    statements = [
        text
        for module in (attempts, tasks, unfinished)
        for text in vars(module).values()
        if isinstance(text, str) and re.search(r"UPDATE attempts\s+SET[^;]*?(outcome|cost_usd) =", text)
    ]

    assert len(statements) == 5
    assert [text for text in statements if "INSERT INTO spend_changes" not in text] == []
