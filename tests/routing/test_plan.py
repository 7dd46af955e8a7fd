"""Decisions: which model, or why none."""

from collections import Counter
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.catalog import Catalog
from config.profiles import Focus
from routing.candidates import candidates
from routing.estimates import Estimates
from routing.lessons import Lesson, Tried
from routing.plan import Plan, Refuse, Run, Wait, plan, suiting
from routing.task import Needs, Task
from routing.vitals import Vitals
from tests.routing.made import (
    NOW,
    TODAY,
    a_catalog,
    a_model,
    a_paid_model,
    a_profile,
    a_task,
    an_attempt,
    proven,
)

LOCAL = a_model("qwen", engine="llama")
STARTER = a_model("starter", engine="llama", max_output_tokens=512, context_tokens=2048)
FREE = a_model("trinity", tier="free")
PAID = a_paid_model("kimi", context_tokens=262_144)
SOCIAL = a_profile("social", "trinity")
PRIVATE = a_profile("private", "trinity", max_tier="local", fallbacks=("qwen",))
CATALOG = a_catalog(
    PAID,
    FREE,
    LOCAL,
    STARTER,
    profiles=(SOCIAL, PRIVATE),
    focuses=(Focus(name="writer", model="trinity"),),
    fallbacks=("trinity", "qwen"),
    last_resort=("starter",),
)


def some_vitals(
    slots: dict[str, int], under_way: dict[str, int] | None = None, service_s: dict[str, float] | None = None
) -> Vitals:
    """Make a picture with so many attempts under way, by model."""
    vitals = proven(Vitals(CATALOG, slots=slots, service_s=service_s or {}))
    for model, count in (under_way or {}).items():
        for _ in range(count):
            vitals.placed((uuid4(), 1), an_attempt(CATALOG.model(model)))
    return vitals


EVERYTHING_UP = some_vitals(slots={"paid": 4, "free": 4, "cpu.qwen": 1, "cpu.starter": 1})


def tried(model: str, why: str, **lesson: Any) -> Tried:
    return Tried(model, why, Lesson(**lesson))


def names(task: Task, catalog: Catalog = CATALOG) -> list[str]:
    return [model.name for model in candidates(task, catalog, TODAY)]


def decide(task: Task, vitals: Vitals, catalog: Catalog = CATALOG) -> Plan:
    return plan(task, candidates(task, catalog, TODAY), catalog, vitals, NOW)


def why(decision: Plan) -> dict[str, str]:
    return {model: objection.why for model, objection in decision.passed_over}


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ({"model": "qwen", "profile": "social", "focus": "writer"}, "qwen"),
        ({"profile": "social"}, "trinity"),
        ({"focus": "writer"}, "trinity"),
        ({}, "kimi"),
    ],
)
def test_the_callers_model_goes_before_the_profiles_and_the_focuses(asked: dict[str, str], first: str):
    """Whoever names a model means it."""
    assert names(a_task(**asked))[0] == first


def test_candidates_are_listed_once_and_end_with_the_last_resort():
    """A model that was tried must not come up again as a fallback of itself."""
    assert names(a_task(profile="social")) == ["trinity", "qwen", "starter"]


def test_a_retired_model_stands_for_its_successor():
    """Model ids die; profiles that name them must not die with them."""
    old = a_paid_model("old", retired_on=TODAY, successor="kimi")

    assert names(a_task(model="old"), a_catalog(PAID, old)) == ["kimi"]


def test_the_first_ready_candidate_runs():
    """The order is the user's wish."""
    decision = decide(a_task(profile="social"), EVERYTHING_UP)

    assert decision == Run(FREE, ())


def test_a_candidate_without_a_worker_is_passed_over_and_says_so():
    """The Mac that was down, and nobody noticed."""
    decision = decide(a_task(), some_vitals({"cpu.qwen": 1}))

    assert isinstance(decision, Run)
    assert decision.model == LOCAL
    assert why(decision) == {
        "kimi": "no live worker on queue paid",
        "trinity": "no live worker on queue free",
    }


