"""What routing tests are made from: a small catalog, tasks and moments."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

from config.budgets import Budget
from config.catalog import Catalog
from config.models import Limits, Model, Price, Provider
from config.profiles import Focus, Profile, Routing
from routing.budgets import Amount
from routing.lessons import Cause, Lesson
from routing.task import Needs, Task
from routing.vitals import Ended, UnderWay, Vitals

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
TODAY = NOW.date()
SECOND = timedelta(seconds=1)


def a_model(name: str, **fields: Any) -> Model:
    tier = fields.pop("tier", "local")
    known: dict[str, Any] = {"engine": "cloud", "context_tokens": 8192, "name": name, "tier": tier}
    return Model(**{**known, **fields})


def a_paid_model(name: str, **fields: Any) -> Model:
    price = Price(
        input_usd_per_mtok=Decimal("0.56"),
        output_usd_per_mtok=Decimal("2.94"),
        since=date(2026, 1, 1),
        source="https://example.com",
        checked_on=date(2026, 1, 1),
    )
    return a_model(name, tier="paid", prices=(price,), **fields)


def a_profile(name: str, model: str, **fields: Any) -> Profile:
    known: dict[str, Any] = {
        "name": name,
        "model": model,
        "temperature": 0.5,
        "max_tokens": 100,
        "prompt": "hello",
    }
    return Profile(**{**known, **fields})


def a_catalog(
    *models: Model,
    profiles: tuple[Profile, ...] = (),
    focuses: tuple[Focus, ...] = (),
    providers: tuple[Provider, ...] = (),
    budgets: tuple[Budget, ...] = (),
    **routing: Any,
) -> Catalog:
    known: dict[str, Any] = {"primary": models[0].name, **routing}
    return Catalog(
        providers={provider.name: provider for provider in providers},
        budgets={budget.name: budget for budget in budgets},
        models={model.name: model for model in models},
        profiles={profile.name: profile for profile in profiles},
        focuses={focus.name: focus for focus in focuses},
        routing=Routing(**known),
        schedule={},
    )


def a_task(**fields: Any) -> Task:
    known: dict[str, Any] = {
        "id": uuid4(),
        "profile": None,
        "focus": None,
        "model": None,
        "agent": "default",
        "priority": 0,
        "not_before": None,
        "deadline": None,
        "needs": Needs(prompt_tokens=10, max_tokens=100),
        "accepted_at": NOW,
        "patient_until": fields.get("accepted_at", NOW),
    }
    return Task(**{**known, **fields})


def limits(**values: int) -> Limits:
    return Limits.model_validate({"checked_on": TODAY, "source": "made up", **values})


def an_attempt(model: Model, tokens: int = 100, usd: str = "0", **fields: Any) -> UnderWay:
    return UnderWay(model, Amount(Decimal(usd), tokens), **fields)


def an_end(cause: Cause | None = None, at: datetime = NOW, **fields: Any) -> Ended:
    """Make the end of an attempt: a success, or a failure for a cause."""
    known: dict[str, Any] = {
        "outcome": "failed" if cause else "succeeded",
        "claimed_at": at,
        "finished_at": at,
        "tokens": 100,
        "cost_usd": Decimal(0),
        "lesson": Lesson(cause, again="same") if cause else None,
    }
    return Ended(**{**known, **fields})


def proven(vitals: Vitals, at: datetime = NOW) -> Vitals:
    """Let every model have answered just now."""
    for model in vitals.catalog.models.values():
        vitals.learn(model, None, an_end(at=at))
    return vitals
