"""Asking a provider for our account: whatever it answers, what was known stays known and nothing breaks."""

import time
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from config.catalog import Catalog
from config.models import Provider
from ledger import accounts
from ledger.connect import Connection
from workers.quota import QuotaSync


class Desk(BaseHTTPRequestHandler):
    """Answers every question with what the test said."""

    status = 200
    body = b""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        time.sleep(0.05)  # the body comes after the headers, on a connection that ends with it
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is there
        """Say nothing."""


@pytest.fixture
def desk() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Desk) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def seller(desk: ThreadingHTTPServer) -> Provider:
    return Provider(name="seller", quota="moonshot", api_base=f"http://127.0.0.1:{desk.server_port}/v1")


@pytest.fixture
def sync(seller: Provider, catalog: Catalog, db_url: str) -> QuotaSync:
    """Make one whose thread does not run: the test asks."""
    return QuotaSync(db_url, catalog.model_copy(update={"providers": {"seller": seller}}), "worker@test", ())


def ask(sync: QuotaSync, seller: Provider, status: int, body: bytes) -> None:
    Desk.status, Desk.body = status, body
    sync.ask("seller", seller)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"error": {"message": "out of order"}}'),
        (401, b"{}"),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"data": {}}'),
        (200, b'{"data": {"available_balance": "much"}}'),
        (200, b'{"data": null}'),
    ],
)
def test_a_strange_answer_changes_nothing(
    sync: QuotaSync, seller: Provider, db: Connection, status: int, body: bytes
):
    ask(sync, seller, 200, b'{"data": {"available_balance": 7.25}}')
    ask(sync, seller, status, body)
    (known,) = accounts.told(db)
    assert (known.provider, known.credit_usd) == ("seller", Decimal("7.25"))
    sync.db.close()


def test_a_debt_is_an_amount(sync: QuotaSync, seller: Provider, db: Connection):
    ask(sync, seller, 200, b'{"data": {"available_balance": -0.5}}')
    assert [row.credit_usd for row in accounts.told(db)] == [Decimal("-0.5")]
    sync.db.close()


def test_a_provider_that_is_away_harms_nobody(
    sync: QuotaSync, seller: Provider, db: Connection, desk: ThreadingHTTPServer
):
    desk.server_close()
    sync.ask("seller", seller)
    assert accounts.told(db) == []
    sync.db.close()
