"""Models: what each one can do now, what is left of its quotas, how it did, what it costs."""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dashboard.quota import quotas
from dashboard.view import View
from ledger.connect import Connection
from ledger.spend import Spend, spend
from workers.model_states import prices

A_MONTH = timedelta(days=30)

SPENT_FRESH_S = 10.0


def routes(view: View) -> APIRouter:
    """Make the page."""
    router = APIRouter()

    @router.get("/models")
    def models(request: Request) -> HTMLResponse:
        found = view.models()
        spent = view.memory.recall("spent", SPENT_FRESH_S, spent_by_model)
        today = datetime.now(UTC).date()
        return view.page(
            request,
            "models",
            found=[each for each in found if each.state != "retired"],
            retired=[each for each in found if each.state == "retired"],
            quotas={each.name: quotas(each.left) for each in found},
            prices={each.name: prices(each) for each in found},
            spent=spent,
            dated={name: model.price_on(today) for name, model in view.catalog.models.items()},
        )

    return router


def spent_by_model(db: Connection) -> dict[str, Spend]:
    """Add up the last 30 days of each model."""
    return {row.key[0]: row for row in spend(db, datetime.now(UTC) - A_MONTH, by=("model",))}
