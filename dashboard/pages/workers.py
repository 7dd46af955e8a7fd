"""Workers: where they listen, how much they run, and when they were last seen."""

import socket
from typing import NamedTuple

import psutil
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
    memory_bytes: int | None
    """None: it runs on another host, or no more."""


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
        memory_of(load),
    )


def memory_of(load: WorkerLoad) -> int | None:
    """Tell how much memory a worker's process has, where it runs on this host."""
    if load.host != socket.gethostname():
        return None
    try:
        process = psutil.Process(load.pid)
        return process.memory_info().rss if "worker" in process.cmdline() else None
    except psutil.Error:
        return None
