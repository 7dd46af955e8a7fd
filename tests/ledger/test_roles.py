"""What Postgres lets a worker's user do, and what it does not, whatever that user sends."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from ledger import accounts, attempts, embeddings, roles, tasks, unfinished, workers
from ledger.connect import Connection, connect
from ledger.embeddings import NewVector, hash_of
from ledger.migrate import migrate
from tests.ledger.made import a_finish, a_placement, a_task

SECRET = {"messages": [{"role": "user", "content": "planted"}]}
ANSWER = {"message": {"role": "assistant", "content": "planted"}, "finish_reason": "stop"}

MADE = ("a_worker", "a_reader", "somebody")


@pytest.fixture
def users(db: Connection) -> Iterator[None]:
    """Make users with the roles, and one with a right of its own; and take all of them away again."""
    roles.make(db)
    for name, role in (("a_worker", "fleet_worker"), ("a_reader", "fleet_reader")):
        db.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE {}").format(*map(sql.Identifier, (name, role))))
    db.execute("CREATE ROLE somebody LOGIN")
    db.execute("GRANT SELECT ON tasks TO somebody")
    yield
    for name in (*MADE, "fleet_worker", "fleet_reader"):
        db.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


@pytest.fixture
def worker(users: None, db_url: str) -> Iterator[Connection]:
    with connect(db_url.replace("user=postgres", "user=a_worker"), name="test", by_key=True) as connection:
        yield connection


@pytest.fixture
def reader(users: None, db_url: str) -> Iterator[Connection]:
    with connect(db_url.replace("user=postgres", "user=a_reader"), name="test") as connection:
        yield connection


def queued(db: Connection, epoch: int) -> UUID:
    task = a_task(request=SECRET)
    tasks.accept(db, [task], epoch=epoch, placements=[a_placement(task.id)])
    return task.id


def count(db: Connection, statement: bytes) -> int:
    row = db.execute(statement).fetchone()
    return row[0] if row else -1


def test_a_worker_can_do_its_work(worker: Connection, db: Connection, epoch: int):
    """Claim, renew, end, end late, hand back; show itself, tell of an account, keep vectors."""
    first, second, third = (queued(db, epoch) for _ in range(3))
    workers.seen(worker, name="w", host="h", pid=1, slots={"echo.echo": 4})
    workers.seen(worker, name="w", host="h", pid=1, slots={"echo.echo": 4})

    claimed = attempts.claim(worker, [(first, 1), (second, 1), (third, 1)], worker="w", lease_s=30)
    attempts.renew(worker, [(first, 1)], lease_s=30)
    attempts.finish(worker, [a_finish(first, answer=ANSWER)])
    tasks.cancel(db, [second], epoch=epoch)
    called_off = attempts.called_off(worker, [(second, 1), (first, 1)])
    attempts.finish(worker, [a_finish(second, answer=ANSWER)])
    handed = unfinished.hand_back(worker, [(third, 1)], worker="w", error={"type": "x"})
    again = tasks.queue(db, [a_placement(third)], epoch=epoch)
    attempts.claim(worker, [(third, 2)], worker="w", lease_s=30)
    attempts.finish(worker, [a_finish(third, 2, outcome="failed", next_state="failed", error={"type": "x"})])
    accounts.tell(worker, provider="p", worker="w", credit_usd=None, is_free_tier=True)
    embeddings.keep(worker, "m", [NewVector(hash_of("x"), [1.0], 1)])
    workers.left(worker, "w")

    assert {claim.request["messages"][0]["content"] for claim in claimed.values()} == {"planted"}
    assert (called_off, handed, len(again)) == ([(second, 1)], {(third, 1)}, 1)
    states = dict(db.execute("SELECT id, state FROM tasks").fetchall())
    assert states == {first: "succeeded", second: "cancelled", third: "failed"}
    assert embeddings.computed(worker, "m", [hash_of("x")])
    assert count(db, b"SELECT count(*) FROM spend_changes WHERE calls > 0") > 0


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT answer FROM attempts",
        "SELECT error FROM attempts",
        "SELECT passed_over FROM attempts",
        "SELECT * FROM attempts_default",
        "UPDATE attempts SET outcome = 'failed' RETURNING answer",
        "SELECT error FROM tasks",
        "SELECT envelope FROM tasks",
        "SELECT metadata FROM tasks",
        "SELECT text FROM passages",
        "INSERT INTO tasks (id) VALUES (gen_random_uuid())",
        "UPDATE tasks SET request = '{}'",
        "UPDATE attempts SET reserved_usd = 0",
        "DELETE FROM tasks",
        "DELETE FROM attempts",
        "UPDATE leadership SET epoch = 9",
        "SELECT * FROM spend_by_hour",
        "UPDATE spend_changes SET cost_usd = 0",
        "UPDATE schedules SET failures = 0",
        "DELETE FROM firings",
        "CREATE TABLE mine ()",
        "ALTER TABLE tasks DISABLE ROW LEVEL SECURITY",
        "SET ROLE postgres",
        "COPY attempts TO STDOUT",
        "TRUNCATE tasks",
    ],
)
def test_a_worker_can_do_nothing_else(statement: str, worker: Connection, db: Connection, epoch: int):
    """Whoever has a worker's host has its password, and psql."""
    attempts.claim(db, [(queued(db, epoch), 1)], worker="w", lease_s=30)

    with pytest.raises(InsufficientPrivilege):
        worker.execute(statement.encode())


