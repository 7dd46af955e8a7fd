"""Cooldowns, circuits and probes."""

from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.models import Provider
from routing.health import (
    ACCOUNT_PAUSE,
    FAULTS_THAT_OPEN,
    FIRST_PAUSE_S,
    GONE_PAUSE,
    JITTER,
    LONGEST_PAUSE_S,
    PROOF_LASTS,
    Health,
    pause,
)
from routing.key import Key
from routing.lessons import Cause, Lesson, Tried, as_stored, lesson_from, used_up
from routing.objection import Objection
from routing.plan import Run, Wait, plan
from routing.vitals import Vitals
from tests.routing.made import (
    NOW,
    SECOND,
    a_catalog,
    a_model,
    a_paid_model,
    a_task,
    an_attempt,
    an_end,
    proven,
)

MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)


def a_key(number: int = 0) -> Key:
    return (UUID(int=number), 1)


def objection(health: Health, now: datetime, *, needs_proof: bool = False) -> Objection | None:
    return health.objection("model x", now, needs_proof=needs_proof)


@pytest.mark.parametrize("cause", ["fault", "rate_limit"])
def test_failures_that_were_under_way_together_are_one(cause: Cause):
    """A hundred calls that fail at once would close a model for five minutes, after an outage of a second."""
    health = Health()
    for number in range(100):
        health.learn(Lesson(cause), a_key(number), NOW + number * timedelta(milliseconds=1))

    assert objection(health, NOW + SECOND)
    assert not objection(health, NOW + timedelta(seconds=FIRST_PAUSE_S * (1 + JITTER) + 1))


@pytest.mark.parametrize(
    ("cause", "until"),
    [
        ("rate_limit", NOW + timedelta(seconds=FIRST_PAUSE_S)),
        ("quota", MIDNIGHT),
        ("payment", NOW + ACCOUNT_PAUSE),
        ("key", NOW + ACCOUNT_PAUSE),
        ("gone", NOW + GONE_PAUSE),
    ],
)
def test_a_closed_model_says_until_when(cause: Cause, until: datetime):
    """Without that nobody knows when to ask again, and asks all the time."""
    health = Health()

    health.learn(Lesson(cause), a_key(), NOW)

    found = objection(health, NOW)
    assert found is not None
    assert found.until == until
    assert found.is_final == (cause == "gone")
    assert objection(health, until) is None


def test_what_the_provider_tells_goes_before_what_we_guess():
    """Retry-After: 7 means seven seconds, not five and not ten."""
    health = Health()

    health.learn(Lesson("rate_limit", until=NOW + 7 * SECOND), a_key(), NOW)

    assert objection(health, NOW + 6.9 * SECOND) is not None
    assert objection(health, NOW + 7 * SECOND) is None


def test_a_reset_in_the_far_future_is_not_believed():
    """A provider that sends milliseconds for seconds would close its model for fifty thousand years."""
    health = Health()

    health.learn(Lesson("rate_limit", until=NOW + timedelta(days=20_000_0)), a_key(), NOW)

    assert objection(health, NOW + timedelta(days=33)) is None


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_success():
    """Neither hammering nor giving up; and one good answer forgives."""
    health, at, lasted = Health(), NOW, list[float]()
    for _ in range(9):
        health.learn(Lesson("rate_limit"), a_key(), at)
        assert health.closed_until is not None
        lasted.append((health.closed_until - at).total_seconds())
        at = health.closed_until
    health.succeed(at)
    health.learn(Lesson("rate_limit"), a_key(), at)

    assert lasted == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert health.closed_until == at + timedelta(seconds=5)


@given(st.integers(0, 100), st.uuids())
def test_a_pause_has_its_chance_from_the_attempt(before: int, task_id: UUID):
    """The same ledger gives the same pause, and many tasks do not come back in the same moment."""
    length = pause(before, (task_id, 1)).total_seconds()

    least = min(FIRST_PAUSE_S * 2 ** min(before, 16), LONGEST_PAUSE_S)
    assert least <= length <= least * (1 + JITTER)
    assert pause(before, (task_id, 1)).total_seconds() == length


