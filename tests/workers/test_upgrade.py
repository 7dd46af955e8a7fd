"""One version beside the next: what one writes the other reads, with fields too many or too few."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from redis import Redis

from ledger import tasks, workers
from ledger.attempts import hints
from ledger.connect import Connection
from routing.lessons import as_stored, lesson_from
from routing.task import needs_from
from tests.workers.made import fate_of, next_request, send, tick, wait_for_presence
from workers.attempt import run_attempt
from workers.brain import Brain
from workers.call import completion_text
from workers.engines.errors import RateLimitedError
from workers.lane import Lane
from workers.picture import read_away, read_slots
from workers.streaming import Heard

LATER_COLUMNS = """
    ALTER TABLE tasks ADD COLUMN later text;
    ALTER TABLE attempts ADD COLUMN later jsonb NOT NULL DEFAULT '{}';
    ALTER TABLE workers ADD COLUMN later jsonb NOT NULL DEFAULT '{}';
    ALTER TABLE leadership ADD COLUMN later bigint NOT NULL DEFAULT 0;
    ALTER TABLE spend_changes ADD COLUMN later bigint NOT NULL DEFAULT 0;
    ALTER TABLE spend_by_hour ADD COLUMN later bigint NOT NULL DEFAULT 0;
    ALTER TABLE spend_by_day ADD COLUMN later bigint NOT NULL DEFAULT 0;
    CREATE TABLE things_to_come (id integer PRIMARY KEY);
    UPDATE alembic_version SET version_num = '9999'
"""
"""What the next version's migration may do: it adds, with defaults."""

Change = Callable[[dict[str, Any]], object]


def add_top_level(message: dict[str, Any]) -> None:
    message["later"] = {"of": ["the", "next", "version"]}


def add_header(message: dict[str, Any]) -> None:
    message["headers"]["later"] = 1


def add_property(message: dict[str, Any]) -> None:
    message["properties"]["later"] = True


def leave_out_what_is_optional(message: dict[str, Any]) -> None:
    """Keep only what no message can do without."""
    message["headers"] = {name: message["headers"][name] for name in ("id", "task")}
    message["properties"] = {"body_encoding": message["properties"]["body_encoding"]}


CHANGES = [add_top_level, add_header, add_property, leave_out_what_is_optional]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_dispatcher_accepts_what_another_version_sends(
    brain: Brain, app: Celery, redis: Redis, change: Change
):
    """Callers are upgraded last, and some never."""
    task_id = send(app, "hello")
    message = json.loads(str(redis.rpop("dispatch"), "utf-8"))  # type: ignore[arg-type]
    change(message)
    redis.lpush("dispatch", json.dumps(message))

    tick(brain)

    assert task_id in brain.scheduler.backlog.tasks
    assert redis.llen("dispatch.dead") == 0


@pytest.mark.parametrize(
    "change", [add_top_level, add_header, add_property], ids=lambda change: change.__name__
)
def test_a_worker_runs_what_another_version_dispatches(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, change: Change
):
    """A dispatcher that was upgraded first has workers behind it that were not."""
    send(app, "hello")
    wait_for_presence(brain)
    tick(brain)
    message = json.loads(str(redis.rpop("echo.echo"), "utf-8"))  # type: ignore[arg-type]
    change(message)

    request = Context(
        {
            **message["headers"],
            "headers": message["headers"],
            "delivery_info": message["properties"]["delivery_info"],
        }
    )
    answer = run_attempt(request)

    assert answer["choices"][0]["message"]["content"] == "hello"


def test_a_worker_runs_a_request_with_fields_too_many_and_too_few(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """The ledger keeps what another version accepted; what came after the first version is optional."""
    task_id = send(app, "hello")
    wait_for_presence(brain)
    tick(brain)
    kept = ["messages", "max_tokens", "temperature", "top_p", "stop", "seed"]
    db.execute(
        """
        UPDATE tasks
           SET request = (SELECT jsonb_object_agg(key, value) FROM jsonb_each(request) WHERE key = ANY (%s))
                         || '{"later": [1]}',
               needs = '{"prompt_tokens": 3, "max_tokens": 5, "later": {}}'
         WHERE id = %s
        """,
        (kept, task_id),
    )

    answer = run_attempt(next_request(redis, "echo.echo"))

    assert answer["choices"][0]["message"]["content"] == "hello"


def test_a_brain_reads_what_another_version_holds(brain: Brain, app: Celery, db: Connection):
    """A task that waits for days is read by whoever leads then."""
    task_id = send(app, "hello")
    tick(brain)
    db.execute("""UPDATE tasks SET needs = '{"prompt_tokens": 3, "max_tokens": 5, "later": {}}'""")

    brain.rebuild()

    assert task_id in brain.scheduler.backlog.tasks
    assert needs_from({"prompt_tokens": 3, "max_tokens": 5}).kind == "chat"


def test_a_lesson_of_another_version_is_learnt():
    """An old worker's 429 counts, and so does one that says more."""
    lesson = RateLimitedError("m", "HTTP 429", None, "model", None).lesson
    stored = as_stored(lesson)
    needed = {name: stored[name] for name in ("cause", "scope", "again")}

    assert lesson_from({**stored, "later": 1}) == lesson
    assert lesson_from(needed) == lesson


def test_workers_of_other_versions_are_there(brain: Brain, db: Connection):
    """Each shows itself in the columns that it knows, and with queues that others may not."""
    db.execute(
        "INSERT INTO workers (name, host, pid, slots) VALUES ('old@host', 'host', 1, %s)",
        ['{"echo.echo": 3}'],
    )
    workers.seen(db, name="new@host", host="host", pid=2, slots={"echo.echo": 1, "later.queue": 9})

    assert read_slots(db) == {"echo.echo": 4, "later.queue": 9}
    assert read_away(db, read_slots(db)) == frozenset()
    assert [worker.models for worker in workers.present(db, 60)] == [{}, {}]


def test_a_reader_takes_a_stream_of_another_version():
    """Who reads an answer as it comes may be of the version before the worker's."""
    heard = Heard("task")

    text = heard.take(
        [{"attempt": "1", "at": "0", "text": "he", "later": "x"}, {"attempt": "1", "at": "2", "text": "y"}]
    )

    assert text == "hey"


def test_a_caller_reads_an_answer_that_tells_more():
    """A dict with one key more is a dict."""
    choice = {"message": {"role": "assistant", "content": "hey", "later": 1}, "finish_reason": "stop"}

    assert completion_text({"choices": [choice], "fleet": {"later": 1}, "later": 1}) == "hey"


def test_an_older_fleet_works_on_a_ledger_that_is_one_migration_ahead(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """The ledger is migrated first; until the last process is upgraded, all of them write to it."""
    db.execute(LATER_COLUMNS)
    brain.rebuild()
    task_id = send(app, "hello")
    wait_for_presence(brain)
    tick(brain)

    run_attempt(next_request(redis, "echo.echo"))
    tick(brain, hints([(task_id, 1)]))

    fate = fate_of(db, task_id)
    assert (fate.state, fate.attempts) == ("succeeded", 1)
    assert db.execute("SELECT sum(attempts) FROM spend").fetchone() == (1,)
    assert list(tasks.all_held(db)) == []
