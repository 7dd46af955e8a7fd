"""The dashboard as an ASGI application."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware

from config.catalog import Catalog
from config.errors import ConfigError
from config.settings import Settings
from dashboard.door import HEADERS, Door
from dashboard.metrics import exposition
from dashboard.pages import agents, login, models, overview, schedules, task, tasks, texts, workers
from dashboard.view import STATIC, View
from workers.errors import FleetError, NotThereError, UnknownTaskError

PAGES = (overview, tasks, task, texts, models, workers, schedules, agents)

LEAST_TO_COMPRESS = 1000

A_YEAR = "public, max-age=31536000, immutable"
"""Of static files, whose address changes with their content."""


def make_dashboard(settings: Settings, catalog: Catalog) -> FastAPI:
    """Make the application of a fleet."""
    view, door = View(settings, catalog), Door(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        view.pool.open(wait=False)
        yield
        view.memory.close()
        view.pool.close()

    app = FastAPI(title="Aria Fleet", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(GZipMiddleware, minimum_size=LEAST_TO_COMPRESS)

    @app.middleware("http")
    async def guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        refusal = await run_in_threadpool(door.refusal, request)  # a password takes a while to look at
        answer = refusal or await go_on(request)
        for name, value in HEADERS.items():
            answer.headers.setdefault(name, value)
        kept = request.url.path.startswith("/static/") and request.url.query
        answer.headers.setdefault("Cache-Control", A_YEAR if kept else "no-store")
        return answer

    @app.exception_handler(ConfigError)
    @app.exception_handler(FleetError)
    def cannot(request: Request, error: FleetError | ConfigError) -> Response:
        return view.page(request, "error", status_of(error), what=str(error))

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        return view.page(request, "error", error.status_code, what=f"{error.detail}.")

    app.include_router(login.routes(view, door))
    for page in PAGES:
        app.include_router(page.routes(view))

    @app.get("/metrics")
    def metrics(request: Request) -> Response:
        body, content_type = exposition(view.reading, request.headers.get("Accept", ""))
        return Response(body, media_type=content_type)

    app.mount("/static", StaticFiles(directory=STATIC))
    return app


def status_of(error: FleetError | ConfigError) -> int:
    if isinstance(error, UnknownTaskError):
        return 404
    return 503 if isinstance(error, NotThereError) else 409
