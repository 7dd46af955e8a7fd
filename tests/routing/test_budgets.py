"""Budgets: reserved before, settled after, never over-run."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.budgets import Budget
from routing.errors import BudgetSpentError, refusal
from routing.plan import Plan, Refuse, Run, Wait, plan
from routing.scheduler import Scheduler
from routing.task import Needs, Task
from routing.vitals import Vitals
from tests.routing.made import NOW, a_catalog, a_model, a_paid_model, a_task, an_end

PAID = a_paid_model("kimi")
OTHER = a_paid_model("other")
LOCAL = a_model("qwen", engine="llama")
SLOTS = {"paid": 1000, "cpu.qwen": 1000}
WORST = Decimal("0.0002996")
"""What 10 tokens in and 100 out cost."""
MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)


def a_budget(**fields: Any) -> Budget:
    return Budget.model_validate({"name": "paid-a-day", "window": "day", "usd": 2 * WORST, **fields})


def a_scheduler(*budgets: Budget) -> Scheduler:
    catalog = a_catalog(PAID, OTHER, LOCAL, budgets=budgets, fallbacks=("qwen",))
    return Scheduler(catalog, Vitals(catalog, slots=SLOTS))


def place(scheduler: Scheduler, *tasks: Task, now: datetime = NOW) -> list[str]:
    """Add tasks, and tell where those went that need not wait."""
    for task in tasks:
        scheduler.add(task, 0, now)
    return [
        decision.model.name if isinstance(decision, Run) else "refused"
        for _, decision in scheduler.decisions(now)
    ]


def decide(scheduler: Scheduler, task: Task, now: datetime = NOW) -> Plan:
    return scheduler.decide(task, now)


def test_the_third_task_of_a_budget_for_two_goes_to_a_cheaper_model():
    """`cheaper` is the default: the work is done all the same."""
    scheduler = a_scheduler(a_budget(tier="paid"))

    assert place(scheduler, a_task(), a_task(), a_task()) == ["kimi", "kimi", "qwen"]


def test_a_spent_budget_says_how_much_is_left_and_until_when():
    """Whoever asks why the local model answered gets the reason in dollars."""
    scheduler = a_scheduler(a_budget(tier="paid"))
    place(scheduler, a_task())
    place(scheduler, a_task(needs=Needs(10, 50)))

    decision = decide(scheduler, a_task())

    objection = dict(decision.passed_over)["kimi"]
    assert objection.why == (
        "budget paid-a-day has $0.000147 left of $0.0005992 a day, this could use $0.0002996"
    )
    assert objection.until == MIDNIGHT


def test_a_budget_that_holds_makes_the_task_wait_for_the_next_window():
    """`hold`: better tomorrow than by a smaller model."""
    scheduler = a_scheduler(a_budget(tier="paid", on_spent="hold"))

    assert place(scheduler, a_task(), a_task(), a_task()) == ["kimi", "kimi"]
    assert isinstance(decide(scheduler, a_task()), Wait)
    assert scheduler.look_again_at == MIDNIGHT


def test_a_budget_that_rejects_fails_the_task_with_the_reason():
    """`reject`: somebody wants to know at once."""
    scheduler = a_scheduler(a_budget(tier="paid", on_spent="reject"))
    place(scheduler, a_task(), a_task())

    decision = decide(scheduler, a_task())

    assert isinstance(decision, Refuse)
    error = refusal(None, decision.passed_over)
    assert isinstance(error, BudgetSpentError)
    assert "budget paid-a-day has $0 left" in str(error)


def test_what_was_not_used_comes_back():
    """The worst case is reserved; the real cost is a fraction of it."""
    scheduler = a_scheduler(a_budget(tier="paid"))
    place(scheduler, a_task(), a_task())
    full = decide(scheduler, a_task())
    key = next(iter(scheduler.vitals.under_way))

    scheduler.vitals.ended(key, an_end(cost_usd=Decimal("0.00001"))._replace(tokens=10))

    assert isinstance(full, Run)
    assert full.model == LOCAL
    assert place(scheduler, a_task(needs=Needs(10, 90))) == ["kimi"]


@pytest.mark.parametrize(
    ("end", "left"),
    [
        (an_end(outcome="cancelled", claimed_at=None), "$0.0005992 of $0.0005992 this day"),
        (an_end("fault", cost_usd=None), "$0.0002996 of $0.0005992 this day"),
        (an_end(outcome="lost", lesson=None, cost_usd=None), "$0.0002996 of $0.0005992 this day"),
    ],
    ids=["never claimed", "cost unknown", "lost"],
)
def test_what_is_not_known_counts_as_reserved(end: Any, left: str):
    """Spend may be over-stated, never under-stated."""
    scheduler = a_scheduler(a_budget(tier="paid"))
    place(scheduler, a_task())

    scheduler.vitals.ended(next(iter(scheduler.vitals.under_way)), end)

    assert scheduler.vitals.left(PAID, NOW)["budget paid-a-day"] == left


def test_money_that_is_left_has_the_digits_that_matter():
    """Ten digits of a budget of two dollars are read by nobody."""
    scheduler = a_scheduler(a_budget(tier="paid", usd=Decimal(2)))
    place(scheduler, a_task())

    scheduler.vitals.ended(next(iter(scheduler.vitals.under_way)), an_end(cost_usd=Decimal("0.00205155")))

    assert scheduler.vitals.left(PAID, NOW)["budget paid-a-day"] == "$1.997 of $2 this day"


def test_a_new_day_brings_new_money_and_what_runs_counts_in_it():
    """An attempt counts in the window in which it ends."""
    scheduler = a_scheduler(a_budget(tier="paid"))
    place(scheduler, a_task(), a_task())
    first, second = list(scheduler.vitals.under_way)
    scheduler.vitals.ended(first, an_end(cost_usd=WORST))

    tomorrow = NOW + timedelta(days=1)
    assert place(scheduler, a_task(), a_task(), now=tomorrow) == ["kimi", "qwen"]
    scheduler.vitals.ended(second, an_end(at=tomorrow, cost_usd=Decimal(0)))
    assert place(scheduler, a_task(), now=tomorrow) == ["kimi"]


@pytest.mark.parametrize(
    ("scope", "counted", "free"),
    [
        ({}, a_task(), None),
        ({"agent": "ada"}, a_task(agent="ada"), a_task(agent="bob")),
        ({"model": "other"}, a_task(model="other"), a_task(model="kimi")),
        ({"tier": "paid"}, a_task(), a_task(model="qwen")),
    ],
    ids=["all", "agent", "model", "tier"],
)
def test_a_budget_counts_its_scope_and_nothing_else(scope: dict[str, str], counted: Task, free: Task | None):
    """One agent's spending must not end another's work."""
    scheduler = a_scheduler(a_budget(**scope, requests=1, usd=None, on_spent="hold"))

    assert len(place(scheduler, counted, replace(counted, id=uuid4()))) == 1
    if free is not None:
        assert len(place(scheduler, free, replace(free, id=uuid4()))) == 2


@pytest.mark.parametrize("unit", ["tokens", "requests"])
def test_a_budget_counts_tokens_or_requests_as_well(unit: str):
    """Free models cost no dollars, and yet somebody wants to bound them."""
    allowed = {"tokens": 220, "requests": 2}[unit]
    scheduler = a_scheduler(a_budget(usd=None, model="kimi", **{unit: allowed}))

    assert place(scheduler, a_task(), a_task(), a_task()) == ["kimi", "kimi", "qwen"]


def test_a_task_that_no_budget_could_ever_pay_for_does_not_wait_for_the_next_one():
    """Midnight does not help it."""
    scheduler = a_scheduler(a_budget(tier="paid", usd="0.0001", on_spent="hold"))

    assert place(scheduler, a_task()) == ["qwen"]


def test_a_model_without_a_price_is_not_paid_from_a_budget_in_dollars():
    """Unknown is not free."""
    unpriced = a_model("unpriced", tier="paid")
    catalog = a_catalog(unpriced, LOCAL, budgets=(a_budget(),), fallbacks=("qwen",))
    vitals = Vitals(catalog, slots=SLOTS)

    decision = plan(a_task(), [unpriced, LOCAL], catalog, vitals, NOW)

    assert isinstance(decision, Run)
    assert decision.model == LOCAL
    assert decision.passed_over[0][1].why == "its price is unknown, and budget paid-a-day bounds dollars"


@given(
    cents=st.integers(0, 50),
    moves=st.lists(
        st.tuples(st.integers(0, 400), st.integers(1, 4000), st.integers(0, 100), st.integers(0, 40_000)),
        max_size=120,
    ),
)
def test_no_window_ever_costs_more_than_its_budget(cents: int, moves: list[tuple[int, int, int, int]]):
    """Many in flight, of all sizes, ending in any order and at any part of the worst case, over days."""
    allowed = Decimal(cents) / 100
    scheduler = a_scheduler(a_budget(tier="paid", usd=str(allowed)))
    now, spent = NOW, dict[datetime, Decimal]()
    for number, (prompt, most, share, gap_s) in enumerate(moves):
        now += timedelta(seconds=gap_s)
        place(scheduler, a_task(id=UUID(int=number), needs=Needs(prompt, most)), now=now)
        under_way = list(scheduler.vitals.under_way.items())
        if number % 3 and under_way:
            key, attempt = under_way[number % len(under_way)]
            cost = (attempt.amount.usd or Decimal(0)) * share / 100
            scheduler.vitals.ended(key, an_end(at=now, cost_usd=cost))
            day = now.replace(hour=0, minute=0, second=0)
            spent[day] = spent.get(day, Decimal(0)) + cost

    assert all(of_day <= allowed for of_day in spent.values())


def test_two_hundred_in_flight_never_over_run_a_budget_by_a_cent():
    """All that is under way at its worst, and all that is settled, together fit."""
    scheduler = a_scheduler(a_budget(tier="paid", usd="0.05"))

    went = place(scheduler, *(a_task() for _ in range(300)))

    assert went.count("kimi") == int(Decimal("0.05") / WORST) == 166
    assert went.count("qwen") == 134
    for key in list(scheduler.vitals.under_way):
        scheduler.vitals.ended(key, an_end(cost_usd=scheduler.vitals.under_way[key].amount.usd))
    assert scheduler.vitals.budgets.purses["paid-a-day"].used(NOW) <= Decimal("0.05")
    assert place(scheduler, a_task()) == ["qwen"]
