"""What a provider says of its account: paid tasks need credit, and free ones have their number."""

from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pytest

from config.models import Limits, Model, Provider
from routing.account import BELIEVED, Account
from routing.lessons import Lesson
from routing.plan import Plan, Run, Wait, plan
from routing.vitals import Vitals
from tests.routing.made import NOW, SECOND, a_catalog, a_model, a_paid_model, a_task, an_end

SELLER = Provider(name="seller", quota="moonshot", api_base="http://seller.example/v1")
PAID = a_paid_model("dear", provider="seller", upstream="dear")
FREE = a_model("gift", tier="free", provider="seller", upstream="gift")
CATALOG = a_catalog(PAID, FREE, providers=(SELLER,))
EMPTY = Account(NOW, Decimal(0))
FULL = Account(NOW, Decimal(5))
KEY = (UUID(int=1), 1)


def decide(vitals: Vitals, model: Model = PAID, after_s: float = 1) -> Plan:
    return plan(a_task(), [model], CATALOG, vitals, NOW + after_s * SECOND)


def vitals_with(account: Account) -> Vitals:
    return Vitals(CATALOG, slots={"paid.seller": 4, "free.seller": 4}, accounts={"seller": account})


def test_an_account_without_credit_gets_no_paid_task():
    """Each one would be refused, and some providers count refusals."""
    decision = decide(vitals_with(EMPTY))

    assert isinstance(decision, Wait)
    [(_, objection)] = decision.passed_over
    assert objection.why == "provider seller says that no credit is left"
    assert isinstance(decide(vitals_with(FULL)), Run)
    assert isinstance(decide(vitals_with(Account(NOW))), Run)


def test_a_free_model_of_it_is_asked_all_the_same():
    """What costs nothing needs no credit."""
    assert isinstance(decide(vitals_with(EMPTY), FREE), Run)


def test_an_old_answer_decides_nothing():
    """Whoever asked has stopped to; the account may be full by now."""
    assert isinstance(decide(vitals_with(EMPTY), after_s=BELIEVED.total_seconds() + 1), Run)


def test_credit_that_has_come_back_ends_the_pause_after_a_402():
    """Somebody paid; the tasks that wait should not wait for the rest of the hour."""
    vitals = vitals_with(EMPTY)
    vitals.learn(PAID, KEY, an_end("payment", NOW)._replace(lesson=Lesson("payment", "provider", "other")))

    vitals.know({"seller": replace(EMPTY, asked_at=NOW + 5 * SECOND)})
    still = decide(vitals, after_s=10)
    vitals.know({"seller": replace(FULL, asked_at=NOW + 20 * SECOND)})

    assert isinstance(still, Wait)
    assert isinstance(decide(vitals, after_s=21), Run)


def test_a_402_is_believed_where_the_account_never_said_that_it_is_empty():
    """OpenRouter tells what is left of a key, not of the account: tried again and again, it refuses each."""
    vitals = vitals_with(FULL)
    vitals.learn(PAID, KEY, an_end("payment", NOW)._replace(lesson=Lesson("payment", "provider", "other")))

    vitals.know({"seller": replace(FULL, asked_at=NOW + 5 * SECOND)})

    assert isinstance(decide(vitals, after_s=10), Wait)


@pytest.mark.parametrize(
    ("pinned", "told", "allowed"),
    [
        (None, Account(NOW), 50),
        (None, Account(NOW, is_free_tier=True), 50),
        (None, Account(NOW, is_free_tier=False), 1000),
        (200, Account(NOW, is_free_tier=False), 200),
    ],
)
def test_the_daily_limit_follows_the_account(pinned: int | None, told: Account, allowed: int):
    """Who bought credits has twenty times the requests; who wrote a number means it."""
    limits = Limits(requests_per_day=pinned, source="x", checked_on=NOW.date()) if pinned else Limits()
    account = Provider(name="openrouter", quota="openrouter", limits=limits)
    model = a_model("free", tier="free", provider="openrouter", upstream="free")
    catalog = a_catalog(model, providers=(account,))
    vitals = Vitals(catalog, slots={"free.openrouter": 4})

    vitals.know({"openrouter": told})

    left = f"{allowed:,} of {allowed:,} requests today"
    assert vitals.left(model, NOW) == {"provider openrouter": left}


def test_what_is_left_of_an_account_is_shown():
    """`fleet models` is where somebody looks."""
    assert vitals_with(FULL).left(PAID, NOW) == {"provider seller": "$5.00 of credit"}
