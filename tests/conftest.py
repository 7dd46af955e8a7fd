"""A real Redis and a real Postgres for every test: the embedded ones, in a folder of their own."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from redis import Redis

from ledger import leadership
from ledger.connect import Connection, connect
from workers import embedded

TEMPLATE = "fleet_template"


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Callable[[], Path]]:
    """Make folders whose paths leave room for a socket's name, which pytest's tmp_path does not."""
    made: list[Path] = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="fleet-", dir="/tmp")))
        if os.geteuid() == 0:
            made[-1].chmod(0o755)  # Postgres runs as nobody, who has to pass
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_url(short_folder: Callable[[], Path]) -> Iterator[str]:
    """Start a Redis for the session; it keeps nothing on disk."""
    home = short_folder()
    yield embedded.start_redis(home, home / "s", durable=False).url
    embedded.stop_redis(home, home / "s")


@pytest.fixture(scope="session")
def database_url(short_folder: Callable[[], Path]) -> Iterator[str]:
    """Start a Postgres for the session; it does not wait for the disk."""
    home = short_folder()
    yield embedded.start_postgres(home, home / "s", durable=False).url
    embedded.stop_postgres(home, home / "s")


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """Empty the Redis at `redis_url` and connect to it."""
    with Redis.from_url(redis_url) as client:
        client.flushall()
        yield client
        client.flushall()


@pytest.fixture(scope="session")
def template_url(database_url: str) -> str:
    """Migrate a database once, for the tests to copy."""
    from ledger.migrate import migrate  # here: tests without a ledger do not wait for alembic

    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    url = database_named(TEMPLATE, database_url)
    migrate(url)
    return url


@pytest.fixture(scope="session")
def copy_names() -> Iterator[str]:
    return (f"test_{number}" for number in count(1))


@pytest.fixture
def db_url(database_url: str, template_url: str, copy_names: Iterator[str]) -> Iterator[str]:
    """Give a migrated database of the test's own, copied in milliseconds."""
    copy = next(copy_names)
    name, template = sql.Identifier(copy), sql.Identifier(TEMPLATE)
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(name, template))
        yield database_named(copy, template_url)
        # FORCE: what a failed test left connected must not fail the next one.
        db.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture
def db(db_url: str) -> Iterator[Connection]:
    """Connect to a ledger of the test's own."""
    with connect(db_url, name="test") as connection:
        yield connection


@pytest.fixture
def epoch(db: Connection) -> int:
    """Lead."""
    taken = leadership.take(db, "test", 60)
    assert taken is not None
    return taken


def database_named(name: str, url: str) -> str:
    """Name another database of the same server."""
    return re.sub(r"///\w+", f"///{name}", url, count=1)
