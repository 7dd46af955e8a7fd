"""A brain and a lane in the test's own process, on a real Redis and a real Postgres."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from config.catalog import Catalog, load_catalog
from config.settings import Settings, read_settings
from config.settings import settings as settings_of_process
from ledger import leadership
from ledger.connect import Connection
from tests.workers.made import LEASE_S
from workers import lane as lanes
from workers.app import make_app
from workers.brain import Brain
from workers.inbox import Inbox
from workers.lane import Lane

CATALOG = Path(__file__).parents[1] / "catalogs/echo"


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog(CATALOG)


@pytest.fixture
def settings(redis_url: str, db_url: str) -> Settings:
    return read_settings({"FLEET_REDIS_URL": redis_url, "FLEET_DATABASE_URL": db_url})


@pytest.fixture
def app(settings: Settings) -> Celery:
    return make_app(settings)


@pytest.fixture
def brain(db: Connection, redis: Redis, app: Celery, catalog: Catalog) -> Brain:
    epoch = leadership.take(db, "test", LEASE_S)
    assert epoch is not None
    return Brain(db, redis, app, catalog, epoch, Inbox(redis, "dispatch"))


@pytest.fixture
def lane(db_url: str, redis_url: str, catalog: Catalog) -> Iterator[Lane]:
    slots = {"echo.echo": 2, "echo.parrot": 2, "echo.scarce": 8, "echo.toll": 200, "mlx.absent": 1}
    slots |= {"echo.vectors": 2, "echo.other-vectors": 2}
    opened = Lane(db_url, redis_url, catalog, "worker@test", slots)
    lanes.open_lane = opened
    yield opened
    lanes.open_lane = None
    opened.close()


@pytest.fixture
def in_the_environment(redis_url: str, db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Point this process's settings at the test's own ledger, as a caller's are."""
    monkeypatch.setenv("FLEET_REDIS_URL", redis_url)
    monkeypatch.setenv("FLEET_DATABASE_URL", db_url)
    settings_of_process.cache_clear()
    yield
    settings_of_process.cache_clear()
