"""The brain's tick and the lane's run, in one process, on a real Redis and a real Postgres."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Ignore
from redis import Redis

from config.budgets import Budget
from config.settings import DEFAULT_MAX_PAYLOAD_BYTES
from ledger import attempts, tasks, usage
from ledger.connect import Connection
from ledger.errors import NotLeadingError
from routing.plan import Wait
from tests.routing.made import a_task
from tests.workers.made import fate_of, next_epoch, next_request, send, tick, wait_for_presence
from workers import intake, picture
from workers.attempt import run_attempt
from workers.brain import POLL_S, Brain
from workers.engines.base import Completion, Request
from workers.engines.errors import BadRequestError, EngineError, ModelGoneError, RateLimitedError
from workers.lane import Lane


def test_a_task_walks_through_brain_and_lane(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """The whole path, step by step, with nothing left in Redis that Postgres does not have."""
    task_id = send(app)
    wait_for_presence(brain)

    tick(brain)
    left_in_redis = redis.llen("dispatch")
    answer = run_attempt(next_request(redis, "echo.echo"))

    assert left_in_redis == 0
    assert answer["choices"][0]["message"]["content"] == "hello"
    assert fate_of(db, task_id).state == "succeeded"


def test_a_failed_model_sends_the_task_to_the_next_one(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """No engine for that model on this host: the next candidate answers, and the books tell of both."""
    task_id = send(app, model="absent")
    wait_for_presence(brain)
    tick(brain)
    with pytest.raises(Ignore):
        run_attempt(next_request(redis, "mlx.absent"))
    after_failure = fate_of(db, task_id)

    tick(brain, attempts.hints([(task_id, 1)]))
    answer = run_attempt(next_request(redis, "echo.parrot"))

    assert after_failure.state == "held"
    assert answer["fleet"]["attempts"] == 2
    passed_over = db.execute(
        "SELECT passed_over FROM attempts WHERE task_id = %s AND number = 2", [task_id]
    ).fetchone()
    assert passed_over is not None
    assert passed_over[0][0][0] == "absent"
    assert "MLX needs a Mac" in passed_over[0][0][1]


def test_a_request_that_no_model_can_answer_is_not_shopped_around(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """A malformed request fails once; trying it on every model would be paid for every time."""
    sound = {
        "role": "user",
        "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}],
    }
    result = app.send_task("complete", [], {"messages": [sound], "profile": "social"}, queue="dispatch")
    wait_for_presence(brain)
    tick(brain)

    with pytest.raises(BadRequestError):
        run_attempt(next_request(redis, "echo.echo"))

    assert fate_of(db, UUID(result.id)).state == "failed"


def test_a_message_delivered_twice_runs_once(brain: Brain, lane: Lane, app: Celery, redis: Redis):
    """The claim, not Celery's ack, is the acknowledgement."""
    send(app)
    wait_for_presence(brain)
    tick(brain)
    request = next_request(redis, "echo.echo")
    run_attempt(request)

    with pytest.raises(Ignore):
        run_attempt(request)


def test_a_task_sent_past_the_dispatcher_is_not_run(lane: Lane):
    """Without a row there is no attempt, no cost, no trace."""
    request = Context({"id": str(uuid4()), "delivery_info": {"routing_key": "echo.echo"}})

    with pytest.raises(Ignore):
        run_attempt(request)


