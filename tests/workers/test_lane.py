"""What a worker does when its answer is not wanted, when Postgres is away, and when it is told to stop."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID

import psycopg
import pytest
from celery import Celery
from celery.exceptions import Ignore, TaskRevokedError
from redis import Redis

from config.catalog import Catalog
from ledger import attempts, leadership, tasks
from ledger.connect import Connection, connect
from ledger.migrate import migrate
from tests.ledger.made import a_placement, a_task
from tests.workers.made import LEASE_S, fate_of, next_request, send, tick, wait_for_presence
from workers import embedded
from workers.attempt import claim_and_run, run_attempt
from workers.brain import Brain
from workers.engines.base import Completion, Request
from workers.engines.errors import CancelledError
from workers.gate import Gate
from workers.lane import Lane

WAIT_S = 30


class HeldEngine:
    """An engine whose answer comes when the test lets it."""

    slots = 8
    is_closed = False

    def __init__(self, *, hears: bool = True) -> None:
        self.hears = hears
        self.began = Event()
        self.may_end = Event()

    def generate(
        self, request: Request, *, on_token: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> Completion:
        self.began.set()
        while not self.may_end.wait(0.01):
            if self.hears and cancelled():
                raise CancelledError("echo")
        return Completion("held", "stop", prompt_tokens=7, completion_tokens=11, cost_usd=Decimal("0.25"))

    def close(self) -> None:
        self.may_end.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@dataclass
class Scene:
    """A brain, and a lane whose one model answers when the test lets it."""

    brain: Brain
    lane: Lane
    app: Celery
    redis: Redis
    pool: ThreadPoolExecutor

    def begin(self, engine: HeldEngine) -> tuple[UUID, Future[Any]]:
        """Send a task, and bring it to where the engine works on it."""
        self.lane.engines["echo"] = engine
        task_id = send(self.app)
        wait_for_presence(self.brain)
        tick(self.brain)
        running = self.pool.submit(run_attempt, next_request(self.redis, "echo.echo"))
        assert engine.began.wait(WAIT_S)
        return task_id, running


@pytest.fixture
def scene(brain: Brain, lane: Lane, app: Celery, redis: Redis, pool: ThreadPoolExecutor) -> Scene:
    return Scene(brain, lane, app, redis, pool)


def reserve(db: Connection, task_id: UUID, usd: float) -> None:
    db.execute("UPDATE attempts SET reserved_usd = %s WHERE task_id = %s", [usd, task_id])


def attempt_of(db: Connection, task_id: UUID) -> Any:
    return db.execute(
        "SELECT outcome, cost_usd, completion_tokens, error ->> 'type' FROM attempts"
        " WHERE task_id = %s AND number = 1",
        [task_id],
    ).fetchone()


def test_a_cancelled_task_stops_its_engine(scene: Scene, db: Connection):
    """A paid model that goes on writes what nobody reads."""
    task_id, running = scene.begin(HeldEngine())
    reserve(db, task_id, 0.5)

    scene.brain.cancel([task_id])

    with pytest.raises(Ignore):
        running.result(WAIT_S)
    with pytest.raises(TaskRevokedError):
        scene.app.AsyncResult(str(task_id)).get(timeout=WAIT_S)
    assert fate_of(db, task_id).state == "cancelled"
    assert attempt_of(db, task_id) == ("cancelled", Decimal("0.5"), None, None)
    assert scene.lane.running == {}
    assert scene.brain.vitals.under_way == {}


def test_an_engine_that_ends_after_the_cancel_tells_what_it_cost(scene: Scene, db: Connection):
    """What was spent is spent, though nobody wants the answer."""
    engine = HeldEngine(hears=False)
    task_id, running = scene.begin(engine)
    scene.brain.cancel([task_id])

    engine.may_end.set()

    with pytest.raises(Ignore):
        running.result(WAIT_S)
    assert fate_of(db, task_id).state == "cancelled"
    assert attempt_of(db, task_id) == ("cancelled", Decimal("0.25"), 11, None)


def test_a_worker_that_slept_beyond_its_lease_lets_go(scene: Scene, db: Connection):
    """Its task runs elsewhere by then; two answers are one too many."""
    task_id, running = scene.begin(HeldEngine())
    scene.brain.sweep.looked_at, scene.brain.sweep.patient_until = time.time(), 0
    for _ in range(100):  # the worker renews all the time; a moment's sleep is enough for the sweep
        db.execute("UPDATE attempts SET lease_until = now() - interval '1s' WHERE task_id = %s", [task_id])
        scene.brain.take_back()
        if attempt_of(db, task_id)[0] == "lost":
            break

    with pytest.raises(Ignore):
        running.result(WAIT_S)

    fate = fate_of(db, task_id)
    assert (fate.state, attempt_of(db, task_id)[0]) == ("held", "lost")
    assert task_id in scene.brain.scheduler.backlog.tasks


def test_a_worker_that_leaves_hands_back_what_it_has_not_begun(scene: Scene, db: Connection):
    """Otherwise the task waits until its message counts as lost."""
    task_id = send(scene.app)
    wait_for_presence(scene.brain)
    tick(scene.brain)
    request = next_request(scene.redis, "echo.echo")
    scene.lane.leave()

    with pytest.raises(Ignore):
        run_attempt(request)
    tick(scene.brain, ["", *attempts.hints([(task_id, 1)])])

    assert attempt_of(db, task_id) == ("cancelled", Decimal(0), None, "WorkerStoppedError")
    assert scene.brain.vitals.slots == {}, "it said goodbye before it handed anything back"
    assert scene.brain.scheduler.backlog.tasks[task_id].tried[0].lesson is None


def test_a_worker_that_stops_gives_what_runs_time_to_end(scene: Scene, db: Connection):
    """A restart must not pay for half an answer, and then for a whole one."""
    engine = HeldEngine()
    task_id, running = scene.begin(engine)
    draining = scene.pool.submit(scene.lane.drain, WAIT_S)
    assert scene.lane.leaving.wait(WAIT_S)

    engine.may_end.set()

    assert draining.result(WAIT_S)
    assert running.result(WAIT_S)["choices"][0]["message"]["content"] == "held"
    assert fate_of(db, task_id).state == "succeeded"


@pytest.mark.parametrize("hears", [True, False], ids=["engine stops", "engine does not stop"])
def test_what_does_not_end_in_time_is_handed_back(scene: Scene, db: Connection, hears: bool):  # noqa: FBT001 - pytest passes by name
    """The worker is killed otherwise, and its tasks wait for the end of their leases."""
    engine = HeldEngine(hears=hears)
    task_id, running = scene.begin(engine)
    reserve(db, task_id, 0.5)

    is_drained = scene.lane.drain(finish_s=0, break_off_s=WAIT_S if hears else 0.1)

    assert is_drained == hears
    assert attempt_of(db, task_id) == ("cancelled", Decimal("0.5"), None, "WorkerStoppedError")
    (held,) = tasks.held(db, [task_id])
    assert [lesson for _, _, lesson, _ in held.tried] == [None]
    engine.may_end.set()
    with pytest.raises(Ignore):
        running.result(WAIT_S)


def test_a_hurried_worker_waits_for_nothing(scene: Scene, db: Connection):
    """The second Ctrl-C."""
    task_id, _ = scene.begin(HeldEngine())
    draining = scene.pool.submit(scene.lane.drain, 10 * WAIT_S)

    scene.lane.is_hurried = True

    assert draining.result(WAIT_S)
    assert fate_of(db, task_id).state == "held"


def test_a_message_delivered_again_does_not_disturb_what_runs(scene: Scene, db: Connection):
    """Redis delivers twice now and then; the second one must neither run nor hand anything back."""
    engine = HeldEngine()
    task_id, running = scene.begin(engine)

    with pytest.raises(Ignore):
        claim_and_run(scene.lane, (task_id, 1))
    scene.lane.give_back((task_id, 1), is_begun=False)

    engine.may_end.set()
    assert running.result(WAIT_S)
    assert fate_of(db, task_id).state == "succeeded"


def test_a_gate_that_is_shut_lets_nobody_wait(pool: ThreadPoolExecutor):
    """A thread that waits for a slot would hold up the end of its worker."""
    gate = Gate(1)
    entered = gate.enter()
    waiting = pool.submit(gate.enter)

    gate.shut()

    assert (entered, waiting.result(WAIT_S)) == (True, False)


class Postgres:
    """A Postgres of the test's own, to be taken away and brought back."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = self.start()
        migrate(self.url)

    def start(self) -> str:
        return embedded.start_postgres(self.home, self.home / "s", durable=False).url

    def stop(self) -> None:
        embedded.stop_postgres(self.home, self.home / "s")


