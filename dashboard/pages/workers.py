"""Workers: where they listen, how much they run, and when they were last seen."""

from typing import NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from config.catalog import Catalog
from dashboard.view import View
from ledger import leadership, usage
from ledger.usage import WorkerLoad
from workers.picture import SHOWN_S, is_there


class SeenWorker(NamedTuple):
    """A worker as the page shows it."""

    load: WorkerLoad
    is_there: bool
    slots: int
    models: list[str]


def routes(view: View) -> APIRouter:
    """Make the page."""
    router = APIRouter()

    @router.get("/workers")
    def workers(request: Request) -> HTMLResponse:
        with view.reading() as db:
            found = usage.workers(db, SHOWN_S)
            leader = leadership.current(db)
            tasks = usage.open_tasks(db)
        seen = [seen_worker(load, view.catalog) for load in found]
        return view.page(request, "workers", workers=seen, leader=leader, tasks=tasks)

    return router


def seen_worker(load: WorkerLoad, catalog: Catalog) -> SeenWorker:
    return SeenWorker(
        load,
        is_there(load),
        sum(load.slots.values()),
        [model.name for model in catalog.models.values() if model.queue in load.slots],
    )
