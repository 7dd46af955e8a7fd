"""A beat's rounds on a real Redis and a real Postgres, at moments that the test chooses."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copy
from threading import Thread
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from redis import Redis

from config.catalog import load_catalog
from config.settings import Settings
from ledger import deliveries, recurring, schedules, workers
from ledger.connect import Connection
from tests.workers.conftest import CATALOG
from tests.workers.made import batches_in, trim
from workers.inbox import Inbox
from workers.messages import Message, read_message
from workers.schedule import control
from workers.schedule.delivery import objection_to_list
from workers.schedule.listing import lines, remarks
from workers.schedule.postman import MOST_TRIES, Postman
from workers.schedule.rounds import Rounds

NOON = datetime(2027, 5, 3, 12, tzinfo=UTC)

HOUR = timedelta(hours=1)

SECOND = timedelta(seconds=1)

ACCEPT = """
    INSERT INTO tasks (id, state, agent, priority, needs, envelope, accepted_at)
    VALUES (%(id)s, 'held', 'schedule', 0, '{}', '{}', %(now)s)
"""

END = """
    UPDATE tasks
       SET state = %(state)s, finished_at = %(now)s, attempts = %(attempts)s, error = %(error)s::jsonb
     WHERE id = %(id)s
"""

SPEND = """
    INSERT INTO attempts (task_id, number, agent, model, tier, queue, epoch, passed_over, reserved_usd,
                          reserved_tokens, queued_at, worker, claimed_at, lease_until, finished_at, outcome,
                          prompt_tokens, completion_tokens, cost_usd, answer)
    VALUES (%(id)s, 1, 'schedule', 'toll', 'paid', 'echo.toll', 1, '[]', 1, 1, %(now)s, 'w', %(now)s, %(now)s,
            %(now)s, 'succeeded', 700, 300, %(usd)s,
            '{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}')