@pytest.fixture
def postgres(short_folder: Callable[[], Path]) -> Iterator[Postgres]:
    postgres = Postgres(short_folder())
    yield postgres
    postgres.stop()


def queued(url: str) -> UUID:
    with connect(url, name="test") as db:
        epoch = leadership.take(db, "test", LEASE_S) or leadership.current(db).epoch
        task = a_task(
            request={
                "messages": [{"role": "user", "content": "hello"}],
                "max_tokens": 5,
                "temperature": 0,
                "top_p": 1,
                "stop": [],
                "seed": None,
            }
        )
        tasks.accept(db, [task], epoch=epoch)
        tasks.queue(db, [a_placement(task.id)], epoch=epoch)
    return task.id


def state_of(url: str, task_id: UUID) -> str:
    with connect(url, name="test") as db:
        return tasks.fates(db, [task_id])[0].state


def test_claims_and_answers_wait_for_postgres(
    postgres: Postgres, redis_url: str, catalog: Catalog, pool: ThreadPoolExecutor
):
    """An answer that was paid for is kept until it can be written down, however often that fails."""
    first, second = queued(postgres.url), queued(postgres.url)
    lane = Lane(postgres.url, redis_url, catalog, "worker@test", {"echo.echo": 2})
    engine = HeldEngine()
    lane.engines["echo"] = engine
    finishing = pool.submit(claim_and_run, lane, (first, 1))
    assert engine.began.wait(WAIT_S)

    postgres.stop()
    engine.may_end.set()
    claiming = pool.submit(claim_and_run, lane, (second, 1))
    time.sleep(1)
    were_done = (finishing.done(), claiming.done())
    postgres.start()
    answers = [each.result(WAIT_S) for each in (finishing, claiming)]
    lane.close()

    assert were_done == (False, False)
    assert [answer["id"] for answer in answers] == [f"chatcmpl-{first}", f"chatcmpl-{second}"]
    assert [state_of(postgres.url, task_id) for task_id in (first, second)] == ["succeeded", "succeeded"]


def test_a_worker_that_stops_does_not_wait_for_postgres_for_ever(
    postgres: Postgres, redis_url: str, catalog: Catalog, pool: ThreadPoolExecutor
):
    """The host is going down, and Postgres went first."""
    first, second = queued(postgres.url), queued(postgres.url)
    lane = Lane(postgres.url, redis_url, catalog, "worker@test", {"echo.echo": 2})
    engine = HeldEngine()
    lane.engines["echo"] = engine
    finishing = pool.submit(claim_and_run, lane, (first, 1))
    assert engine.began.wait(WAIT_S)
    postgres.stop()
    engine.may_end.set()
    claiming = pool.submit(claim_and_run, lane, (second, 1))

    lane.drain(finish_s=0.5, break_off_s=0.5)

    for each in (finishing, claiming):
        with pytest.raises(Ignore):
            each.result(WAIT_S)
    lane.close()
    with pytest.raises(psycopg.OperationalError):
        lane.ends_db.get()
