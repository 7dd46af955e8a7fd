"""What routing tests are made from: a small catalog, tasks and moments."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

from config.catalog import Catalog
from config.models import Model, Price
from config.profiles import Focus, Profile, Routing
from routing.task import Needs, Task

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
    *models: Model, profiles: tuple[Profile, ...] = (), focuses: tuple[Focus, ...] = (), **routing: Any
) -> Catalog:
    known: dict[str, Any] = {"primary": models[0].name, **routing}
    return Catalog(
        providers={},
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
