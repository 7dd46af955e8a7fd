"""One brain at a time, also when it stops at the worst moment."""

from collections.abc import Iterator

import pytest
from psycopg.errors import IdleInTransactionSessionTimeout

from ledger import leadership
from ledger.connect import Connection, connect

LEASE_S = 60


@pytest.fixture
def asleep(db_url: str) -> Iterator[Connection]:
    """Connect as a brain that was stopped; in the end it has lost its connection."""
    with connect(db_url, name="asleep") as db:
        yield db


@pytest.fixture
def standby(db_url: str) -> Iterator[Connection]:
    with connect(db_url, name="standby") as db:
        yield db


def test_a_brain_that_stands_still_in_a_transaction_does_not_keep_the_others_waiting(
    asleep: Connection, standby: Connection
):
    """Its host sleeps, or its network is gone: without a limit nobody would lead until it is back."""
    epoch = leadership.take(asleep, "asleep", 0)
    assert epoch is not None
    asleep.execute("BEGIN")
    leadership.check(asleep, epoch)

    taken = leadership.take(standby, "standby", LEASE_S)

    assert taken == epoch + 1
    with pytest.raises(IdleInTransactionSessionTimeout):
        asleep.execute("COMMIT")