def test_one_failure_of_a_service_is_no_reason_to_leave_it():
    """A reset connection happens; the next task may go there at once."""
    health = Health()

    for _ in range(FAULTS_THAT_OPEN - 1):
        health.learn(Lesson("fault"), a_key(), NOW)

    assert objection(health, NOW) is None


def test_a_circuit_opens_after_failures_in_a_row_and_one_probe_closes_it():
    """An outage must cost one request a pause, not one a task."""
    health = Health()
    for _ in range(FAULTS_THAT_OPEN):
        health.learn(Lesson("fault"), a_key(), NOW)
    opened = objection(health, NOW + SECOND)
    later = NOW + timedelta(seconds=FIRST_PAUSE_S)
    may_probe = objection(health, later)
    health.under_way[a_key()] = NOW
    while_probing = objection(health, later)
    health.under_way.clear()
    health.succeed(later + SECOND)
    health.under_way[a_key()] = NOW

    assert opened is not None
    assert opened.why == "model x failed 3 times in a row"
    assert may_probe is None
    assert while_probing is not None
    assert while_probing.why == "model x is tried by one task, the first after a failure"
    assert objection(health, later + SECOND) is None


def test_a_failed_probe_opens_the_circuit_again_for_longer():
    """Half open is not open."""
    health = Health()
    for _ in range(FAULTS_THAT_OPEN):
        health.learn(Lesson("fault"), a_key(), NOW)
    later = NOW + timedelta(seconds=FIRST_PAUSE_S)

    health.learn(Lesson("fault"), a_key(), later)

    found = objection(health, later)
    assert found is not None
    assert found.until == later + timedelta(seconds=2 * FIRST_PAUSE_S)


def test_a_success_that_began_before_a_limit_does_not_lift_it():
    """The answer was under way already; the quota is gone all the same."""
    health = Health()
    health.learn(Lesson("quota"), a_key(), NOW)

    health.succeed(NOW + SECOND)

    assert objection(health, NOW + 2 * SECOND) is not None


def test_what_the_task_did_wrong_is_not_held_against_the_model():
    """A thousand prompts that are too long must not close a model for the others."""
    health = Health()

    for _ in range(1000):
        health.learn(Lesson("task"), a_key(), NOW)

    assert objection(health, NOW) is None


def test_sixty_tasks_find_out_with_one_request_that_a_free_quota_is_gone():
    """Nothing is spent to find out that quota is gone: the account says no once, and all others wait."""
    account = Provider(name="openrouter")
    first, second = (
        a_model(name, tier="free", provider="openrouter", upstream=name) for name in ("first", "second")
    )
    catalog = a_catalog(first, second, providers=(account,), fallbacks=("second",))
    vitals = Vitals(catalog, slots={"free.openrouter": 20})
    tasks = [a_task() for _ in range(60)]

    requests = 0
    for second_of_day in range(3600):
        now = NOW + second_of_day * SECOND
        for task in tasks:
            decision = plan(task, [first, second], catalog, vitals, now)
            if isinstance(decision, Run):
                requests += 1
                vitals.placed((task.id, requests), an_attempt(decision.model))
        for key in list(vitals.under_way):
            end = an_end("quota", now)._replace(lesson=Lesson("quota", "provider", "same"))
            vitals.ended(key, end)

    assert requests == 1
    waiting = plan(tasks[0], [first, second], catalog, vitals, NOW + SECOND)
    assert isinstance(waiting, Wait)
    assert waiting.until == MIDNIGHT
    assert isinstance(plan(tasks[0], [first, second], catalog, vitals, MIDNIGHT), Run)


def test_a_free_account_is_trusted_again_once_one_task_succeeded():
    """The probe costs the others a moment, not their place."""
    free = a_model("free", tier="free")
    catalog = a_catalog(free)
    vitals = Vitals(catalog, slots={"free": 20})
    key = a_key()
    vitals.placed(key, an_attempt(free))
    held_back = plan(a_task(), [free], catalog, vitals, NOW)
    vitals.ended(key, an_end(at=NOW + SECOND))
    vitals.placed(a_key(2), an_attempt(free))

    assert isinstance(held_back, Wait)
    assert isinstance(plan(a_task(), [free], catalog, vitals, NOW + 2 * SECOND), Run)
    later = NOW + SECOND + PROOF_LASTS
    assert isinstance(plan(a_task(), [free], catalog, vitals, later), Wait)


