"""Whatever a Celery user expects of a task works through the dispatcher, under one task id."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from celery import Celery, chain, chord, group, signature, states
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult
from openai.types.chat import ChatCompletion
from redis import Redis

from config.errors import UnknownNameError
from config.settings import Settings
from ledger.connect import connect
from ledger.tasks import Fate, fates
from routing.errors import ExpiredError
from workers import complete, stream
from workers.engines.errors import BadRequestError
from workers.errors import InvalidCallError, PayloadTooLargeError

pytestmark = pytest.mark.usefixtures("app")

Seen = Callable[[str], Sequence[str]]

WAIT_S = 20


def text_of(completion: dict[str, Any]) -> str:
    return completion["choices"][0]["message"]["content"]


def fate_of(fleet: Settings, result: AsyncResult) -> Fate:
    with connect(fleet.database_url, name="test") as db:
        return fates(db, [UUID(result.id)])[0]


def wait_until_ended(fleet: Settings, result: AsyncResult) -> None:
    """Wait for the ledger to know the end of a task whose result nobody waits for."""
    with connect(fleet.database_url, name="test") as db:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            found = fates(db, [UUID(result.id)])
            if found and found[0].finished_at:
                return
            time.sleep(0.02)


def test_a_profile_alone_is_enough(fleet: Settings):
    """`complete.delay(profile="social")` is the first line of the README."""
    result = complete.delay(profile="social")

    answer = result.get(timeout=WAIT_S)

    assert text_of(answer)
    assert answer["fleet"]["profile"] == "social"
    assert fate_of(fleet, result).state == "succeeded"


def test_the_result_is_an_openai_completion_with_the_fleets_own_key():
    """Agents hand the result to code that was written for OpenAI's client."""
    answer = complete.delay("one two three", profile="social").get(timeout=WAIT_S)

    ChatCompletion.model_validate(answer)
    assert text_of(answer) == "one two three"
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 3
    assert set(answer["fleet"]) == {
        *("profile", "model", "tier", "attempts", "tokens_are_estimated", "cost_usd", "waited_s", "ran_s")
    }
    assert (answer["fleet"]["tier"], answer["fleet"]["attempts"], answer["fleet"]["cost_usd"]) == (
        "local",
        1,
        "0",
    )


def test_messages_and_sampling_reach_the_model():
    """An argument that is dropped on the way is a wrong answer that nobody notices."""
    messages = [{"role": "user", "content": "first"}, {"role": "user", "content": "alpha beta gamma delta"}]

    answer = complete.delay(
        messages=messages, max_tokens=3, stop=["gamma"], seed=7, temperature=0.1, focus="journalist"
    )

    assert text_of(answer.get(timeout=WAIT_S)) == "alpha beta "


def test_a_chain_passes_the_text_on_as_the_prompt():
    """A completion passed on as the prompt means its text, not its JSON."""
    result = chain(complete.s("hello", profile="social"), complete.s(profile="creative"))()

    assert result is not None
    answer = result.get(timeout=WAIT_S)

    assert text_of(answer) == "hello"
    assert answer["fleet"]["profile"] == "creative"


def test_a_group_gives_every_answer_in_order():
    """Group results are matched by position."""
    result = group(complete.s(f"number {n}", profile="social") for n in range(5))()

    assert [text_of(answer) for answer in result.get(timeout=WAIT_S)] == [f"number {n}" for n in range(5)]


def test_a_chord_runs_its_body_once_all_parts_are_there():
    """The chord counter lives in Celery's backend; the dispatcher has to carry it along."""
    body = complete.app.signature("user.join")
    header = [complete.s(f"part {n}", profile="social") for n in range(3)]

    result = chord(header)(body)

    assert result.get(timeout=WAIT_S) == "part 0 + part 1 + part 2"


def test_a_chord_of_completions_feeds_a_completion():
    """Summing up what several models said is what chords are used for."""
    result = chord([complete.s("one", profile="social"), complete.s("two", profile="social")])(
        complete.s(profile="creative")
    )

    assert text_of(result.get(timeout=WAIT_S)) == "one\n\ntwo"


