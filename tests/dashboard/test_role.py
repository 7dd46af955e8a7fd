"""The role of the docs that can only read is enough for every page, and good for nothing else."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from starlette.testclient import TestClient

from ledger import roles
from ledger.connect import Connection
from tests.dashboard.made import a_done_task
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs/how-to/read-the-dashboard.md"

ROLE = "dashboard"


def statements(page: Path) -> list[bytes]:
    return [
        statement.strip().encode()
        for block in blocks(page)
        if block.language == "sql"
        for statement in block.text.split(";")
        if statement.strip()
    ]


@pytest.fixture
def reader_url(db: Connection, db_url: str):
    """Make the role as the docs say, and take it away again."""
    roles.make(db)
    for statement in statements(PAGE):
        db.execute(statement)
    yield db_url.replace("user=postgres", f"user={ROLE}")
    for name in (ROLE, roles.READER, roles.WORKER):
        db.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


def test_every_page_works_for_a_role_that_can_only_read(
    visit: Callable[..., TestClient], db: Connection, epoch: int, reader_url: str
):
    """A page that needs more would be found by the one who followed the advice."""
    task = a_done_task(db, epoch, prompt="hello", answer="hi")
    pages = visit(FLEET_DASHBOARD_DATABASE_URL=reader_url)

    assert urlsplit(reader_url).query.count(ROLE) == 1
    for path in ("/", "/tasks", f"/tasks/{task}", "/models", "/workers", "/schedules", "/agents"):
        assert pages.get(path).status_code == 200, path


def test_the_role_cannot_write_even_where_it_says_that_it_may(reader_url: str):
    """`default_transaction_read_only` can be switched off by whoever is connected; a privilege cannot."""
    with psycopg.connect(reader_url, autocommit=True) as db:
        db.execute("SET default_transaction_read_only = off")
        for statement in ("DELETE FROM attempts", "UPDATE leadership SET epoch = 9", "CREATE TABLE mine ()"):
            with pytest.raises(InsufficientPrivilege):
                db.execute(statement.encode())