CHORES = a_catalog(PAID, FREE, LOCAL, profiles=(a_profile("chores", "qwen", fallbacks=("trinity", "kimi")),))


@pytest.mark.parametrize(
    ("away", "patience_s", "there", "taken"),
    [
        (["cpu.qwen"], 60, ["paid"], None),
        (["cpu.qwen"], 60, ["paid", "free"], "trinity"),
        (["cpu.qwen"], 0, ["paid"], "kimi"),
        ([], 60, ["paid"], "kimi"),
    ],
    ids=["rather than pay", "not rather than what is free too", "not for ever", "not where there was none"],
)
def test_a_task_waits_for_a_worker_that_is_expected_back(
    away: list[str], patience_s: float, there: list[str], taken: str | None
):
    """A Mac slept for an hour, and everything that had two hours to wait was paid for at once."""
    vitals = proven(Vitals(CHORES, slots=dict.fromkeys(there, 4), away=away))
    task = a_task(profile="chores", patient_until=NOW + timedelta(seconds=patience_s))

    decision = decide(task, vitals, CHORES)

    assert (decision.model.name if isinstance(decision, Run) else None) == taken


def test_a_task_waits_while_every_slot_is_taken():
    """Bound at the last moment: until a slot is free the task can still change its mind."""
    vitals = some_vitals({"cpu.qwen": 2}, {"qwen": 2})

    decision = decide(a_task(model="qwen"), vitals)

    assert isinstance(decision, Wait)
    assert why(decision)["qwen"] == "all 2 slots of queue cpu.qwen are taken"


def test_a_fast_worker_gets_work_ahead_and_a_slow_one_does_not():
    """A worker that needs 2 ms must not wait for the brain; one that needs 5 s must not hoard tasks."""
    fast = some_vitals({"cpu.qwen": 8}, {"qwen": 8}, {"cpu.qwen": 0.002})
    slow = some_vitals({"cpu.qwen": 8}, {"qwen": 8}, {"cpu.qwen": 5.0})

    assert fast.room("cpu.qwen") == 1000
    assert slow.room("cpu.qwen") == 0


def test_a_profile_bounded_to_local_models_never_leaves_the_house():
    """`max_tier: local` is a promise about money and about privacy."""
    everything_but_local = some_vitals({"paid": 4, "free": 4})

    decision = decide(a_task(profile="private"), everything_but_local)

    assert isinstance(decision, Wait)
    assert why(decision)["trinity"] == "tier free is above the profile's max_tier local"


def test_a_task_bounds_its_own_tier_and_cost():
    """An agent that may spend a cent says so, and no model that could cost two is called."""
    free_only = decide(a_task(model="kimi", needs=Needs(10, 100, max_tier="free")), EVERYTHING_UP)
    cheap = decide(a_task(model="kimi", needs=Needs(10, 100, max_cost_usd=Decimal("0.0001"))), EVERYTHING_UP)
    enough = decide(a_task(model="kimi", needs=Needs(10, 100, max_cost_usd=Decimal("0.01"))), EVERYTHING_UP)

    assert why(free_only)["kimi"] == "tier paid is above the task's max_tier free"
    assert why(cheap)["kimi"] == "could cost $0.0002996, the task allows $0.0001"
    assert isinstance(enough, Run)
    assert enough.model == PAID


def test_tasks_of_a_kind_suit_the_same_models():
    """Or a long prompt that must wait would hold up a short one whose model is free."""
    short, long = a_task(needs=Needs(10, 100)), a_task(needs=Needs(8100, 100))

    found = [
        suiting(task, candidates(task, CATALOG, TODAY), CATALOG, TODAY, Estimates()) for task in (short, long)
    ]

    assert found == [("kimi", "trinity", "qwen", "starter"), ("kimi",)]


