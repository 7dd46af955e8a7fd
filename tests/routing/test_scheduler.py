"""The scheduler: what waits, until when, and what the clock alone changes."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.models import Capabilities, Capability
from routing.candidates import candidates, retired_names
from routing.lessons import Cause, Tried
from routing.pace import DEFAULT_SERVICE_S, MARGIN_S, Pace, seen_pace
from routing.plan import Refuse, Run, worst_cost_usd
from routing.scheduler import Scheduler
from routing.task import Needs, Task
from routing.vitals import Ended, Vitals
from tests.routing.made import (
    NOW,
    SECOND,
    TODAY,
    a_catalog,
    a_model,
    a_paid_model,
    a_profile,
    a_task,
    an_end,
    limits,
    proven,
)

FREE = a_model("free", tier="free", limits=limits(requests_per_minute=1))
PAID = a_paid_model("paid")
LOCAL = a_model("local", engine="llama", limits=limits(concurrency=2))
CATALOG = a_catalog(
    FREE,
    PAID,
    LOCAL,
    profiles=(
        a_profile("post", "free", fallbacks=("paid",), patience_s=600),
        a_profile("cheap", "paid", fallbacks=("local", "free"), prefer="cheapest"),
    ),
)
SLOTS = {"free": 5, "paid": 5, "cpu.local": 5}


def a_scheduler() -> Scheduler:
    return Scheduler(CATALOG, proven(Vitals(CATALOG, slots=SLOTS)))


def went_to(scheduler: Scheduler, seconds: float) -> list[str]:
    now = NOW + seconds * SECOND
    return [d.model.name for _, d in scheduler.decisions(now) if isinstance(d, Run)]


@pytest.mark.parametrize(
    ("pace", "needs_s"),
    [(None, DEFAULT_SERVICE_S), (Pace(queue_s=2, first_token_s=3, token_s=0.1), 2 + 3 + 10 + MARGIN_S)],
    ids=["nothing seen yet", "seen at work"],
)
def test_a_deadline_leaves_the_dearer_model_the_time_that_it_needs(pace: Pace | None, needs_s: float):
    """Waiting for what is free must not become too late for what is not."""
    scheduler = a_scheduler()
    if pace:
        scheduler.vitals.paces["paid"] = scheduler.vitals.paces["free"] = pace
    scheduler.add(a_task(profile="post"), 600, NOW)
    assert went_to(scheduler, 0) == ["free"]

    scheduler.add(a_task(profile="post", deadline=NOW + 50 * SECOND), 600, NOW)

    assert went_to(scheduler, 50 - needs_s - 0.1) == []
    assert scheduler.next_moment() == NOW + (50 - needs_s) * SECOND
    assert went_to(scheduler, 50 - needs_s) == ["paid"]


def test_a_pace_is_learned_from_what_was_seen():
    """A model that became slow is given more time before the deadline."""
    scheduler = a_scheduler()
    scheduler.add(a_task(model="paid"), 0, NOW)
    assert went_to(scheduler, 0) == ["paid"]
    (key,) = scheduler.vitals.under_way

    end = an_end(claimed_at=NOW + SECOND, finished_at=NOW + 13 * SECOND)
    scheduler.vitals.ended(key, end._replace(first_token_s=2.0, completion_tokens=100))

    assert scheduler.vitals.paces["paid"] == Pace(queue_s=1, first_token_s=2, token_s=0.1)


def test_a_pace_without_a_timed_first_token_is_even():
    """Engines that do not stream tell no first token."""
    assert seen_pace(0, 10, None, 9) == Pace(0, 1, 1)


def test_the_cheapest_goes_first_where_the_profile_prefers_it():
    """`prefer: cheapest`: local, then free, then paid, whatever the order in the file."""
    named = candidates(a_task(profile="cheap", model="paid"), CATALOG, TODAY)

    assert [model.name for model in candidates(a_task(profile="cheap"), CATALOG, TODAY)] == [
        "local", "free", "paid",
    ]  # fmt: skip
    assert [model.name for model in named] == ["paid", "local", "free"]


@pytest.mark.parametrize("capability", ["tools", "json_schema", "vision"])
def test_only_a_model_that_can_do_it_is_asked(capability: Capability):
    """A model without tools answers such a request with an error, or with nonsense that costs as much."""
    able = a_model("able", capabilities=Capabilities(**{capability: True}))
    catalog = a_catalog(a_model("plain"), able, fallbacks=("able",))
    scheduler = Scheduler(catalog, Vitals(catalog, slots={"local": 5}))

    waiting = scheduler.add(a_task(needs=Needs(10, 10, requires=(capability,))), 0, NOW)
    decision = scheduler.decide(waiting, NOW)

    assert isinstance(decision, Run)
    assert decision.model == able
    assert decision.passed_over[0][1].why == f"has no {capability}, which the task needs"


def test_retired_names_are_listed_with_what_they_stand_for():
    """The dispatcher warns once of each: somebody should mend the catalog."""
    old = a_model("old", retired_on=TODAY, successor="new")
    gone = a_model("gone", retired_on=TODAY)
    catalog = a_catalog(old, a_model("new"), gone, profiles=(a_profile("p", "gone"),), fallbacks=("new",))

    found = {name: model.name for name, model in retired_names(catalog, TODAY).items()}

    assert found == {"gone": "gone", "old": "new"}


def test_what_a_task_has_cost_so_far_counts_against_its_bound():
    """Three rejected answers must not cost three times what the task allows."""
    scheduler = a_scheduler()
    cost = worst_cost_usd(PAID, Needs(10, 100), TODAY)
    assert cost is not None
    bounded = Needs(10, 100, max_cost_usd=cost)

    fresh = scheduler.decide(a_task(model="paid", needs=bounded), NOW)
    spent = scheduler.decide(a_task(model="paid", needs=bounded, spent_usd=cost), NOW)

    assert isinstance(fresh, Run)
    assert dict(spent.passed_over)["paid"].why == (
        "could cost $0.0002996 besides the $0.0002996 so far, the task allows $0.0002996"
    )


def test_tasks_that_lost_a_worker_run_one_at_a_time():
    """Whoever was lost beside the one that kills workers must not be lost beside it again and again."""
    scheduler = a_scheduler()
    lost = (Tried("paid", "lost", None, is_lost=True),)
    for _ in range(3):
        scheduler.add(a_task(model="paid", tried=lost, needs=Needs(10, 100, max_tier="paid")), 0, NOW)
    scheduler.add(a_task(model="paid"), 0, NOW)

    assert sorted(went_to(scheduler, 0)) == ["paid", "paid"]
    assert len(scheduler.backlog) == 2
    suspect = next(iter(scheduler.backlog.tasks.values()))
    objection = dict(scheduler.decide(suspect, NOW).passed_over)["paid"]
    assert objection.why == "a worker died with it; another such task runs on queue paid first"
    first = next(key for key, attempt in scheduler.vitals.under_way.items() if attempt.is_suspect)
    scheduler.vitals.ended(first, an_end())
    assert went_to(scheduler, 1) == ["paid"]


steps = st.lists(
    st.tuples(
        st.sampled_from(["post", "cheap", None]),
        st.sampled_from(["success", "rate_limit", "quota", "fault", "payment", "gone", "lost"]),
        st.integers(0, 90),
        st.booleans(),
    ),
    min_size=1,
    max_size=60,
)


@given(steps)
def test_every_task_ends_or_waits_with_a_reason_and_limits_hold(
    happened: list[tuple[str | None, str, int, bool]],
):
    """Whatever providers answer: no task vanishes, none runs twice at once, no limit is exceeded."""
    scheduler, now = a_scheduler(), NOW
    tasks: dict[UUID, Task] = {}
    ended: set[UUID] = set()
    for number, (profile, what, gap_s, has_deadline) in enumerate(happened):
        now += timedelta(seconds=gap_s)
        task = a_task(
            id=UUID(int=number + 1),
            profile=profile,
            accepted_at=now,
            deadline=now + timedelta(minutes=5) if has_deadline else None,
        )
        tasks[task.id] = scheduler.add(task, 60, now)
        ended |= {task.id for task in scheduler.backlog.expired(now)}
        decided = list(scheduler.decisions(now))
        ended |= {task.id for task, decision in decided if isinstance(decision, Refuse)}
        under_way = [key[0] for key in scheduler.vitals.under_way]
        held = set(scheduler.backlog.tasks)

        assert len(under_way) == len(set(under_way))
        assert held | set(under_way) | ended == set(tasks)
        assert not (held & set(under_way))
        assert not (held & ended)
        assert not (ended & set(under_way))
        for subject in scheduler.vitals.subjects["local"]:
            if subject.limits and subject.limits.concurrency:
                running = scheduler.vitals.usage[subject.name].placed
                assert len(running) <= subject.limits.concurrency
        if scheduler.vitals.under_way:
            key = next(iter(scheduler.vitals.under_way))
            end = an_end_of(what, now)
            attempt = scheduler.vitals.under_way[key]
            scheduler.vitals.ended(key, end)
            if end.outcome == "succeeded":
                ended.add(key[0])
            else:
                tried = (*tasks[key[0]].tried, Tried(attempt.model.name, what, end.lesson))
                tasks[key[0]] = scheduler.add(replace(tasks[key[0]], tried=tried), 60, now)


def an_end_of(what: str, now: datetime) -> Ended:
    if what in ("success", "lost"):
        return an_end(at=now, outcome="succeeded" if what == "success" else "lost")
    return an_end(cast("Cause", what), now)