def test_a_link_is_called_with_the_answer(seen: Seen):
    """Callbacks run in the user's own app, on the user's own queue."""
    complete.apply_async(("linked",), {"profile": "social"}, link=signature("user.collect"))

    assert seen("collected linked")


def test_a_link_error_is_called_when_no_model_can_answer(seen: Seen):
    """The dispatcher fails the task itself here: no worker ever sees it."""
    result = complete.apply_async(("x",), {"profile": "impossible"}, link_error=signature("user.on_error"))

    assert seen(f"failed {result.id}")


def test_a_link_error_is_called_when_the_model_refuses(seen: Seen):
    """Here the lane worker fails it."""
    sound = [{"role": "user", "content": [{"type": "input_audio"}]}]

    result = complete.apply_async((), {"messages": sound}, link_error=signature("user.on_error"))

    with pytest.raises(BadRequestError):
        result.get(timeout=WAIT_S)
    assert seen(f"failed {result.id}")


def test_a_chord_fails_when_a_part_cannot_be_done():
    """A part that only the dispatcher saw must still tell the chord, or the caller waits for ever."""
    header = [complete.s("fine", profile="social"), complete.s("x", profile="impossible")]

    result = chord(header)(complete.s(profile="creative"))

    with pytest.raises(Exception, match="impossible"):
        result.get(timeout=WAIT_S)


@pytest.mark.parametrize("how", ["countdown", "eta"])
def test_a_task_waits_in_postgres_until_its_time(fleet: Settings, how: str):
    """An ETA in a worker's memory is lost with the worker."""
    when = {"countdown": 1.2} if how == "countdown" else {"eta": datetime.now(UTC) + timedelta(seconds=1.2)}
    began = time.monotonic()

    result = complete.apply_async(("later",), {"profile": "social"}, **when)
    time.sleep(0.5)
    waiting = fate_of(fleet, result).state
    result.get(timeout=WAIT_S)

    assert waiting == "held"
    assert 1.1 < time.monotonic() - began < 10


def test_a_task_that_expires_while_it_waits_fails_and_costs_nothing(fleet: Settings):
    """Work that nobody wants any more must not take a slot."""
    result = complete.apply_async(("too late",), {"profile": "nowhere"}, expires=1)

    with pytest.raises(ExpiredError):
        result.get(timeout=WAIT_S)
    assert fate_of(fleet, result).attempts == 0


def test_a_priority_goes_before_another(fleet: Settings):
    """As on Redis, 0 goes first and 9 last; kombu has a list of its own for each."""
    busy = [complete.apply_async((f"busy {n}",), {"profile": "slow"}) for n in range(40)]
    last = complete.apply_async(("last",), {"profile": "slow"}, priority=9)
    later = [complete.apply_async((f"later {n}",), {"profile": "slow"}, priority=0) for n in range(10)]
    for result in [*busy, *later, last]:
        result.get(timeout=WAIT_S)

    with psycopg.connect(fleet.database_url) as db:
        rows = db.execute(
            "SELECT task_id, queued_at, claimed_at FROM attempts WHERE task_id = ANY(%s::uuid[])",
            ([result.id for result in [*later, last]],),
        ).fetchall()
    times = {str(task_id): (queued_at, claimed_at) for task_id, queued_at, claimed_at in rows}
    queued_at, claimed_at = times.pop(last.id)

    # Those of one batch have one time, and in the worker their threads may overtake each other.
    assert queued_at >= max(queued for queued, _ in times.values())
    assert sum(claimed < claimed_at for _, claimed in times.values()) >= len(later) / 2


def test_a_limit_is_kept_and_waited_for_until_patience_ends(fleet: Settings):
    """Three a minute means three; the others wait, and pay only once they have waited long enough."""
    results = [complete.delay(f"number {n}", profile="scarce") for n in range(5)]
    answers = [result.get(timeout=WAIT_S)["fleet"] for result in results]

    assert sorted(answer["model"] for answer in answers) == ["scarce", "scarce", "scarce", "toll", "toll"]
    paid = [answer for answer in answers if answer["model"] == "toll"]
    assert all(4 <= answer["waited_s"] < 15 for answer in paid)
    assert all(float(answer["cost_usd"]) > 0 for answer in paid)


