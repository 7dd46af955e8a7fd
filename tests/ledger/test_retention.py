"""What people wrote leaves the ledger; what was counted stays. On a real Postgres."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from ledger import attempts, retention, tasks
from ledger.connect import Connection, connect
from tests.ledger.made import a_finish, a_placement, a_task

LEASE_S = 60.0
SECRET = "the name of the rose"
DAY = timedelta(days=1)


@pytest.fixture
def db(db_url: str) -> Iterator[Connection]:
    with connect(db_url, name="test", by_key=True) as connection:
        yield connection


def ended(db: Connection, epoch: int, ago: timedelta, outcome: str = "succeeded", **fields: Any) -> UUID:
    """Bring a task to its end, as if some time ago, with a secret wherever there is room for one."""
    task = a_task(
        request={"messages": [{"role": "user", "content": SECRET}]},
        envelope={"headers": {}, "embed": {"chain": [{"args": [SECRET]}]}},
        **fields,
    )
    tasks.accept(db, [task], epoch=epoch)
    tasks.queue(db, [a_placement(task.id)], epoch=epoch)
    attempts.claim(db, [(task.id, 1)], worker="w", lease_s=LEASE_S)
    error = {"type": "Bad", "module": "m", "args": [SECRET], "text": SECRET}
    end: dict[str, Any] = (
        {"error": error} if outcome == "failed" else {"answer": {"message": {"content": SECRET}}}
    )
    attempts.finish(db, [a_finish(task.id, outcome=outcome, next_state=outcome, **end)])
    db.execute("UPDATE tasks SET finished_at = finished_at - %s WHERE id = %s", [ago, task.id])
    return task.id


def in_the_ledger(db: Connection) -> str:
    found = db.execute("SELECT t::text FROM tasks t UNION ALL SELECT a::text FROM attempts a").fetchall()
    return " ".join(row[0] for row in found)


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_no_word_is_left_and_every_count_is(db: Connection, epoch: int, outcome: str):
    """A prompt may stand in a request, an answer, an error, or the chain that the caller attached."""
    task_id = ended(db, epoch, 2 * DAY, outcome)
    before = tasks.fates(db, [task_id])[0]

    removed = retention.remove_text(db, "social", DAY)
    after = tasks.fates(db, [task_id])[0]

    assert removed == 1
    assert SECRET not in in_the_ledger(db)
    assert after.is_text_removed
    assert (after.state, after.cost_usd, after.prompt_tokens) == (
        before.state,
        before.cost_usd,
        before.prompt_tokens,
    )
    assert (after.error or {}).get("type") == (before.error or {}).get("type")


def test_what_is_younger_or_another_profiles_stays(db: Connection, epoch: int):
    """Each profile has its own time, and None stands for the tasks that named no profile."""
    ended(db, epoch, DAY / 2)
    ended(db, epoch, 2 * DAY, profile="code")
    ended(db, epoch, 2 * DAY, profile=None)

    assert retention.remove_text(db, "social", DAY) == 0
    assert retention.profiles_with_text(db) == [None, "code", "social"]
    assert retention.remove_text(db, None, DAY) == 1
    assert retention.profiles_with_text(db) == ["code", "social"]


def test_a_task_that_waits_keeps_its_text(db: Connection, epoch: int):
    """However long it waits: without the prompt it could not be run."""
    task = a_task(not_before=None)
    tasks.accept(db, [task], epoch=epoch)
    db.execute("UPDATE tasks SET accepted_at = accepted_at - interval '400 days'")

    assert retention.profiles_with_text(db) == []
    assert retention.remove_text(db, "social", timedelta(0)) == 0
    assert list(tasks.all_held(db))


def test_texts_go_in_batches_the_oldest_first(db: Connection, epoch: int):
    """One big statement would hold up the fleet for as long as it takes."""
    young, old = ended(db, epoch, 2 * DAY), ended(db, epoch, 3 * DAY)

    assert retention.remove_text(db, "social", DAY, most=1) == 1
    assert [tasks.fates(db, [each])[0].is_text_removed for each in (young, old)] == [False, True]
    assert retention.remove_text(db, "social", DAY, most=1) == 1
    assert retention.remove_text(db, "social", DAY, most=1) == 0


def test_two_who_remove_do_not_wait_for_each_other(db: Connection, db_url: str, epoch: int):
    """A dispatcher that lost its lead may be in the middle of a batch."""
    ended(db, epoch, 2 * DAY)
    with connect(db_url, name="other") as other, other.transaction():
        other.execute("SELECT FROM tasks FOR UPDATE")
        db.execute("SET lock_timeout = '200ms'")

        assert retention.remove_text(db, "social", DAY) == 0
