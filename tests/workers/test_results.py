"""Results that Redis never had, or lost while somebody waited."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, Event
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import Celery, states
from celery.exceptions import TimeoutError as NotYet
from redis import Redis

from config.settings import Settings, settings
from ledger import attempts, leadership, tasks
from ledger.connect import Connection
from tests.ledger.made import a_finish, a_placement, a_task
from tests.workers.made import LEASE_S
from workers import results
from workers.app import RESULT_EXPIRES_S
from workers.results import LedgerBackedRedis

WAIT_S = 30


class Counting(LedgerBackedRedis):
    """A backend that counts how often it asks the ledger."""

    asked = 0

    def metas_from_ledger(self, task_ids: Iterable[str]) -> list[dict[str, Any]] | None:
        self.asked += 1
        return super().metas_from_ledger(task_ids)


@pytest.fixture
def backend(app: Celery, settings: Settings, in_the_environment: None) -> Counting:
    return Counting(app=app, url=settings.result_url)


@pytest.fixture
def running(db: Connection, redis: Redis) -> UUID:
    """Bring a task to where a worker runs it."""
    return run_many(db, 1)[0]


def run_many(db: Connection, count: int) -> list[UUID]:
    """Bring tasks to where a worker runs them."""
    epoch = leadership.take(db, "test", LEASE_S)
    assert epoch is not None
    many = [a_task() for _ in range(count)]
    tasks.accept(db, many, epoch=epoch)
    tasks.queue(db, [a_placement(task.id) for task in many], epoch=epoch)
    attempts.claim(db, [(task.id, 1) for task in many], worker="w", lease_s=LEASE_S)
    return [task.id for task in many]


def finish(db: Connection, task_id: UUID) -> None:
    """Record an answer, as a worker does that is killed before it stores the result in Redis."""
    answer = {"message": {"role": "assistant", "content": "in the ledger"}, "finish_reason": "stop"}
    attempts.finish(db, [a_finish(task_id, answer=answer)])


def test_a_caller_that_waits_gets_what_redis_lost(
    app: Celery, backend: Counting, db: Connection, running: UUID
):
    """Its worker was killed between Postgres and Redis, or Redis was: nobody will tell it."""
    result = app.AsyncResult(str(running), backend=backend)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(result.get, timeout=WAIT_S)
        time.sleep(0.2)
        finish(db, running)
        answer = waiting.result(WAIT_S)

    assert answer["choices"][0]["message"]["content"] == "in the ledger"
    assert result.state == states.SUCCESS


def test_results_that_redis_lost_are_not_waited_for_one_by_one(
    app: Celery, backend: Counting, db: Connection, redis: Redis
):
    """An agent that gets a thousand of them, one after the other, took a second for each."""
    many = run_many(db, 20)
    for task_id in many:
        finish(db, task_id)

    began = time.monotonic()
    for task_id in many:
        app.AsyncResult(str(task_id), backend=backend).get(timeout=WAIT_S)

    assert time.monotonic() - began < results.FIRST_LOOK_S * 5


def test_a_caller_that_waits_long_looks_seldom(app: Celery, backend: Counting, running: UUID):
    """A thousand agents that wait must not keep Postgres busy with it."""
    result = app.AsyncResult(str(running), backend=backend)

    with pytest.raises(NotYet):
        result.get(timeout=results.LOOK_S * 1.5)

    assert backend.asked <= 2


def test_a_caller_that_asks_in_a_loop_does_not_open_a_connection_each_time(
    app: Celery, backend: Counting, db: Connection, running: UUID
):
    """`while not result.ready()` is what people write."""
    result = app.AsyncResult(str(running), backend=backend)
    seen = {result.state for _ in range(50)}
    finish(db, running)
    end = time.monotonic() + WAIT_S
    while not result.ready() and time.monotonic() < end:
        time.sleep(0.01)

    assert seen == {states.STARTED}, "what the ledger said counts for a while"
    assert result.state == states.SUCCESS
    assert backend.asked <= 4
    assert len(backend.heard) <= 1


def test_a_ledger_that_cannot_be_reached_is_asked_rarely(
    app: Celery, backend: Counting, monkeypatch: pytest.MonkeyPatch
):
    """An agent's host needs Redis alone."""
    monkeypatch.setenv("FLEET_DATABASE_URL", "postgresql:///nowhere?host=/nowhere")
    settings.cache_clear()
    result = app.AsyncResult(str(uuid4()), backend=backend)

    with pytest.raises(NotYet):
        result.get(timeout=results.LOOK_S * 1.5)

    assert backend.asked == 1
    assert result.state == states.PENDING


def test_a_caller_of_many_short_tasks_never_looks_in_the_ledger(app: Celery, backend: Counting, redis: Redis):
    """Once a second it opened a connection to Postgres in the middle of a call."""
    end = time.monotonic() + results.FIRST_LOOK_S * 2.5
    got = 0
    with ThreadPoolExecutor(1) as worker:
        while time.monotonic() < end:
            result = app.AsyncResult(str(uuid4()), backend=backend)
            worker.submit(answer_soon, backend, str(result.id))
            assert result.get(timeout=WAIT_S) == "soon"
            got += 1

    assert got > 5
    assert backend.asked == 0