"""

GONE = """UPDATE attempts SET answer = '{"hashes": ["ab"], "cached": 0}'"""

OUTCOMES = "SELECT outcome, why FROM firings ORDER BY scheduled_at, worker"


class Beat:
    """A beat, and what the dispatcher and the workers do with what it sends."""

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds
        self.db = rounds.db

    def at(self, now: datetime) -> list[Message]:
        """Make a round, and accept what it sent."""
        self.rounds.make_a_round(now)
        return self.accept(now)

    def accept(self, now: datetime) -> list[Message]:
        inbox = Inbox(self.rounds.redis, "dispatch")
        messages = [read_message(raw) for batch in batches_in(inbox) for raw in batch.messages]
        for batch in batches_in(inbox):
            trim(inbox, batch)
        for message in messages:
            self.db.execute(ACCEPT, {"id": message.id, "now": now})
        return messages

    def end(self, message: Message, now: datetime, *, error: str | None = None, attempts: int = 1) -> None:
        text = json.dumps({"type": error, "text": "no", "module": "m", "args": []}) if error else None
        state = "failed" if error else "succeeded"
        ended = {"id": message.id, "state": state, "now": now, "attempts": attempts, "error": text}
        self.db.execute(END, ended)

    def spend(self, message: Message, usd: str, now: datetime) -> None:
        self.db.execute(SPEND, {"id": message.id, "usd": usd, "now": now})

    def outcomes(self) -> list[tuple[Any, ...]]:
        return self.db.execute(OUTCOMES).fetchall()

    def paused_why(self) -> str | None:
        return recurring.paused(self.db).get("job")


MakeBeat = Callable[..., Beat]


@pytest.fixture
def beat(db: Connection, redis: Redis, app: Celery, tmp_path: Path) -> MakeBeat:
    """Give a beat that has seen its one entry, `job`, a second before noon, and is hourly."""

    def make(
        entry: str = "profile: social", rhythm: str = "every: 1h", begin: datetime = NOON - SECOND
    ) -> Beat:
        for name in ("models.yaml", "profiles.yaml"):
            copy(CATALOG / name, tmp_path / name)
        (tmp_path / "schedule.yaml").write_text(f"schedule:\n  job: {{{rhythm}, {entry}}}\n")
        rounds = Rounds(db, redis, app, load_catalog(tmp_path))
        rounds.begin(begin)
        return Beat(rounds)

    return make


def test_a_run_is_an_ordinary_call_with_a_name_and_a_deadline(beat: MakeBeat):
    """What the fleet gives itself is in the books like what others give it."""
    [message] = beat("profile: social, prompt: Hello, agent: newsroom, focus: journalist").at(NOON)

    told = {"schedule": "job", "scheduled_at": NOON.isoformat()}
    assert message.kwargs == {
        "profile": "social",
        "focus": "journalist",
        "prompt": "Hello",
        "agent": "newsroom",
        "metadata": told,
    }
    assert message.expires == NOON + HOUR


def test_a_run_may_be_an_embedding(beat: MakeBeat):
    """A text that agents search for is kept where they find it; the second time it costs nothing."""
    made = beat("task: embed, prompt: What we stand for, collection: notes")
    [message] = made.at(NOON)

    assert (message.task, message.kwargs["texts"]) == ("embed", ["What we stand for"])
    assert message.kwargs["collection"] == "notes"
    (line,) = lines(made.db, made.rounds.catalog)
    assert made.rounds.catalog.models[line.model].kind == "embedding"


def test_the_first_look_makes_up_for_nothing(beat: MakeBeat):
    """A new fleet would begin with the runs of all the years before it."""
    made = beat("profile: social, catch_up: latest", begin=NOON)

    assert made.at(NOON) == []
    assert len(made.at(NOON + HOUR)) == 1


@pytest.mark.parametrize("overlap", ["skip", "queue"])
def test_a_run_whose_predecessor_has_not_ended_is_skipped_or_waits(beat: MakeBeat, overlap: str):
    """Runs that pile up while a model is away would all be paid for when it is back."""
    made = beat(f"profile: social, overlap: {overlap}")
    [first] = made.at(NOON)

    assert made.at(NOON + HOUR) == []
    assert made.at(NOON + 2 * HOUR) == []
    made.end(first, NOON + 2 * HOUR)
    later = made.at(NOON + 2 * HOUR + SECOND)

    outcomes = [outcome for outcome, _ in made.outcomes()]
    if overlap == "skip":
        assert (outcomes, later) == (["succeeded", "skipped", "skipped"], [])
    else:  # one waits, and no second one behind it
        assert outcomes == ["succeeded", None, "skipped"]
        assert [message.kwargs["metadata"]["scheduled_at"] for message in later] == [
            (NOON + HOUR).isoformat()
        ]


def test_runs_that_fail_again_and_again_pause_it_and_say_why(beat: MakeBeat):
    """A job that failed 96 times a day was paid for 96 times a day."""
    made = beat("profile: social, pause_after: 3")
    for hour in range(6):
        for message in made.at(NOON + hour * HOUR):
            made.end(message, NOON + hour * HOUR, error="AnswerRejectedError")

    assert [outcome for outcome, _ in made.outcomes()] == ["failed"] * 3
    assert "3 runs in a row failed, the last with AnswerRejectedError (`fleet explain" in str(
        made.paused_why()
    )


def test_a_success_in_between_forgets_the_failures(beat: MakeBeat):
    """A job that fails now and then is not the waste this guards against."""
    made = beat("profile: social, pause_after: 2")
    for hour, error in enumerate(["AnswerRejectedError", None] * 3):
        [message] = made.at(NOON + hour * HOUR)
        made.end(message, NOON + hour * HOUR, error=error)

    made.at(NOON + 6 * HOUR)
    assert made.paused_why() is None


def test_a_run_for_which_no_model_was_ready_is_no_failure(beat: MakeBeat):
    """A Mac that sleeps at night would pause whatever runs on it."""
    made = beat("profile: social, pause_after: 1")
    [message] = made.at(NOON)
    made.end(message, NOON + HOUR - SECOND, error="ExpiredError", attempts=0)

    assert len(made.at(NOON + HOUR)) == 1
    assert made.outcomes()[0] == ("expired", "no model was ready in time")


def test_a_paused_entry_goes_on_where_the_clock_is(beat: MakeBeat):
    """Resuming after a week must not start what was not wanted."""
    made = beat("profile: social, catch_up: latest")
    catalog = made.rounds.catalog
    control.pause(made.db, catalog, "job", "holidays")
    assert made.at(NOON) == []

    schedules.resume(made.db, "job", NOON + 10 * HOUR + SECOND)

    assert made.at(NOON + 10 * HOUR + 2 * SECOND) == []
    assert len(made.at(NOON + 11 * HOUR)) == 1


def test_what_redis_lost_is_sent_again_and_runs_once(beat: MakeBeat):
    """FLUSHALL between two ticks took the message of a run with it."""
    made = beat()
    made.rounds.make_a_round(NOON)
    made.rounds.redis.flushall()

    [message] = made.at(NOON + SECOND)

    assert made.at(NOON + 2 * SECOND) == []
    made.rounds.redis.flushall()
    assert made.at(NOON + 3 * SECOND) == []  # it is in the ledger
    assert message.kwargs["metadata"]["scheduled_at"] == NOON.isoformat()


def test_messages_that_nobody_takes_do_not_multiply(beat: MakeBeat):
    """A night without a dispatcher would leave thousands of messages of one run."""
    made = beat()
    for seconds in range(100):
        made.rounds.make_a_round(NOON + seconds * SECOND)

    assert len(made.accept(NOON + HOUR - SECOND)) == 1


def test_a_run_that_no_dispatcher_takes_ends_with_its_deadline(beat: MakeBeat):
    """It would hold up the next ones for ever."""
    made = beat()
    made.rounds.make_a_round(NOON)
    made.rounds.redis.delete("dispatch")  # lost, and nobody knows

    made.rounds.make_a_round(NOON + HOUR + timedelta(minutes=2))

    assert made.outcomes()[0] == ("expired", "no dispatcher accepted it in time")


def test_a_clock_that_jumps_ahead_and_back_stops_nothing_and_doubles_nothing(beat: MakeBeat):
    """A wrong year for a minute: the schedule must not wait for that year."""
    made = beat()
    [first] = made.at(NOON)
    made.end(first, NOON)
    [wrong] = made.at(NOON + 8760 * HOUR)
    made.end(wrong, NOON)

    ran = [made.at(NOON - SECOND), made.at(NOON), made.at(NOON + SECOND), made.at(NOON + HOUR)]

    assert [len(messages) for messages in ran] == [0, 0, 0, 1]


def test_a_changed_rhythm_begins_anew(beat: MakeBeat, tmp_path: Path):
    """Moving a job from the evening to the morning must not start it at noon."""
    made = beat("profile: social, catch_up: latest", rhythm="cron: 0 20 * * *")
    file = tmp_path / "schedule.yaml"
    file.write_text(file.read_text().replace("0 20 * * *", "0 9 * * *"))

    made.rounds.take_over(load_catalog(tmp_path), NOON)

    assert made.at(NOON) == []
    assert len(made.at(NOON.replace(hour=9) + 24 * HOUR)) == 1


def test_the_budget_of_a_day_is_what_its_runs_may_cost_together(beat: MakeBeat):
    """Each run gets what is left; when nothing is, it is skipped until the next day."""
    made = beat("profile: social, budget: {run_usd: 0.50, day_usd: 0.60}")
    bounds: list[str | None] = []
    for hour, usd in enumerate(["0.40", "0.20"]):
        [message] = made.at(NOON + hour * HOUR)
        bounds.append(message.kwargs["max_cost_usd"])
        made.spend(message, usd, NOON + hour * HOUR)
        made.end(message, NOON + hour * HOUR)

    assert bounds == ["0.5", "0.2"]
    assert made.at(NOON + 2 * HOUR) == []
    assert made.outcomes()[2] == ("skipped", "its budget of $0.60 a day is spent")
    assert len(made.at(NOON + 12 * HOUR)) == 1


def test_each_worker_with_local_models_gets_a_run_of_its_own(beat: MakeBeat):
    """With two workers on one queue, one would answer for both."""
    made = beat("profile: heartbeat, each_worker: true")
    for name, slots in (
        ("echo-1@mac", {"echo.echo": 2, "echo.parrot": 2, "echo-1@mac": 1}),
        ("echo-2@linux", {"echo.parrot": 2, "echo-2@linux": 1}),
        ("free-3@linux", {"free.openrouter": 16}),
    ):
        workers.seen(made.db, name=name, host="h", pid=1, slots=slots)

    messages = made.at(NOON)

    assert {(each.kwargs["worker"], each.kwargs["model"]) for each in messages} == {
        ("echo-1@mac", "echo"),
        ("echo-2@linux", "parrot"),
    }


def test_without_a_worker_a_heartbeat_says_so(beat: MakeBeat):
    """Nothing to ask looks like nothing wrong."""
    made = beat("profile: heartbeat, each_worker: true")

    assert made.at(NOON) == []
    assert made.outcomes() == [("skipped", "no worker with local models is there")]


@pytest.mark.parametrize(
    ("deliver", "why"),
    [
        ("webhook: 'http://127.0.0.1:9/hook'", "nobody listens at the webhook's host 127.0.0.1, port 9"),
        ("webhook: 'http://nowhere.invalid/hook'", "the webhook's host nowhere.invalid is not known"),
        ("celery_task: nobody.knows", "no Celery worker knows the task nobody.knows"),
        ("redis_list: dispatch", "the Redis list dispatch is one of the fleet's own"),
        ("redis_list: taken", "the Redis key taken is a string, not a list"),
    ],
)
def test_a_run_whose_answer_cannot_be_delivered_is_refused_before_it_costs(
    beat: MakeBeat, deliver: str, why: str
):
    """The tokens of the audit's worst job were spent before somebody looked for its target."""
    made = beat(f"profile: social, pause_after: 2, deliver: {{{deliver}}}")
    made.rounds.redis.set("taken", "by somebody")

    assert made.at(NOON) == []
    assert made.at(NOON + HOUR) == []

    assert [outcome for outcome, _ in made.outcomes()] == ["refused", "refused"]
    assert why in made.outcomes()[0][1]
    assert why in str(made.paused_why())