def test_a_task_bounds_its_patience_its_cost_and_its_time(fleet: Settings):
    """What a task asks for goes before what its profile says."""
    impatient = complete.delay("now", profile="scarce", patience=0).get(timeout=WAIT_S)["fleet"]
    frugal = complete.delay("cheap or never", profile="scarce", patience=0, max_cost_usd=0, deadline=2)

    assert impatient["waited_s"] < 4
    with pytest.raises(ExpiredError, match="the task allows \\$0"):
        frugal.get(timeout=WAIT_S)
    assert fate_of(fleet, frugal).attempts == 0


def test_an_ignored_result_is_not_stored(fleet: Settings):
    """The row is still there: only Redis is spared."""
    result = complete.apply_async(("quiet",), {"profile": "social"}, ignore_result=True)
    wait_until_ended(fleet, result)

    assert fate_of(fleet, result).state == "succeeded"
    assert not Redis.from_url(fleet.redis_url).exists(f"celery-task-meta-{result.id}")


def test_an_async_result_tells_the_state():
    """ready() and state are what a polling agent looks at."""
    result = complete.AsyncResult(complete.apply_async(("states",), {"profile": "social"}, countdown=0.5).id)
    before = (result.ready(), result.state)
    result.get(timeout=WAIT_S)

    assert before == (False, states.PENDING)
    assert (result.ready(), result.state) == (True, states.SUCCESS)


def test_a_revoked_task_never_runs(fleet: Settings):
    """revoke() is Celery's own word; the dispatcher hears it, though it is no worker."""
    result = complete.apply_async(("stop me",), {"profile": "social"}, countdown=1.5)
    time.sleep(0.3)

    result.revoke()

    with pytest.raises(TaskRevokedError):
        result.get(timeout=WAIT_S)
    wait_until_ended(fleet, result)  # the worker of the user's own app may tell the caller first
    assert fate_of(fleet, result).state == "cancelled"
    assert fate_of(fleet, result).attempts == 0


def test_a_lane_worker_does_not_drop_what_the_ledger_has_not_cancelled(fleet: Settings):
    """Celery's workers remember revoked ids for hours; here the ledger alone says what is cancelled."""
    task_id = str(uuid4())
    complete.AsyncResult(task_id).revoke()
    time.sleep(0.5)

    result = complete.apply_async(("after all",), {"profile": "social"}, task_id=task_id)

    wait_until_ended(fleet, result)
    assert fate_of(fleet, result).state == "succeeded"


def test_a_result_that_redis_lost_is_read_from_the_ledger(fleet: Settings):
    """Postgres is the truth; Redis holds nothing that cannot be rebuilt."""
    result = complete.delay("remember", profile="social")
    answer = result.get(timeout=WAIT_S)
    Redis.from_url(fleet.redis_url).delete(f"celery-task-meta-{result.id}")

    again = complete.AsyncResult(result.id)

    assert again.get(timeout=WAIT_S) == answer
    assert again.state == states.SUCCESS


def test_a_result_that_redis_lost_is_streamed_whole(fleet: Settings):
    """Who opens the stream a day later reads what the ledger has."""
    result = complete.delay("one two three", profile="social")
    result.get(timeout=WAIT_S)
    Redis.from_url(fleet.redis_url).delete(f"celery-task-meta-{result.id}")

    assert list(stream(str(result.id), timeout=WAIT_S)) == ["one two three"]


def test_a_program_with_only_celery_has_its_result_streamed(bare_app: Celery):
    """Whoever made the call, the id is the same."""
    result = bare_app.send_task("complete", ["one two"], {"profile": "social"}, queue="dispatch")

    assert "".join(stream(result, timeout=WAIT_S)) == "one two"


def test_an_error_that_redis_lost_is_read_from_the_ledger(fleet: Settings):
    """A failure is a result too."""
    result = complete.delay("x", profile="impossible")
    with pytest.raises(Exception, match="impossible") as first:
        result.get(timeout=WAIT_S)
    Redis.from_url(fleet.redis_url).delete(f"celery-task-meta-{result.id}")

    with pytest.raises(type(first.value), match="impossible"):
        complete.AsyncResult(result.id).get(timeout=WAIT_S)


