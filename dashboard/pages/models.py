"""Models: what each one can do now, what is left of its quotas, how it did, what it costs."""

import re
from datetime import UTC, datetime
from typing import NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dashboard.view import View
from workers.model_states import model_states, prices

LEFT_OF = re.compile(r"\$?([\d.,]*\d)[^\d$]* of \$?([\d.,]*\d)")
"""How `routing` writes what is left of a limit or a budget."""


class Quota(NamedTuple):
    """What is left of a limit or a budget."""

    whose: str
    text: str
    left: float
    allowed: float


def routes(view: View) -> APIRouter:
    """Make the page."""
    router = APIRouter()

    @router.get("/models")
    def models(request: Request) -> HTMLResponse:
        with view.reading() as db:
            found = model_states(db, view.catalog)
        today = datetime.now(UTC).date()
        return view.page(
            request,
            "models",
            found=[each for each in found if each.state != "retired"],
            retired=[each for each in found if each.state == "retired"],
            quotas={each.name: quotas(each.left) for each in found},
            prices={each.name: prices(each) for each in found},
            spent={},
            dated={name: model.price_on(today) for name, model in view.catalog.models.items()},
        )

    return router


def quotas(left: dict[str, str]) -> list[Quota]:
    """Read the numbers out of what is said to be left, for bars."""
    found: list[Quota] = []
    for whose, sentence in left.items():
        for part in sentence.split(", "):
            numbers = LEFT_OF.search(part)
            if numbers:
                now, allowed = (float(number.replace(",", "")) for number in numbers.groups())
                found.append(Quota(whose, part, now, allowed))
    return found