class Hook(BaseHTTPRequestHandler):
    """A webhook that answers as it is told and keeps what it gets."""

    answers: list[int]
    got: list[tuple[str, dict[str, Any]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.headers["Idempotency-Key"], json.loads(body)))
        self.send_response(self.answers.pop(0) if self.answers else 204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass


@pytest.fixture
def hook() -> Iterator[tuple[str, type[Hook]]]:
    handler = type("OneHook", (Hook,), {"answers": [], "got": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/secret", handler
        server.shutdown()


def deliver_after(made: Beat, settings: Settings, app: Celery, *, tries: int) -> None:
    """Let a run succeed, and make so many tries to deliver its answer."""
    [message] = made.at(NOON)
    now = schedules.now(made.db)
    made.db.execute("UPDATE tasks SET accepted_at = %s", (now,))
    made.spend(message, "0.1", now)
    made.end(message, now)
    made.rounds.make_a_round(NOON + SECOND)
    postman = Postman(settings.database_url, made.rounds.redis, app, made.rounds.catalog)
    for _ in range(tries):
        postman.deliver_all(made.db)
        made.db.execute("UPDATE firings SET deliver_at = now() WHERE delivery = 'pending'")


def test_an_answer_reaches_its_webhook_once_it_takes_it(
    beat: MakeBeat, hook: tuple[str, type[Hook]], settings: Settings, app: Celery
):
    """A webhook that is down for a minute must not lose what was paid for."""
    url, handler = hook
    handler.answers.extend([500, 302])
    made = beat(f"profile: social, deliver: {{webhook: '{url}'}}")

    deliver_after(made, settings, app, tries=3)

    assert [body["answer"]["choices"][0]["message"]["content"] for _, body in handler.got] == ["yes"] * 3
    assert {key for key, _ in handler.got} == {handler.got[0][1]["task_id"]}
    assert handler.got[0][1]["outcome"] == "succeeded"
    assert made.db.execute("SELECT delivery, delivery_tries, delivery_why FROM firings").fetchall() == [
        ("delivered", 3, None)
    ]


def test_a_delivery_that_never_succeeds_ends_and_is_shown(
    beat: MakeBeat, hook: tuple[str, type[Hook]], settings: Settings, app: Celery
):
    """Retries without an end are a load of their own; an end that nobody sees is a loss."""
    url, handler = hook
    handler.answers.extend([503] * 20)
    made = beat(f"profile: social, deliver: {{webhook: '{url}'}}")

    deliver_after(made, settings, app, tries=MOST_TRIES + 3)

    assert len(handler.got) == MOST_TRIES
    [summary] = recurring.summaries(made.db, NOON + HOUR)
    assert (summary.delivery, summary.outcome) == ("failed", "succeeded")
    assert summary.delivery_why == "the webhook answered 503"
    assert "secret" not in summary.delivery_why


def test_the_pauses_between_deliveries_grow_and_have_an_end(beat: MakeBeat, redis: Redis):
    """The second try comes soon; the last one not a day later."""
    made = beat("profile: social, deliver: {redis_list: answers}")
    [message] = made.at(NOON)
    made.end(message, NOON)
    made.rounds.make_a_round(NOON)
    now, waits = NOON, list[float]()
    for _ in range(MOST_TRIES):
        assert deliveries.take(made.db, ["job"], now, 10) is not None
        assert deliveries.take(made.db, ["job"], now, 10) is None  # somebody has it
        row = made.db.execute("SELECT deliver_at FROM firings").fetchone()
        assert row is not None
        waits.append((row[0] - now).total_seconds())
        now = row[0]

    assert waits == [10, 30, 90, 270, 810, 2430]


def delivered(redis: Redis) -> dict[str, Any]:
    """Take what was put on the list of answers."""
    raw = redis.lpop("answers")
    assert isinstance(raw, bytes)
    return json.loads(raw)


def test_a_failure_is_delivered_too(beat: MakeBeat, settings: Settings, app: Celery, redis: Redis):
    """Who waits for an answer has to hear that none comes."""
    made = beat("profile: social, deliver: {redis_list: answers}")
    [message] = made.at(NOON)
    made.end(message, schedules.now(made.db), error="NoModelError")
    made.rounds.make_a_round(NOON + SECOND)

    Postman(settings.database_url, redis, app, made.rounds.catalog).deliver_all(made.db)

    outcome = delivered(redis)
    assert (outcome["outcome"], outcome["answer"]) == ("failed", None)
    assert outcome["error"] == {"type": "NoModelError", "text": "no"}
    assert UUID(outcome["task_id"]) == message.id


def test_an_embedding_whose_vectors_are_gone_is_delivered_as_one(
    beat: MakeBeat, settings: Settings, app: Celery, redis: Redis
):
    """Whatever cannot be told any more must not end the deliveries of all others."""
    made = beat("task: embed, prompt: What we stand for, deliver: {redis_list: answers}")
    [message] = made.at(NOON)
    made.spend(message, "0", NOON)
    made.db.execute(GONE)
    made.end(message, schedules.now(made.db))
    made.rounds.make_a_round(NOON + SECOND)

    Postman(settings.database_url, redis, app, made.rounds.catalog).deliver_all(made.db)

    outcome = delivered(redis)
    assert (outcome["outcome"], outcome["answer"]) == ("succeeded", None)
    assert outcome["error"]["type"] == "TextRemovedError"


def test_a_list_that_is_not_there_yet_is_one(redis: Redis, beat: MakeBeat):
    """Redis makes lists when something is put into them."""
    assert objection_to_list(redis, "answers", beat().rounds.catalog) is None


def test_run_lets_it_run_now_whatever_the_clock_says(beat: MakeBeat, app: Celery, redis: Redis):
    """To try a job out, one does not wait for the night; nor does the night leave it out then."""
    made = beat("profile: social, enabled: false", rhythm="cron: 0 3 * * *")

    [task_id] = control.run_now(made.db, redis, app, made.rounds.catalog, "job")

    [message] = made.accept(NOON)
    assert message.id == task_id


def test_what_a_job_costs_a_month_is_forecast_from_its_runs(beat: MakeBeat):
    """133 dollars a month were found in the bill, not in the schedule."""
    made = beat("profile: scarce, model: toll")
    now = datetime.now(UTC)
    [message] = made.at(NOON)
    made.db.execute("UPDATE firings SET decided_at = %s, scheduled_at = %s", (now, now - HOUR))
    made.db.execute("UPDATE tasks SET accepted_at = %s", (now,))
    made.spend(message, "0.02", now)
    made.end(message, now)

    [line] = lines(made.db, made.rounds.catalog)

    assert line.is_measured
    assert str(line.usd_a_month) == "14.400000000"
    assert line.past is not None
    assert (line.past.tokens_24h, str(line.past.usd_24h)) == (1000, "0.020000000")
    assert list(remarks([line], made.rounds.catalog.schedule)) == [
        "job costs $14.40 a month on toll, which is paid. echo costs nothing: set `model: echo`."
    ]
