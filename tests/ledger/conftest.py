"""What the tests of the ledger have in common: a connection, and the epoch of one who leads."""

from collections.abc import Iterator

import pytest

from ledger import leadership
from ledger.connect import Connection, connect

LEASE_S = 60.0


@pytest.fixture
def db(db_url: str) -> Iterator[Connection]:
    """Connect to a ledger of the test's own."""
    with connect(db_url, name="test") as connection:
        yield connection


@pytest.fixture
def epoch(db: Connection) -> int:
    """Lead."""
    taken = leadership.take(db, "test", LEASE_S)
    assert taken is not None
    return taken
