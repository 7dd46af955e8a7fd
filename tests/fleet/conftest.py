"""The Procfile's own processes on embedded servers: a dispatcher, an echo worker, and a user's own app."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from celery import Celery
from redis import Redis

from config.settings import Settings, read_settings, settings
from ledger.migrate import migrate
from workers import embedded
from workers.app import make_app
from workers.catalog import catalog

ROOT = Path(__file__).parents[2]
ECHO_CATALOG = ROOT / "tests/catalogs/echo"


@contextmanager
def servers(home: Path, config: Path) -> Generator[dict[str, str]]:
    """Run Redis and a migrated Postgres, and give the environment in which a fleet finds them."""
    environment = {
        **os.environ,
        "FLEET_HOME": str(home),
        "FLEET_CONFIG": str(config),
        "PYTHONPATH": str(ROOT),
    }
    for name in ("FLEET_REDIS_URL", "FLEET_DATABASE_URL"):
        environment.pop(name, None)
    settings = read_settings(environment)
    embedded.start_redis(home, settings.sockets, durable=False)
    embedded.start_postgres(home, settings.sockets, durable=False)
    migrate(settings.database_url)
    yield environment
    embedded.stop_redis(home, settings.sockets)
    embedded.stop_postgres(home, settings.sockets)
    shutil.rmtree(settings.sockets)


@pytest.fixture(scope="session")
def environment(short_folder: Callable[[], Path]) -> Iterator[dict[str, str]]:
    """Give the environment of a fleet with a catalog made for tests."""
    with servers(short_folder(), ECHO_CATALOG) as environment:
        yield environment


@pytest.fixture(scope="session")
def fleet_settings(environment: dict[str, str]) -> Settings:
    return read_settings(environment)


@contextmanager
def process(environment: dict[str, str], *arguments: str) -> Generator[subprocess.Popen[bytes]]:
    """Run a Python process and end it, by force if it does not go."""
    running = subprocess.Popen([sys.executable, "-m", *arguments], env=environment, cwd=ROOT)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
            pytest.fail(f"{' '.join(arguments)} did not end within 20 s of SIGTERM")


@pytest.fixture(scope="session")
def fleet(environment: dict[str, str], fleet_settings: Settings) -> Iterator[Settings]:
    """Run a dispatcher, an echo worker, and a worker of a user's own Celery app."""
    with ExitStack() as stack:
        for arguments in (
            ("workers.cli", "dispatcher"),
            ("workers.cli", "worker", "echo"),
            ("celery", "-A", "tests.fleet.user_app", "worker", "--pool=threads", "-c2", "--loglevel=WARNING"),
        ):
            stack.enter_context(process(environment, *arguments))
        wait_for(fleet_settings, "SELECT count(*) FROM workers", 1, timeout_s=90)
        yield fleet_settings


def wait_for(settings: Settings, query: LiteralString, value: object, *, timeout_s: float = 30) -> None:
    """Wait until a query answers a value."""
    end = time.monotonic() + timeout_s
    found = None
    while time.monotonic() < end:
        with psycopg.connect(settings.database_url) as db:
            row = db.execute(query).fetchone()
            found = row[0] if row else None
        if found == value:
            return
        time.sleep(0.05)
    pytest.fail(f"{query!r} gave {found!r}, expected {value!r}")


@pytest.fixture(scope="session")
def app(environment: dict[str, str], fleet: Settings) -> Iterator[Celery]:
    """Point this process's `complete` at the fleet, as the environment does where it is set at the start."""
    from workers import app as module

    made = make_app(fleet)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FLEET_HOME", "FLEET_CONFIG"):
            patch.setenv(name, environment[name])
        settings.cache_clear()
        catalog.cache_clear()
        module.app.conf.update(broker_url=made.conf.broker_url, result_backend=made.conf.result_backend)
        yield module.app
    settings.cache_clear()
    catalog.cache_clear()


@pytest.fixture(scope="session")
def bare_app(fleet: Settings) -> Celery:
    """Make the app of a program that has only celery and the broker's URL."""
    return Celery("somebody-else", broker=fleet.broker_url, backend=fleet.broker_url, set_as_current=False)


@pytest.fixture
def seen(fleet: Settings) -> Iterator[Callable[[str], Sequence[str]]]:
    """Read what the user's own tasks were called with."""
    with Redis.from_url(fleet.redis_url, decode_responses=True) as redis:
        redis.delete("seen")

        def read(contains: str, timeout_s: float = 10) -> Sequence[str]:
            end = time.monotonic() + timeout_s
            while time.monotonic() < end:
                found = [line for line in map(str, redis.lrange("seen", 0, -1)) if contains in line]
                if found:
                    return found
                time.sleep(0.02)
            return []

        yield read