def test_a_long_answer_of_a_free_account_does_not_hold_the_others_back():
    """A refusal comes at once; nobody has to wait three minutes for the end of a long answer."""
    free = a_model("free", tier="free")
    catalog = a_catalog(free)
    vitals = Vitals(catalog, slots={"free": 20})
    vitals.placed(a_key(), an_attempt(free), claimed_at=NOW)

    soon, later = (plan(a_task(), [free], catalog, vitals, NOW + seconds * SECOND) for seconds in (9, 11))

    assert isinstance(soon, Wait)
    assert isinstance(later, Run)


def test_a_paid_model_is_never_held_back_for_a_probe_without_a_failure():
    """Who pays is served; only what failed has to prove itself."""
    paid = a_paid_model("paid")
    catalog = a_catalog(paid)
    vitals = Vitals(catalog, slots={"paid": 20})
    vitals.placed(a_key(), an_attempt(paid))

    assert isinstance(plan(a_task(), [paid], catalog, vitals, NOW), Run)


def test_a_model_that_is_gone_is_asked_for_again_under_its_new_id():
    """Whoever mends the catalog expects it to be used."""
    lesson = Lesson("gone", again="other", upstream="old-id")
    found: dict[str, bool] = {}
    for upstream in ("old-id", "new-id"):
        model = a_paid_model("kimi", upstream=upstream)
        catalog = a_catalog(model)
        vitals = proven(Vitals(catalog, slots={"paid": 1}), at=NOW - SECOND)
        vitals.learn(model, a_key(), an_end("gone")._replace(lesson=lesson))
        found[upstream] = isinstance(plan(a_task(), [model], catalog, vitals, NOW), Run)

    assert found == {"old-id": False, "new-id": True}


@pytest.mark.parametrize(
    ("lessons", "may"),
    [
        ([], True),
        ([Lesson("rate_limit", again="same")] * 50, True),
        ([Lesson("fault", again="same")], True),
        ([Lesson("fault", again="same")] * 9, True),
        ([Lesson("fault", again="same")] * 10, False),
        ([Lesson("task", again="other")], False),
        ([None] * 5, True),
    ],
    ids=[
        "untried",
        "limited",
        "failed once",
        "failed often",
        "failed ten times",
        "too long for it",
        "workers lost",
    ],
)
def test_a_task_comes_back_to_a_model_that_was_merely_limited(lessons: list[Lesson | None], *, may: bool):
    """Or the first 429 would send it to a model that costs money."""
    tried = tuple(Tried("trinity", "why", lesson) for lesson in lessons)

    assert (used_up(tried, "trinity") is None) == may
    assert used_up(tried, "another") is None


@given(
    st.builds(
        Lesson,
        cause=st.sampled_from(["rate_limit", "quota", "payment", "key", "gone", "fault", "task"]),
        scope=st.sampled_from(["model", "provider"]),
        again=st.sampled_from(["same", "other", "nobody"]),
        until=st.none() | st.datetimes(timezones=st.just(UTC)),
        upstream=st.none() | st.text(),
    )
)
def test_a_lesson_is_read_as_it_was_written(lesson: Lesson):
    """A new brain must learn from the ledger what the old one learned."""
    assert lesson_from(as_stored(lesson)) == lesson


events = st.lists(
    st.tuples(
        st.sampled_from(["rate_limit", "quota", "payment", "key", "fault", "task", "success"]),
        st.integers(0, 600),
    ),
    max_size=40,
)


@given(events)
def test_a_closed_model_always_opens_again(happened: list[tuple[str, int]]):
    """Whatever happened: there is a moment at which somebody may try."""
    health, now = Health(), NOW
    for what, gap_s in happened:
        now += timedelta(seconds=gap_s)
        if what == "success":
            health.succeed(now)
        else:
            health.learn(Lesson(cast("Cause", what)), (uuid4(), 1), now)

    found = objection(health, now)
    if found is not None:
        assert found.until is not None
        assert found.until > now
        assert objection(health, found.until) is None
