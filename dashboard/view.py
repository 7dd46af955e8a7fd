"""What every page needs: the ledger to read, the catalog, and the templates."""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from config.catalog import Catalog
from config.settings import Settings
from dashboard import text
from dashboard.memory import Memory
from ledger.connect import Connection
from ledger.pool import reading_pool
from workers.model_states import ModelState, model_states
from workers.reading import explained
from workers.words import duration, span

HERE = Path(__file__).parent

STATIC = HERE / "static"

MOST_CONNECTIONS = 4

MODELS_FRESH_S = 3.0

NAVIGATION = (
    ("/", "Overview"),
    ("/tasks", "Tasks"),
    ("/models", "Models"),
    ("/workers", "Workers"),
    ("/schedules", "Schedules"),
    ("/agents", "Agents"),
)


class View:
    """The ledger, the catalog and the templates of one dashboard."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self.settings = settings
        self.catalog = catalog
        self.pool = reading_pool(settings.dashboard_database_url, name="dashboard", most=MOST_CONNECTIONS)
        self.memory = Memory(self.reading)
        self.templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            finalize=text.visible,
            undefined=StrictUndefined,
            lstrip_blocks=True,
        )
        filters: dict[str, Any] = {
            "when": text.when,
            "timed": text.timed,
            "money": text.money,
            "count": text.count,
            "seconds": text.seconds,
            "shortened": text.shortened,
            "duration": duration,
        }
        self.templates.filters.update(filters)
        known: dict[str, Any] = {
            "navigation": NAVIGATION,
            "asks_password": settings.dashboard_password_hash is not None,
            "span": span,
            "static": {file.name: f"/static/{file.name}?{mark(file)}" for file in STATIC.iterdir()},
        }
        self.templates.globals.update(known)

    def models(self) -> list[ModelState]:
        """Look at all models, as `fleet models` does."""
        return self.memory.recall("models", MODELS_FRESH_S, lambda db: model_states(db, self.catalog))

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """Lend a connection that cannot write.

        Raises:
            NotThereError: the ledger does not answer, or is not there in the form that this version knows.
        """
        with explained(self.settings.dashboard_database_url), self.pool.connection() as db:
            yield db

    def flower_url(self, request: Request) -> str:
        """Tell where Flower is for the reader: on the host that the dashboard was asked at."""
        host = request.url.hostname or "localhost"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.settings.flower_port}"

    def page(self, request: Request, name: str, status: int = 200, **values: object) -> HTMLResponse:
        """Write a page."""
        template = self.templates.get_template(f"{name}.html")
        return HTMLResponse(
            template.render(path=request.url.path, flower_url=self.flower_url(request), **values), status
        )


def mark(file: Path) -> str:
    """Mark a file's content, so that browsers fetch it again when it has changed."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
