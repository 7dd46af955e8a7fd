"""The months of `attempts`, on a real Postgres."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest

from ledger import attempts, leadership, partitions, tasks
from ledger.connect import Connection, connect
from tests.ledger.made import a_finish, a_placement, a_task

LEASE_S = 60.0
NEXT_YEAR = date(datetime.now(UTC).year + 1, 12, 1)


def queued(db: Connection, at: datetime) -> UUID:
    """Queue an attempt as if it were another time."""
    epoch = leadership.current(db).epoch
    task = a_task()
    tasks.accept(db, [task], epoch=epoch)
    db.execute("UPDATE tasks SET accepted_at = %s WHERE id = %s", [at, task.id])
    tasks.queue(db, [a_placement(task.id)], epoch=epoch)
    db.execute("UPDATE attempts SET queued_at = %s WHERE task_id = %s", [at, task.id])
    return task.id


def partition_of(db: Connection, task_id: UUID) -> str:
    row = db.execute("SELECT tableoid::regclass::text FROM attempts WHERE task_id = %s", [task_id]).fetchone()
    assert row is not None
    return row[0]


def test_this_month_has_its_partition(db: Connection):
    """All that falls into the default partition has to be moved out of it later."""
    now = datetime.now(UTC)

    assert partition_of(db, queued(db, now)) == f"attempts_{now:%Y_%m}"
    assert partitions.make_ahead(db, now.date())


@pytest.mark.parametrize("day", [date(2026, 11, 30), date(2026, 12, 1), date(2027, 1, 31)])
def test_the_months_to_come_follow_each_other(day: date):
    """A month that is left out at the turn of the year would be noticed in a year."""
    months = list(partitions.upcoming(day))

    assert months[0] == day.replace(day=1)
    for before, after in pairwise(months):
        assert before < after <= before + timedelta(days=31)
        assert after.day == 1


def test_a_month_without_partition_gets_one_later(db: Connection):
    """The default partition takes what has no other; that must not keep the other from being made."""
    at = datetime(NEXT_YEAR.year, 12, 31, 23, 59, tzinfo=UTC)
    early, next_month = queued(db, at), queued(db, at + timedelta(minutes=2))
    before = partition_of(db, early)
    partitions.make(db, NEXT_YEAR)
    partitions.make(db, NEXT_YEAR)

    assert before == "attempts_default"
    assert partition_of(db, early) == f"attempts_{NEXT_YEAR:%Y_%m}"
    assert partition_of(db, next_month) == "attempts_default"
    assert attempts.claim(db, [(early, 1)], worker="w", lease_s=LEASE_S)
    assert attempts.finish(db, [a_finish(early)])


def test_a_long_read_does_not_hold_up_the_fleet(db: Connection, db_url: str):
    """Whoever waits for a lock on a table makes all wait that come after him."""
    with connect(db_url, name="reader") as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM attempts")
        is_done = partitions.make_ahead(db, NEXT_YEAR)

    assert not is_done
    assert partitions.make_ahead(db, NEXT_YEAR)


def test_an_attempt_of_months_ago_is_still_found(db: Connection):
    """A worker may come back after its host was off for a quarter; its message is still in Redis."""
    long_ago = datetime.now(UTC) - timedelta(days=100)
    task_id = queued(db, long_ago)
    key = (task_id, 1)
    claims = attempts.claim(db, [key], worker="w", lease_s=LEASE_S)
    attempts.renew(db, [key], lease_s=1e6)
    lease = db.execute("SELECT lease_until FROM attempts WHERE task_id = %s", [task_id]).fetchone()
    ended = attempts.finish(db, [a_finish(task_id)])

    assert list(claims) == list(ended) == [key]
    assert lease is not None
    assert lease[0] > datetime.now(UTC) + timedelta(days=1)
    assert [each.task_id for each in attempts.finished(db, [key])] == [task_id]
    assert tasks.fates(db, [task_id])[0].model == "echo"


def test_a_clock_that_was_set_back_hides_no_attempt(db: Connection):
    """Attempts are looked for from the acceptance of their task on."""
    task = a_task()
    epoch = leadership.current(db).epoch
    tasks.accept(db, [task], epoch=epoch)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    db.execute("UPDATE tasks SET accepted_at = %s WHERE id = %s", [tomorrow, task.id])

    tasks.queue(db, [a_placement(task.id)], epoch=epoch)

    assert tasks.fates(db, [task.id])[0].model == "echo"


def test_months_that_are_over_can_be_dropped(db: Connection):
    """Attempts are removed by the month: it takes no longer for a million of them."""
    long_ago = datetime.now(UTC) - timedelta(days=200)
    epoch = leadership.current(db).epoch
    done = queued(db, long_ago)
    assert partitions.make_ahead(db, datetime.now(UTC).date())
    went_early = partitions.drop_before(db, datetime.now(UTC) - timedelta(days=400))
    while_open = partitions.drop_before(db, datetime.now(UTC) - timedelta(days=100))
    tasks.cancel(db, [done], epoch=epoch)
    dropped = partitions.drop_before(db, datetime.now(UTC) - timedelta(days=100))

    assert went_early == while_open == []
    assert dropped == [f"attempts_{long_ago:%Y_%m}"]
    assert tasks.fates(db, [done])[0].state == "cancelled"
    assert partition_of(db, queued(db, datetime.now(UTC))) == f"attempts_{datetime.now(UTC):%Y_%m}"
