"""The dashboard in the test's own process, on a ledger of the test's own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from config.catalog import Catalog, load_catalog
from config.settings import read_settings
from dashboard.app import make_dashboard

CATALOG = Path(__file__).parents[1] / "catalogs/echo"

Visit = Callable[..., TestClient]


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return load_catalog(CATALOG)


@pytest.fixture
def visit(redis_url: str, db_url: str, catalog: Catalog) -> Iterator[Visit]:
    """Open a dashboard with settings of the test's own, as a browser on some address."""
    opened: list[TestClient] = []

    def open_it(*, peer: str = "127.0.0.1", host: str = "http://localhost:5550", **given: str) -> TestClient:
        environment: dict[str, Any] = {"FLEET_REDIS_URL": redis_url, "FLEET_DATABASE_URL": db_url, **given}
        app = make_dashboard(read_settings(environment), catalog)
        client = TestClient(app, base_url=host, client=(peer, 50000), follow_redirects=False)
        opened.append(client)
        return client.__enter__()

    yield open_it
    for client in opened:
        client.__exit__()


@pytest.fixture
def pages(visit: Visit) -> TestClient:
    """Open the dashboard of somebody on this machine."""
    return visit()