def test_a_prompt_that_does_not_fit_goes_to_a_larger_model():
    """A context overflow costs a call to find out."""
    task = a_task(profile="social", needs=Needs(prompt_tokens=9000, max_tokens=100), model="qwen")

    decision = decide(task, EVERYTHING_UP)

    assert isinstance(decision, Refuse)
    assert why(decision)["qwen"] == "needs up to 9100 tokens, its context has 8192"


def test_a_model_with_a_short_answer_takes_a_task_that_would_allow_a_longer_one():
    """max_tokens is a bound: the starter model may answer briefly where nothing else answers at all."""
    task = a_task(needs=Needs(prompt_tokens=1000, max_tokens=8192))

    decision = decide(task, some_vitals({"cpu.starter": 1}))

    assert isinstance(decision, Run)
    assert decision.model == STARTER


def test_a_task_that_every_model_has_failed_is_refused_with_what_was_tried():
    """Trying again what failed would burn money in a circle."""
    task = a_task(
        model="qwen",
        tried=tuple(
            tried(*each) for each in (("qwen", "broken"), ("trinity", "404"), ("starter", "nonsense"))
        ),
    )

    decision = decide(task, EVERYTHING_UP)

    assert isinstance(decision, Refuse)
    assert why(decision) == {"qwen": "tried: broken", "trinity": "tried: 404", "starter": "tried: nonsense"}


FAILED = [tried("kimi", "x"), tried("qwen", "y", cause="fault", again="same"), Tried("trinity", "lost", None)]

tasks = st.builds(
    a_task,
    profile=st.sampled_from([None, "social", "private"]),
    focus=st.sampled_from([None, "writer"]),
    model=st.sampled_from([None, "kimi", "trinity", "qwen", "starter"]),
    needs=st.builds(Needs, prompt_tokens=st.integers(0, 300_000), max_tokens=st.integers(1, 100_000)),
    tried=st.lists(
        st.sampled_from([tried("kimi", "x"), tried("qwen", "y"), Tried("trinity", "lost", None)]), max_size=3
    ).map(tuple),
    patient_until=st.integers(-100, 100).map(lambda s: NOW + timedelta(seconds=s)),
)
queues = ["paid", "free", "cpu.qwen", "cpu.starter"]
vitals = st.builds(
    some_vitals,
    slots=st.dictionaries(st.sampled_from(queues), st.integers(0, 8)),
    under_way=st.dictionaries(st.sampled_from(list(CATALOG.models)), st.integers(0, 12)),
    service_s=st.dictionaries(st.sampled_from(queues), st.floats(0, 100)),
)


@given(tasks, vitals)
def test_every_task_gets_a_decision_with_a_reason_for_each_candidate(task: Task, vitals: Vitals):
    """Total and explained: no exception, nobody passed over in silence, the same answer twice."""
    decision = decide(task, vitals)

    expected = names(task)
    passed = [model for model, _ in decision.passed_over]
    if isinstance(decision, Run):
        assert expected[: len(passed) + 1] == [*passed, decision.model.name]
        assert vitals.room(decision.model.queue) > 0
    else:
        assert passed == expected
        assert isinstance(decision, Refuse) == all(
            objection.is_final for _, objection in decision.passed_over
        )
    assert decide(task, vitals) == decision


@given(st.lists(tasks, max_size=30), vitals)
def test_placing_never_overfills_a_queue(waiting: list[Task], vitals: Vitals):
    """N slots mean N, also within one batch of decisions."""
    room = {queue: max(0, vitals.room(queue)) for queue in queues}
    placed: Counter[str] = Counter()
    for task in waiting:
        decision = decide(task, vitals)
        if isinstance(decision, Run):
            vitals.placed((task.id, 1), an_attempt(decision.model))
            placed[decision.model.queue] += 1

    assert all(placed[queue] <= room[queue] for queue in queues)
