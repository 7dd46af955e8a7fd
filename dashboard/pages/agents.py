"""Agents: who spends what; the same for profiles, models and tiers."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from config.primary import primary_prices
from dashboard.view import View
from ledger.spend import By, spend, together

BY: Mapping[str, By] = {"agent": "agent", "profile": "profile", "model": "model", "tier": "tier"}

DAYS = {"1": "last day", "7": "last 7 days", "30": "last 30 days", "365": "last year"}

FRESH_S = {"1": 5.0, "7": 5.0, "30": 10.0, "365": 60.0}
"""How old the sums may be: a year that takes long to add up changes little in a minute."""

MOST_SHOWN = 200
"""Groups on the page; the others are in `fleet spend`."""


def routes(view: View) -> APIRouter:
    """Make the page."""
    router = APIRouter()

    @router.get("/agents")
    def agents(request: Request, by: str = "agent", days: str = "7") -> HTMLResponse:
        by, days = BY.get(by, "agent"), days if days in DAYS else "7"
        since = datetime.now(UTC) - timedelta(days=int(days))
        primary = primary_prices(view.catalog)
        found = view.memory.recall(
            ("spend", by, days),
            FRESH_S[days],
            lambda db: sorted(
                spend(db, since, by=(BY[by],), primary=primary),
                key=lambda each: (each.cost_usd, each.tokens),
                reverse=True,
            ),
        )
        return view.page(
            request,
            "agents",
            rows=found[:MOST_SHOWN],
            others=max(len(found) - MOST_SHOWN, 0),
            total=together(found) if found else None,
            by=by,
            bys=list(BY),
            days=days,
            periods=DAYS,
            primary=view.catalog.routing.primary,
        )

    return router