def test_a_program_with_only_celery_can_send_a_task(bare_app: Celery):
    """An agent's host needs the broker's URL and nothing of ours."""
    result = bare_app.send_task("complete", ["from outside"], {"profile": "social"}, queue="dispatch")

    assert text_of(result.get(timeout=WAIT_S)) == "from outside"


def test_a_wrong_call_from_outside_fails_in_its_caller(bare_app: Celery, fleet: Settings):
    """A caller that checked nothing itself still gets a reason, and blocks nobody."""
    result = bare_app.send_task("complete", ["x"], {"profil": "social"}, queue="dispatch")

    with pytest.raises(Exception, match="profil must be one of the arguments"):
        result.get(timeout=WAIT_S)
    assert fate_of(fleet, result).state == "failed"


def test_an_idempotency_key_twice_is_one_task(fleet: Settings):
    """An agent that retries its own call must not pay twice."""
    key = f"order {uuid4()}"
    first = complete.delay("once", profile="social", idempotency_key=key)
    first.get(timeout=WAIT_S)

    second = complete.delay("once", profile="social", idempotency_key=key)

    assert second.id == first.id
    assert text_of(second.get(timeout=WAIT_S)) == "once"
    time.sleep(0.2)
    assert fate_of(fleet, first).attempts == 1


def test_an_unreadable_message_is_buried_and_blocks_nobody(fleet: Settings):
    """One broken producer must not stop all the others."""
    redis = Redis.from_url(fleet.redis_url)
    redis.lpush("dispatch", b"not json at all")

    assert (
        text_of(complete.delay("after the rubble", profile="social").get(timeout=WAIT_S))
        == "after the rubble"
    )
    letter = str(redis.lindex("dispatch.dead", 0))
    assert "not json at all" in letter
    assert "why" in letter


def test_the_prompt_is_not_in_the_message_to_the_lane(fleet: Settings):
    """What Flower shows of the arguments is profile and model."""
    secret = f"secret-{uuid4()}"
    complete.delay(secret, profile="nowhere")
    result = complete.apply_async((secret,), {"profile": "social"})
    result.get(timeout=WAIT_S)

    with psycopg.connect(fleet.database_url) as db:
        envelopes = db.execute(
            "SELECT envelope::text FROM tasks WHERE request::text LIKE %s", [f"%{secret}%"]
        ).fetchall()

    assert len(envelopes) == 2
    assert all(secret not in envelope for (envelope,) in envelopes)


def test_a_caller_without_redis_hears_of_it_within_seconds(environment: dict[str, str]):
    """An agent that hangs for minutes because nobody started the fleet has no way to say so."""
    code = "from workers import complete; complete.delay('x', profile='social')"
    began = time.monotonic()

    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "FLEET_HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "RedisUnreachableError: Redis does not answer at unix:///tmp" in ended.stderr
    assert "fleet up" in ended.stderr
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"profile": "socail"}, "social"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "one of system"),
        ({"prompt": "x", "temperature": 3}, "from 0 to 2"),
        ({"prompt": 42}, "a string, got a value of type int"),
        ({"prompt": "x" * 1_100_000}, "FLEET_MAX_PAYLOAD_BYTES"),
        ({"prompt": "x", "profil": "social"}, "did you mean 'profile'"),
        ({}, "a prompt, messages, or a profile"),
        ({"prompt": "a\x00b"}, "without NUL"),
        ({"prompt": "x", "max_tokens": 0}, "from 1"),
        ({"prompt": "x", "max_tier": "cheap"}, "one of local, free, paid"),
        ({"prompt": "x", "max_cost_usd": "a lot"}, "dollars"),
        ({"prompt": "x", "patience": -1}, "a number from 0"),
    ],
)
def test_a_wrong_call_raises_in_the_caller_at_once(arguments: dict[str, Any], says: str):
    """A typo must not become a task that fails an hour later somewhere else."""
    with pytest.raises((InvalidCallError, PayloadTooLargeError, UnknownNameError), match=says):
        complete.delay(**arguments)
