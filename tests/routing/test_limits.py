"""Limits: N allowed means N, never N+1."""

from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.models import Provider
from routing.candidates import candidates
from routing.key import Key
from routing.limits import MINUTE, SLACK, Called, Usage
from routing.plan import Plan, Run, Wait, plan
from routing.task import Task
from routing.vitals import Vitals
from tests.routing.made import (
    NOW,
    SECOND,
    TODAY,
    a_catalog,
    a_model,
    a_paid_model,
    a_profile,
    a_task,
    an_attempt,
    limits,
    proven,
)


def a_key() -> Key:
    return (uuid4(), 1)


def test_a_placed_attempt_counts_until_a_minute_after_its_claim():
    """It may call the provider at any time from its placement on, so it counts before anybody claims it."""
    usage, key = Usage(), a_key()
    allowed = limits(requests_per_minute=1)
    usage.place(key, 10)
    before_claim = usage.full(allowed, 10, NOW + 10 * MINUTE)
    usage.place(key, 10, claimed_at=NOW)

    assert before_claim is not None
    assert before_claim.until is None
    assert usage.full(allowed, 10, NOW + MINUTE) == ("1 requests a minute", NOW + MINUTE + SLACK)
    assert usage.full(allowed, 10, NOW + MINUTE + SLACK) is None


def test_an_attempt_that_nobody_claimed_gives_its_place_back():
    """Cancelled before a worker had it: the provider never heard of it."""
    usage, key = Usage(), a_key()
    usage.place(key, 10)

    usage.end(key, None, 0)

    assert usage.full(limits(requests_per_minute=1, requests_per_day=1, concurrency=1), 10, NOW) is None


def test_a_day_ends_at_midnight_utc():
    """OpenRouter's free quota is counted so, for all its free models together."""
    usage = Usage()
    for _ in range(50):
        key = a_key()
        usage.place(key, 10)
        usage.end(key, NOW, 10)
    midnight = datetime(2026, 11, 24, tzinfo=NOW.tzinfo)

    assert usage.full(limits(requests_per_day=50), 10, NOW + MINUTE * 5) == ("50 requests a day", midnight)
    assert usage.full(limits(requests_per_day=51), 10, NOW + MINUTE * 5) is None
    assert usage.full(limits(requests_per_day=50), 10, midnight) is None


def test_tokens_of_a_minute_are_bounded_by_the_most_that_each_may_use():
    """What an attempt will use is known only afterwards."""
    usage, first, second = Usage(), a_key(), a_key()
    allowed = limits(tokens_per_minute=1000)
    usage.place(first, 600, NOW)
    usage.place(second, 300, NOW + SECOND)

    full = usage.full(allowed, 200, NOW + 2 * SECOND)
    usage.end(first, NOW, 100)

    assert full == ("1000 tokens a minute", NOW + MINUTE + SLACK)
    assert usage.full(allowed, 200, NOW + 2 * SECOND) is None


def test_a_task_larger_than_the_token_limit_runs_alone():
    """It would wait for ever otherwise, and the provider may well take it."""
    assert Usage().full(limits(tokens_per_minute=1000), 5000, NOW) is None


def test_an_account_is_shared_by_its_models():
    """Twenty a minute for all free models together, not for each."""
    first, second = (
        a_model(name, tier="free", provider="openrouter", upstream=name) for name in ("first", "second")
    )
    account = Provider(name="openrouter", limits=limits(requests_per_minute=2))
    catalog = a_catalog(first, second, providers=(account,))
    vitals = proven(Vitals(catalog, slots={"free.openrouter": 10}))
    for model in (first, second):
        vitals.placed(a_key(), an_attempt(model), claimed_at=NOW)

    decision = plan(a_task(model="first"), [first, second], catalog, vitals, NOW + SECOND)

    assert isinstance(decision, Wait)
    assert decision.until == NOW + MINUTE + SLACK
    assert {objection.why for _, objection in decision.passed_over} == {
        "provider openrouter allows 2 requests a minute"
    }


FREE = a_model("free", tier="free", limits=limits(requests_per_minute=1))
PAID = a_paid_model("paid")
STOPGAP = a_model("stopgap", engine="llama")
CATALOG = a_catalog(
    FREE, PAID, STOPGAP, profiles=(a_profile("post", "free", fallbacks=("paid",), patience_s=600),)
)
LAST = a_catalog(FREE, STOPGAP, fallbacks=(), last_resort=("stopgap",))


def exhausted(slots: dict[str, int]) -> Vitals:
    vitals = proven(Vitals(CATALOG, slots=slots))
    vitals.placed(a_key(), an_attempt(FREE), claimed_at=NOW)
    return vitals


def decide(task: Task, vitals: Vitals) -> Plan:
    return plan(task, candidates(task, CATALOG, TODAY), CATALOG, vitals, NOW)