def test_a_worker_sees_the_prompts_of_open_tasks_alone(worker: Connection, db: Connection, epoch: int):
    """What has ended is the most of a ledger, and nothing that a worker has to know."""
    ended, waiting = queued(db, epoch), queued(db, epoch)
    attempts.claim(db, [(ended, 1)], worker="w", lease_s=30)
    attempts.finish(db, [a_finish(ended, answer=ANSWER)])
    db.execute("UPDATE tasks SET finished_at = now() - interval '2 s' WHERE id = %s", [ended])

    assert worker.execute("SELECT id FROM tasks WHERE request IS NOT NULL").fetchall() == [(waiting,)]
    assert worker.execute("UPDATE tasks SET state = 'held' WHERE id = %s", [ended]).rowcount == 0


def test_a_claim_still_finds_its_rows_by_key(worker: Connection, db: Connection, epoch: int):
    """A policy is one more condition; it must not make a scan of what was a look into an index."""
    task = queued(db, epoch)
    statement = b"EXPLAIN " + attempts.CLAIM.encode()
    asked = {"task_id": [task], "number": [1], "worker": "w", "lease_s": 30, "again": False}

    plan = "\n".join(row[0] for row in worker.execute(statement, {**asked, "since": attempts.EVER}))

    assert "Seq Scan on tasks" not in plan
    assert "Seq Scan on attempts" not in plan
    assert "tasks_pkey" in plan


def test_a_reader_reads_all_and_writes_nothing(reader: Connection, db: Connection, epoch: int):
    ended = queued(db, epoch)
    attempts.claim(db, [(ended, 1)], worker="w", lease_s=30)
    attempts.finish(db, [a_finish(ended, answer=ANSWER)])
    db.execute("CREATE TABLE later ()")

    assert count(reader, b"SELECT count(request) FROM tasks") == 1
    assert count(reader, b"SELECT count(answer) FROM attempts") == 1
    assert count(reader, b"SELECT count(*) FROM later") == 0
    for statement in (
        b"DELETE FROM attempts",
        b"UPDATE tasks SET state = 'held'",
        b"SELECT pg_reload_conf()",
    ):
        with pytest.raises(InsufficientPrivilege):
            reader.execute(statement)


def test_others_see_what_they_saw(users: None, db: Connection, db_url: str, epoch: int):
    """A report that reads the ledger as a user of its own must not come out empty one day."""
    queued(db, epoch)

    with connect(db_url.replace("user=postgres", "user=somebody"), name="test") as other:
        assert count(other, b"SELECT count(*) FROM tasks") == 1


def test_roles_are_made_again_without_harm_and_kept_by_a_migration(users: None, db: Connection, db_url: str):
    """A new column that a worker reads is one that its role must be given."""
    roles.make(db)
    db.execute("REVOKE INSERT ON spend_changes FROM fleet_worker")

    migrate(db_url)
    unchanged = count(db, b"SELECT has_table_privilege('fleet_worker', 'spend_changes', 'INSERT')::int")
    roles.make(db)

    assert (roles.has(db), unchanged) == (True, 0)
    assert count(db, b"SELECT has_table_privilege('fleet_worker', 'spend_changes', 'INSERT')::int") == 1


def test_a_ledger_without_the_roles_has_none(db: Connection):
    assert not roles.has(db)