def test_a_new_brain_takes_up_where_the_old_one_was_killed(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """Killed between commit and publish: the message was never sent, the row says so."""
    held = send(app, profile="slow")
    queued = send(app)
    wait_for_presence(brain)
    tick(brain)
    redis.delete("echo.echo")
    successor = replace(brain, epoch=next_epoch(brain))

    successor.rebuild()

    assert held in successor.scheduler.backlog.tasks
    assert list(successor.vitals.under_way) == [(queued, 1)]
    assert run_attempt(next_request(redis, "echo.echo"))["id"] == f"chatcmpl-{queued}"


def why_the_last_one_waits(brain: Brain) -> str:
    """Say what keeps the only task that waits from its first candidate."""
    (waiting,) = brain.scheduler.backlog.tasks.values()
    decision = brain.scheduler.decide(waiting, datetime.now(UTC))
    assert isinstance(decision, Wait)
    return decision.passed_over[0][1].why


def test_a_limit_holds_across_a_restart_of_the_dispatcher(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """What was called a moment ago is in the ledger, not in a memory that a restart empties."""
    for _ in range(4):
        send(app, profile="scarce", patience=600)
    wait_for_presence(brain)
    tick(brain)
    run_attempt(next_request(redis, "echo.scarce"))
    successor = replace(brain, epoch=next_epoch(brain))

    successor.rebuild()
    tick(successor)

    assert redis.llen("echo.toll") == 0
    assert why_the_last_one_waits(successor) == "model scarce allows 3 requests a minute"


def test_a_call_that_ends_while_a_new_brain_reads_the_past_counts_for_its_limit(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, monkeypatch: pytest.MonkeyPatch
):
    """It was neither among the calls of the last minute yet, nor among those under way any more."""
    for _ in range(4):
        send(app, profile="scarce", patience=600)
    wait_for_presence(brain)
    tick(brain)
    read_limits = picture.read_limits

    def read_limits_then_end_a_call(*given: Any) -> None:
        read_limits(*given)
        run_attempt(next_request(redis, "echo.scarce"))

    monkeypatch.setattr(picture, "read_limits", read_limits_then_end_a_call)
    successor = replace(brain, epoch=next_epoch(brain))

    successor.rebuild()
    tick(successor)

    assert why_the_last_one_waits(successor) == "model scarce allows 3 requests a minute"


def test_a_brain_that_was_paused_writes_nothing(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """Two brains would place one task twice."""
    wait_for_presence(brain)
    next_epoch(brain)
    task_id = send(app)

    with pytest.raises(NotLeadingError):
        tick(brain)

    assert tasks.fates(db, [task_id]) == []
    assert redis.llen("dispatch") == 1, "the message is still there for the brain that leads"


def test_flushing_redis_loses_no_accepted_task(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """Postgres is the truth; what was on its way to a lane is published again by the next rebuild."""
    task_id = send(app)
    wait_for_presence(brain)
    tick(brain)
    redis.flushall()

    brain.rebuild()
    run_attempt(next_request(redis, "echo.echo"))

    assert fate_of(db, task_id).state == "succeeded"


def test_a_lost_message_is_published_again_while_slots_are_free(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """A worker that is killed takes the messages with it that it had received and not yet claimed."""
    task_id = send(app)
    wait_for_presence(brain)
    tick(brain)
    redis.delete("echo.echo")
    brain.polled_at = brain.swept_at = float("-inf")
    tick(brain)
    too_early = redis.llen("echo.echo")
    db.execute(
        "UPDATE attempts SET queued_at = queued_at - interval '1 minute' WHERE task_id = %s", [task_id]
    )
    brain.polled_at = brain.swept_at = float("-inf")

    tick(brain)

    assert too_early == 0
    assert run_attempt(next_request(redis, "echo.echo"))["id"] == f"chatcmpl-{task_id}"


def test_what_lies_on_a_queue_that_nobody_serves_any_more_goes_elsewhere(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """The Mac fell asleep between the placement and the claim: the task must not sleep with it."""
    task_id = send(app)
    wait_for_presence(brain)
    tick(brain)
    db.execute("UPDATE tasks SET accepted_at = accepted_at - interval '1 minute' WHERE id = %s", [task_id])
    db.execute(
        "UPDATE attempts SET queued_at = queued_at - interval '1 minute' WHERE task_id = %s", [task_id]
    )
    lane.alive.slots = {"echo.parrot": 2}
    lane.alive.wake.set()
    for _ in range(500):
        brain.polled_at = brain.swept_at = float("-inf")
        tick(brain)
        if redis.llen("echo.parrot"):
            break
        time.sleep(0.01)

    assert run_attempt(next_request(redis, "echo.parrot"))["fleet"]["attempts"] == 2
    assert usage.life(db, task_id)[0].outcome == "cancelled"
    with pytest.raises(Ignore):
        run_attempt(next_request(redis, "echo.echo"))


def test_a_task_of_another_catalog_does_not_stop_the_brain(brain: Brain, app: Celery, db: Connection):
    """Its profile is gone since a restart: it fails with a reason, the others go on."""
    task_id = send(app, profile="slow")
    tick(brain)
    profiles = {name: profile for name, profile in brain.catalog.profiles.items() if name != "slow"}
    successor = replace(brain, catalog=brain.catalog.model_copy(update={"profiles": profiles}))

    successor.rebuild()
    tick(successor)

    fate = fate_of(db, task_id)
    assert fate.state == "failed"
    assert "no profile is named 'slow'" in str(fate.error)


def test_one_task_that_postgres_cannot_keep_does_not_hold_up_the_others(
    brain: Brain, app: Celery, redis: Redis
):
    """A lone surrogate in a callback passes every check of arguments and breaks the insert."""
    bad = app.signature("user.collect", args=["\ud800"], app=app)
    app.send_task("complete", ["x"], {"profile": "social"}, queue="dispatch", link=bad)
    good = send(app)

    tick(brain)

    assert good in brain.scheduler.backlog.tasks
    assert redis.llen("dispatch") == 0
    letter = str(redis.lindex("dispatch.dead", 0))
    assert "Postgres cannot keep it" in letter
    assert "correlation_id" in letter, "the message itself is kept"


def test_arguments_larger_than_the_limit_are_refused_whoever_sends_them(
    brain: Brain, app: Celery, redis: Redis, db: Connection
):
    """A program that has only Celery does not check; Redis and Postgres would carry what it likes."""
    large = "x" * (DEFAULT_MAX_PAYLOAD_BYTES + 1)
    follows = app.signature("complete", args=[large], app=app)
    task_id = send(app, large)
    before_a_large_one = app.send_task(
        "complete", ["x"], {"profile": "social"}, queue="dispatch", chain=[dict(follows)]
    ).id

    tick(brain)

    fate = fate_of(db, task_id)
    assert fate.state == "failed"
    assert fate.error is not None
    assert fate.error["type"] == "PayloadTooLargeError"
    assert UUID(before_a_large_one) in brain.scheduler.backlog.tasks
    assert redis.llen("dispatch") == 0


def test_what_arrives_is_written_in_portions_that_postgres_can_hold(
    brain: Brain, app: Celery, redis: Redis, db: Connection, monkeypatch: pytest.MonkeyPatch
):
    """A value of Postgres ends at a gigabyte: large messages that came together would never be accepted."""
    monkeypatch.setattr(intake, "MOST_BYTES_AT_ONCE", 2_500)
    sent = {send(app, "x" * 1_000) for _ in range(5)}

    tick(brain)

    assert sent <= brain.scheduler.backlog.tasks.keys()
    assert redis.llen("dispatch") == 0


def test_a_task_that_arrives_does_not_wait_for_the_brain_to_look_around(brain: Brain, app: Celery):
    """It does so once a second, and nearly always just when a task came."""
    brain.polled_at = due = time.monotonic() - 1.5 * POLL_S
    send(app)
    tick(brain)
    with_a_task = brain.polled_at
    soon_s = brain.looks_in_s()
    tick(brain)

    assert with_a_task == due
    assert soon_s < 0.1
    assert brain.polled_at > due


def test_where_tasks_never_cease_the_brain_looks_around_all_the_same(brain: Brain, app: Celery):
    brain.polled_at = due = time.monotonic() - 2.5 * POLL_S
    send(app)
    tick(brain)

    assert brain.polled_at > due


def test_finished_attempts_free_their_slots_without_a_hint(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """Notifications are hints; one that was lost must not cost a slot for ever."""
    send(app)
    wait_for_presence(brain)
    tick(brain)
    run_attempt(next_request(redis, "echo.echo"))
    brain.polled_at = float("-inf")

    tick(brain)

    assert brain.vitals.under_way == {}
    assert brain.vitals.in_queue["echo.echo"] == 0


def test_a_dead_workers_slots_are_not_counted_on(brain: Brain, lane: Lane, db: Connection):
    """The Mac that went to sleep."""
    wait_for_presence(brain)
    lane.alive.close()
    db.execute(
        "INSERT INTO workers (name, host, pid, slots, seen_at)"
        " VALUES ('w', 'mac', 1, '{\"q\": 1}', now() - interval '1 minute')"
    )

    brain.look_at_workers()

    assert brain.vitals.slots == {}


def test_a_lane_keeps_its_leases_fresh(lane: Lane, brain: Brain, app: Celery, redis: Redis, db: Connection):
    """A long answer must not be taken for a dead worker's."""
    task_id = send(app)
    wait_for_presence(brain)
    tick(brain)
    claim = lane.claims((task_id, 1))
    assert claim is not None
    db.execute("UPDATE attempts SET lease_until = now() WHERE task_id = %s", [task_id])
    lane.begin((task_id, 1))
    row = None

    for _ in range(100):
        lane.closing.wait(0.1)
        row = db.execute("SELECT lease_until > now() FROM attempts WHERE task_id = %s", [task_id]).fetchone()
        if row == (True,):
            break

    assert row == (True,)


class Scripted:
    """An engine that plays a list: an error is raised, a text is the answer."""

    slots = 8
    is_closed = False

    def __init__(self, *plays: EngineError | str) -> None:
        self.plays = list(plays)
        self.calls = 0

    def generate(self, request: Request, **_: object) -> Completion:
        self.calls += 1
        play = self.plays.pop(0) if len(self.plays) > 1 else self.plays[0]
        if isinstance(play, EngineError):
            raise play
        return Completion(play, "stop", prompt_tokens=5, completion_tokens=len(play.split()))

    def close(self) -> None:
        """Nothing to free."""


def run_next(redis: Redis, queue: str) -> dict[str, Any] | None:
    """Run the next message of a lane; None: the task goes on elsewhere."""
    try:
        return run_attempt(next_request(redis, queue))
    except Ignore:
        return None


def objections_to(brain: Brain, model: str) -> str:
    """Say what a new task would hear of a model."""
    decision = brain.scheduler.decide(a_task(model=model), datetime.now(UTC))
    return dict(decision.passed_over)[model].why


def test_a_limited_model_is_left_alone_until_its_reset_also_by_the_next_brain(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """What a 429 taught is in the ledger: a restart of the dispatcher must not ask once more."""
    until = datetime.now(UTC) + timedelta(hours=1)
    lane.engines["echo"] = Scripted(RateLimitedError("echo", "20 a minute", until))
    for _ in range(2):
        send(app, model="echo", patience=0)
    wait_for_presence(brain)
    tick(brain)
    assert run_next(redis, "echo.echo") is None
    brain.polled_at = 0.0
    tick(brain)

    assert objections_to(brain, "echo") == "model echo was told to slow down"
    assert redis.llen("echo.parrot") == 1
    successor = replace(brain, epoch=next_epoch(brain))
    successor.rebuild()
    assert objections_to(successor, "echo") == "model echo was told to slow down"


def test_a_gone_model_is_gone_for_the_next_task_too(brain: Brain, lane: Lane, app: Celery, redis: Redis):
    """A 404 is asked for once, not once a task."""
    lane.engines["echo"] = Scripted(ModelGoneError("echo", "no such model"))
    send(app)
    wait_for_presence(brain)
    tick(brain)
    run_next(redis, "echo.echo")
    brain.polled_at = 0.0
    send(app)
    tick(brain)

    assert redis.llen("echo.echo") == 0
    assert redis.llen("echo.parrot") == 2


def test_an_answer_that_was_not_expected_is_rejected_and_the_next_model_tries(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """Cheap first, checked, then escalated; and the rejected answer stays in the books."""
    lane.engines["echo"] = Scripted("forty-two")
    lane.engines["parrot"] = Scripted('{"answer": 42}')
    schema = {"type": "object", "required": ["answer"], "properties": {"answer": {"type": "integer"}}}
    task_id = send(app, expect={"json_schema": schema})
    wait_for_presence(brain)
    tick(brain)
    rejected = run_next(redis, "echo.echo")
    brain.polled_at = 0.0
    tick(brain)

    answer = run_next(redis, "echo.parrot")

    assert rejected is None
    assert answer is not None
    assert answer["choices"][0]["message"]["content"] == '{"answer": 42}'
    first, second = usage.life(db, task_id)
    assert (first.outcome, first.completion_tokens) == ("rejected", 1)
    assert first.error is not None
    assert first.error["text"].startswith("the answer of echo was rejected: it is not JSON")
    assert (second.outcome, second.number) == ("succeeded", 2)
    assert brain.vitals.health["model echo"].failures == 0


def test_a_task_that_no_answer_meets_fails_with_every_reason(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """Its caller learns what each model answered short of."""
    task_id = send(app, "ab", expect={"min_length": 40})
    wait_for_presence(brain)
    for queue in ("echo.echo", "echo.parrot"):
        brain.polled_at = 0.0
        tick(brain)
        run_next(redis, queue)
    brain.polled_at = 0.0
    tick(brain)

    error = fate_of(db, task_id).error
    assert error is not None
    assert error["type"] == "NoModelError"
    assert error["text"].count("it has 2 characters, at least 40 were expected") == 2


def test_a_budget_holds_across_a_restart_with_many_in_flight(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """What is reserved and what is spent are in the ledger; a new brain must not pay twice."""
    budget = Budget(name="toll-a-day", model="toll", window="day", usd=Decimal("0.05"))
    bounded = brain.catalog.model_copy(update={"budgets": {budget.name: budget}})
    wait_for_presence(brain)
    careful = replace(brain, catalog=bounded, epoch=next_epoch(brain))
    careful.rebuild()
    for _ in range(150):
        send(app, profile="analysis", model="toll", max_tokens=200)
    tick(careful)
    placed = redis.llen("echo.toll")
    for _ in range(30):
        run_next(redis, "echo.toll")
    successor = replace(careful, epoch=next_epoch(careful))
    successor.rebuild()
    for _ in range(150):
        send(app, profile="analysis", model="toll", max_tokens=200)
    tick(successor)

    reserved_and_spent = db.execute(
        "SELECT sum(coalesce(cost_usd, reserved_usd)), sum(cost_usd) FROM attempts WHERE model = 'toll'"
    ).fetchone()
    assert 50 < placed < 150
    assert reserved_and_spent is not None
    assert reserved_and_spent[1] > 0
    assert Decimal("0.0495") < reserved_and_spent[0] <= Decimal("0.05")


class Broken(Scripted):
    """An engine with a bug."""

    def generate(self, request: Request, **_: object) -> Completion:
        raise ZeroDivisionError


def test_a_bug_after_a_paid_call_is_not_booked_as_free(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """Nobody knows what the call cost: it counts as reserved until somebody does."""
    lane.engines["toll"] = Broken("")
    task_id = send(app, profile="analysis", model="toll")
    wait_for_presence(brain)
    tick(brain)

    with pytest.raises(ZeroDivisionError):
        run_attempt(next_request(redis, "echo.toll"))

    (attempt,) = usage.life(db, task_id)
    assert (attempt.outcome, attempt.cost_usd) == ("failed", None)
    assert attempt.reserved_usd > 0


def test_tasks_of_one_batch_go_in_the_order_in_which_they_came(
    brain: Brain, lane: Lane, app: Celery, redis: Redis, db: Connection
):
    """Who asks three things at once expects the first to be answered first, also after a restart."""
    ids = [send(app, f"number {number}") for number in range(9)]
    wait_for_presence(brain)
    tick(brain)
    placed = [next_request(redis, "echo.echo").id for _ in range(2)]
    successor = replace(brain, epoch=next_epoch(brain))
    successor.rebuild()

    assert placed == [str(task_id) for task_id in ids[:2]]
    held = sorted(successor.scheduler.backlog.tasks.values(), key=lambda task: task.accepted_at)
    assert [task.id for task in held] == [task_id for task_id in ids if task_id in {t.id for t in held}]
    assert len({task.accepted_at for task in held}) == len(held) >= 5


def test_metadata_is_kept_with_the_task(brain: Brain, app: Celery, db: Connection):
    """An agent finds its own tasks by its own words."""
    task_id = send(app, metadata={"run": 7, "post": "monday"})
    tick(brain)

    found = usage.task(db, task_id)
    assert found is not None
    assert found.metadata == {"run": 7, "post": "monday"}