def test_a_rate_limited_free_model_is_waited_for_while_there_is_time():
    """Paying for what would be free in a minute is the waste this project exists to end."""
    task = a_task(profile="post", patient_until=NOW + 600 * SECOND)

    decision = decide(task, exhausted({"free": 1, "paid": 1}))

    assert isinstance(decision, Wait)
    assert decision.until == NOW + MINUTE + SLACK
    assert dict(decision.passed_over)["paid"].why == "ready, but free is worth waiting for until 12:10:00 UTC"


def test_the_dearer_model_is_taken_once_patience_is_over():
    """Waiting has an end; the books say what was waited for."""
    decision = decide(a_task(profile="post", patient_until=NOW), exhausted({"free": 1, "paid": 1}))

    assert isinstance(decision, Run)
    assert decision.model == PAID
    assert decision.passed_over[0][1].why == "model free allows 1 requests a minute"


def test_nobody_waits_for_what_is_known_to_be_away_for_longer():
    """Ten minutes of waiting for a quota that is back at midnight would buy nothing."""
    spent = a_model("free", tier="free", limits=limits(requests_per_day=1))
    catalog = a_catalog(spent, PAID, fallbacks=("paid",))
    vitals = proven(Vitals(catalog, slots={"free": 1, "paid": 1}))
    vitals.placed(a_key(), an_attempt(spent), claimed_at=NOW)
    task = a_task(patient_until=NOW + 600 * SECOND)

    decision = plan(task, [spent, PAID], catalog, vitals, NOW)

    assert isinstance(decision, Run)
    assert decision.model == PAID


def test_nobody_waits_for_a_model_that_no_live_worker_serves():
    """It does not come free by itself: a Mac that sleeps may sleep all night."""
    decision = decide(
        a_task(profile="post", patient_until=NOW + 600 * SECOND), Vitals(CATALOG, slots={"paid": 1})
    )

    assert isinstance(decision, Run)
    assert decision.model == PAID


def test_the_last_resort_waits_for_better_models_that_are_merely_busy():
    """A tiny local model is always ready and always cheapest; it must not answer everything."""
    vitals = proven(Vitals(LAST, slots={"free": 1, "cpu.stopgap": 1}))
    vitals.placed(a_key(), an_attempt(FREE), claimed_at=NOW)
    patient, impatient = a_task(patient_until=NOW + 600 * SECOND), a_task(patient_until=NOW)

    decisions = [plan(task, [FREE, STOPGAP], LAST, vitals, NOW) for task in (patient, impatient)]

    assert [type(decision) for decision in decisions] == [Wait, Run]


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5), st.integers(0, 90)), max_size=60),
)
def test_no_minute_of_the_provider_sees_more_than_is_allowed(
    allowed: int, arrivals: list[tuple[int, int, int]]
):
    """Whatever the delays between placement, claim and end: the provider counts the claims."""
    usage, bound = Usage(), limits(requests_per_minute=allowed)
    now, events, calls = NOW, list[tuple[datetime, str, Key, datetime]](), list[datetime]()
    for gap_s, claim_s, run_s in arrivals:
        now += timedelta(seconds=gap_s)
        for event in sorted(events):
            when, what, key, claimed_at = event
            if when <= now:
                events.remove(event)
                if what == "claim":
                    usage.place(key, 1, claimed_at)
                else:
                    usage.end(key, claimed_at, 1)
        if usage.full(bound, 1, now) is None:
            key = a_key()
            usage.place(key, 1)
            claimed_at = now + timedelta(seconds=claim_s)
            calls.append(claimed_at)
            events.append((claimed_at, "claim", key, claimed_at))
            events.append((claimed_at + timedelta(seconds=run_s), "end", key, claimed_at))

    for call in calls:
        assert sum(1 for other in calls if call <= other < call + MINUTE) <= allowed


def test_a_call_right_before_midnight_counts_on_both_days():
    """It is claimed on one day and reaches its provider on the next, whose quota it takes."""
    allowed = limits(requests_per_day=1)
    last_moment = NOW.replace(hour=23, minute=59, second=59, microsecond=900_000)
    usage, key = Usage(), a_key()
    usage.place(key, 1)
    usage.end(key, last_moment, 1)

    assert usage.full(allowed, 1, last_moment + SECOND / 20) is not None
    assert usage.full(allowed, 1, last_moment + 10 * SECOND) is not None
    assert usage.full(allowed, 1, last_moment + 86401 * SECOND) is None


@pytest.mark.parametrize("ended", [0, 3])
def test_a_picture_begun_anew_counts_what_was_before(ended: int):
    """A restart of the dispatcher must not give the day's quota once more."""
    vitals = Vitals(CATALOG)

    vitals.remember_calls([(FREE, Called(NOW, 5))] * ended, TODAY, [(FREE, ended)])

    usage = vitals.usage["model free"]
    assert (len(usage.recent), usage.calls_on.get(TODAY, 0)) == (ended, ended)
