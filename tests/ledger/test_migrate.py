"""Migrations of a ledger that is used: nobody waits for long, and nothing is lost."""

import time
from collections.abc import Callable, Iterator
from threading import Event, Thread
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from ledger import health, pgvector, rollup
from ledger import migrate as module
from ledger.connect import connect
from ledger.errors import LedgerBusyError
from ledger.migrate import migrate, upgrade
from tests.conftest import database_named

FIRST = "0001"

HELD_S = 2.5
"""How long a report reads a table that a migration changes."""

LONGEST_PAUSE_S = 1.5
"""Of a writer behind a migration that waits for that report; the limit of a lock is 0.5 s."""

# What the first version writes, word for word in its columns: it goes on working while others migrate.
LEAD = "UPDATE leadership SET lease_until = clock_timestamp() + interval '5 s' RETURNING epoch"

SEEN = """
    INSERT INTO workers (name, host, pid, slots) VALUES ('old@host', 'host', 1, '{"echo.echo": 1}')
        ON CONFLICT (name) DO UPDATE SET slots = excluded.slots, seen_at = clock_timestamp()
"""

ACCEPT = """
    INSERT INTO tasks (id, state, profile, agent, priority, needs, request, envelope, attempts)
    VALUES (%(id)s, 'queued', 'social', 'old', 0, '{"prompt_tokens": 1, "max_tokens": 1}', '{}', '{}', 1)
"""

QUEUE = """
    INSERT INTO attempts (task_id, number, profile, agent, model, tier, queue, epoch, passed_over,
                          reserved_usd, reserved_tokens)
    VALUES (%(id)s, 1, 'social', 'old', 'echo', 'local', 'echo.echo', 1, '[]', 0, 2)
"""

CLAIM = """
    UPDATE attempts SET worker = 'old@host', claimed_at = clock_timestamp(),
           lease_until = clock_timestamp() + interval '30 s'
     WHERE task_id = %(id)s AND number = 1
"""

FINISH = """
    WITH finished AS (
        UPDATE attempts SET outcome = 'succeeded', finished_at = clock_timestamp(), prompt_tokens = 1,
               completion_tokens = 1, cost_usd = 0
         WHERE task_id = %(id)s AND number = 1
        RETURNING task_id
    )
    UPDATE tasks SET state = 'succeeded', finished_at = clock_timestamp()
      FROM finished WHERE tasks.id = finished.task_id
"""


class Writer(Thread):
    """Does what a fleet of the first version does, over and over, and times the longest statement."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.stopping = Event()
        self.written: list[UUID] = []
        self.longest_s = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with connect(self.url, name="old") as db:
                while not self.stopping.is_set():
                    task_id = uuid4()
                    for statement in (LEAD, SEEN, ACCEPT, QUEUE, CLAIM, FINISH):
                        began = time.monotonic()
                        db.execute(statement, {"id": task_id})
                        self.longest_s = max(self.longest_s, time.monotonic() - began)
                    self.written.append(task_id)
        except Exception as error:  # noqa: BLE001 - the test tells
            self.error = error

    def wait_for_more(self, count: int) -> None:
        enough, end = len(self.written) + count, time.monotonic() + 30
        while len(self.written) < enough and self.error is None and time.monotonic() < end:
            time.sleep(0.01)


@pytest.fixture
def empty(database_url: str) -> Iterator[str]:
    """Give a database without a ledger."""
    name = f"empty_{uuid4().hex[:8]}"
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield database_named(name, database_url)
        db.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def first(empty: str) -> str:
    """Give a ledger as the first migration made it."""
    with connect(empty, name="test") as db:
        pgvector.make_sure(db)
    upgrade(empty, FIRST)
    return empty


@pytest.fixture
def writer(first: str) -> Iterator[Writer]:
    writer = Writer(first)
    writer.start()
    writer.wait_for_more(20)
    yield writer
    writer.stopping.set()
    writer.join()


def read_at_length(url: str, seconds: float) -> Callable[[], None]:
    """Hold a table, as a report does; the result waits for its end."""
    holding = Event()

    def read() -> None:
        with connect(url, name="report") as db, db.transaction():
            db.execute("SELECT count(*) FROM workers, leadership")
            holding.set()
            time.sleep(seconds)

    reader = Thread(target=read)
    reader.start()
    holding.wait(10)
    return reader.join


def test_a_ledger_is_migrated_while_a_fleet_of_the_first_version_writes(writer: Writer, first: str):
    """From the first schema to the newest: nobody is refused, nobody waits for long, all rows are there."""
    wait_for_reader = read_at_length(first, HELD_S)

    assert migrate(first) == health.newest_schema() > FIRST
    wait_for_reader()
    writer.wait_for_more(20)
    writer.stopping.set()
    writer.join()

    assert writer.error is None
    assert writer.longest_s < LONGEST_PAUSE_S
    with connect(first, name="test") as db:
        rollup.recount(db)
        kept = {row[0] for row in db.execute("SELECT id FROM tasks WHERE state = 'succeeded'")}
        counted = db.execute("SELECT sum(attempts) FROM spend").fetchone()
        in_default = db.execute("SELECT count(*) FROM attempts_default").fetchone()
    assert kept == set(writer.written)
    assert counted == (len(writer.written),)
    assert in_default == (0,)


def test_a_migration_that_gets_no_lock_says_what_to_do_and_can_go_on(
    first: str, monkeypatch: pytest.MonkeyPatch
):
    """A report that takes the night must not take the fleet with it."""
    monkeypatch.setattr(module, "TRIES_S", 0.2)
    wait_for_reader = read_at_length(first, HELD_S)

    with pytest.raises(LedgerBusyError, match="fleet db migrate"):
        migrate(first)
    wait_for_reader()

    assert migrate(first) == health.newest_schema()


def test_a_ledger_of_a_later_version_is_left_as_it_is(db_url: str):
    """Whoever is upgraded last starts again beside those who were first."""
    with connect(db_url, name="test") as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")

        assert migrate(db_url) == "9999"
        assert health.schema(db) == "9999"
