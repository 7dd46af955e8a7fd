"""Models: what each one can do now, what is left of its quotas, how it did, what it costs."""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dashboard.quota import quotas
from dashboard.view import View
from ledger.spend import spend
from workers.model_states import model_states, prices

A_MONTH = timedelta(days=30)


def routes(view: View) -> APIRouter:
    """Make the page."""
    router = APIRouter()

    @router.get("/models")
    def models(request: Request) -> HTMLResponse:
        with view.reading() as db:
            found = model_states(db, view.catalog)
            spent = {row.key[0]: row for row in spend(db, datetime.now(UTC) - A_MONTH, by=("model",))}
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
