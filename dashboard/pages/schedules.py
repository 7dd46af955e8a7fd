"""Schedules: the tasks that the fleet gives itself, as `fleet schedule` lists them."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dashboard.view import View
from workers.schedule.listing import lines


def routes(view: View) -> APIRouter:
    """Make the page."""
    router = APIRouter()

    @router.get("/schedules")
    def schedules(request: Request) -> HTMLResponse:
        with view.reading() as db:
            found = lines(db, view.catalog)
        return view.page(request, "schedules", schedule=found, catalog=view.catalog)

    return router
