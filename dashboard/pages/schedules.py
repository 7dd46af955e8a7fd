"""Schedules: the tasks that the fleet gives itself, and when each came last."""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dashboard.view import View
from ledger import browse
from ledger.browse import Filter
from workers.beat import AGENT

LATELY = timedelta(days=7)


def routes(view: View) -> APIRouter:
    """Make the page."""
    router = APIRouter()

    @router.get("/schedules")
    def schedules(request: Request) -> HTMLResponse:
        since = datetime.now(UTC) - LATELY
        with view.reading() as db:
            last = {
                name: browse.page(db, Filter(agent=AGENT, profile=each.profile, since=since), None, 1).tasks
                for name, each in view.catalog.schedule.items()
            }
        return view.page(request, "schedules", schedule=view.catalog.schedule, last=last, agent=AGENT)

    return router