def test_a_caller_that_waits_again_and_again_for_a_moment_gets_what_redis_lost(
    app: Celery, backend: Counting, db: Connection, running: UUID
):
    """`get(timeout=0.2)` in a loop is what people write who have other tasks under way."""
    finish(db, running)
    answer: Any = None
    tries, done = 0, Event()

    def go_on() -> None:
        while not done.is_set():
            other = app.AsyncResult(str(uuid4()), backend=backend)
            answers.submit(answer_soon, backend, str(other.id))
            other.get(timeout=WAIT_S)

    with ThreadPoolExecutor(1) as answers, ThreadPoolExecutor(1) as beside:
        going_on = beside.submit(go_on)
        while answer is None and tries < 50:
            tries += 1
            with suppress(NotYet):
                answer = app.AsyncResult(str(running), backend=backend).get(timeout=0.2)
        done.set()
        going_on.result(WAIT_S)

    assert answer is not None
    assert answer["choices"][0]["message"]["content"] == "in the ledger"
    assert tries > 1, "none of the waits was long enough to look"


def answer_soon(backend: Counting, task_id: str) -> None:
    time.sleep(0.1)
    backend.store_result(task_id, "soon", states.SUCCESS)


def test_somebody_who_waits_long_beside_many_short_waits_is_not_forgotten(
    app: Celery, backend: Counting, db: Connection, running: UUID
):
    """Threads of one caller share what waits; each short wait must not put off the look of the long one."""
    lost = app.AsyncResult(str(running), backend=backend)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(lost.get, timeout=WAIT_S)
        time.sleep(0.1)
        finish(db, running)
        while not waiting.done():
            result = app.AsyncResult(str(uuid4()), backend=backend)
            pool.submit(answer_soon, backend, str(result.id))
            result.get(timeout=WAIT_S)

    assert waiting.result()["choices"][0]["message"]["content"] == "in the ledger"


def test_a_result_that_redis_cannot_take_does_not_become_a_failure(
    app: Celery, backend: Counting, db: Connection, redis: Redis, running: UUID
):
    """Celery stored Redis's own error in its place, as soon as Redis was back: paid for, and thrown away."""
    finish(db, running)
    redis.config_set("min-replicas-to-write", 1)  # it reads, and answers every write with an error
    try:
        backend.store_result(str(running), {"choices": []}, states.SUCCESS)
    finally:
        redis.config_set("min-replicas-to-write", 0)

    result = app.AsyncResult(str(running), backend=backend)

    assert result.get(timeout=WAIT_S)["choices"][0]["message"]["content"] == "in the ledger"


def test_a_result_goes_out_at_once_after_redis_was_restarted(
    backend: Counting, redis: Redis, caplog: pytest.LogCaptureFixture
):
    """Each thread keeps its connection, and learns only by using it that it was cut."""
    first, second = str(uuid4()), str(uuid4())
    backend.store_result(first, "one", states.SUCCESS)
    cut = redis.client_kill_filter(_type="normal", skipme=True)
    backend.store_result(second, "two", states.SUCCESS)

    assert cut > 0
    assert not caplog.records, "Celery would log that it tries again, after a pause"
    assert redis.exists(*map(backend.get_key_for_task, (first, second))) == 2
    assert 0 < redis.ttl(backend.get_key_for_task(second)) <= RESULT_EXPIRES_S


def test_each_of_many_threads_has_its_result_in_redis_and_leaves_no_connection(
    backend: Counting, redis: Redis
):
    """A worker of several models has more threads than redis-py's pool has connections."""
    threads = 130
    before = len(redis.client_list())
    all_have_one = Barrier(threads, timeout=WAIT_S)

    def store(task_id: str) -> None:
        backend.store_result(task_id, "done", states.SUCCESS)
        all_have_one.wait()

    task_ids = [str(uuid4()) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as many:
        list(many.map(store, task_ids))

    assert redis.exists(*map(backend.get_key_for_task, task_ids)) == threads
    assert ended_within(lambda: len(redis.client_list()) <= before + 1, WAIT_S)


def ended_within(is_so: Callable[[], bool], limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)
    return is_so()


def test_a_caller_that_begins_to_wait_while_redis_is_away_gets_its_result(
    app: Celery, in_the_environment: None, db: Connection, running: UUID
):
    """Redis's own error looked to a caller like that of its task, which it has paid for."""
    away = LedgerBackedRedis(app=app, url="redis://127.0.0.1:1/0")
    finish(db, running)

    answer = app.AsyncResult(str(running), backend=away).get(timeout=WAIT_S)

    assert answer["choices"][0]["message"]["content"] == "in the ledger"
