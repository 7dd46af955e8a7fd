"""Asks providers what is left of their accounts, and tells the ledger; nothing that runs depends on it.

Source: https://openrouter.ai/docs/api-reference/limits and https://platform.moonshot.ai/docs/api/misc, read
2026-11.
"""

import time
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from threading import Event, Thread
from typing import Any, NamedTuple

import structlog

from config.catalog import Catalog
from config.models import Provider, Quota
from config.settings import provider_key
from ledger import accounts, workers
from workers.engines.cloud_answer import dollars
from workers.engines.cloud_watch import CalledOffError, Watch
from workers.engines.cloud_wire import Wire
from workers.reconnecting import Reconnecting

EVERY_S = 300.0

SOONEST_S = 20.0
"""A failure lets us ask again at once, but not more often than this."""

ANSWER_S = 10.0

log = structlog.get_logger()


class Told(NamedTuple):
    """What a provider said of an account."""

    credit_usd: Decimal | None
    is_free_tier: bool | None


def of_openrouter(data: Mapping[str, Any]) -> Told:
    """Read `GET /key`: what is left of the key's own bound, and whether credits were ever bought."""
    is_free_tier = data.get("is_free_tier")
    return Told(signed(data.get("limit_remaining")), is_free_tier if isinstance(is_free_tier, bool) else None)


def of_moonshot(data: Mapping[str, Any]) -> Told:
    """Read `GET /users/me/balance`; at 0 or below, nothing is answered.

    Raises:
        ValueError: the balance is no amount.
    """
    credit_usd = signed(data["available_balance"])
    if credit_usd is None:
        message = "available_balance is no amount"
        raise ValueError(message)
    return Told(credit_usd, None)


def signed(value: object) -> Decimal | None:
    """Read an amount that may be below 0."""
    found = dollars(value)
    if found is not None or not isinstance(value, int | float | str):
        return found
    below = dollars(str(value).removeprefix("-"))
    return None if below is None else -below


WAYS: Mapping[Quota, tuple[str, Callable[[Mapping[str, Any]], Told]]] = {
    "openrouter": ("/key", of_openrouter),
    "moonshot": ("/users/me/balance", of_moonshot),
}
"""Where to ask below the `api_base`, and how to read the answer."""


class QuotaSync:
    """A thread that asks for the accounts behind a worker's queues: at its start, now and then, when told."""

    def __init__(self, database_url: str, catalog: Catalog, worker: str, queues: Collection[str]) -> None:
        served = {model.provider for model in catalog.models.values() if model.queue in queues}
        self.providers = {
            name: provider
            for name, provider in catalog.providers.items()
            if name in served and provider.quota and provider.api_base
        }
        self.due = dict.fromkeys(self.providers, 0.0)
        self.asked_at = dict.fromkeys(self.providers, float("-inf"))
        self.worker = worker
        self.db = Reconnecting(database_url, "accounts")
        self.wake = Event()
        self.closing = Event()
        self.thread = Thread(target=self.run, name="quota", daemon=True)
        if self.providers:
            self.thread.start()

    def ask_soon(self, provider: str | None) -> None:
        """Ask for an account whose provider said that it is spent."""
        if provider in self.due:
            self.due[provider] = min(self.due[provider], self.asked_at[provider] + SOONEST_S)
            self.wake.set()

    def run(self) -> None:
        """Go on until `close`."""
        while not self.closing.is_set():
            for name, provider in self.providers.items():
                if self.due[name] <= time.monotonic():
                    self.asked_at[name] = time.monotonic()
                    self.due[name] = self.asked_at[name] + EVERY_S
                    self.ask(name, provider)
            self.wake.wait(max(0.0, min(self.due.values()) - time.monotonic()))
            self.wake.clear()
        self.db.close()

    def ask(self, name: str, provider: Provider) -> None:
        """Ask for one account, and write down the answer; a failure changes nothing."""
        try:
            told = answer_of(provider, self.closing.is_set)
            db = self.db.get()
            accounts.tell(db, provider=name, worker=self.worker, **told._asdict())
            workers.notify(db)
            log.info("account", provider=name, **{key: str(value) for key, value in told._asdict().items()})
        except CalledOffError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, tasks run without
            log.warning("account_not_known", provider=name, error=type(error).__name__)

    def close(self) -> None:
        """End."""
        self.closing.set()
        self.wake.set()
        if self.providers:
            self.thread.join(ANSWER_S)


def answer_of(provider: Provider, cancelled: Callable[[], bool]) -> Told:
    """Ask a provider for our account.

    Raises:
        Exception: it did not answer, or what it answered is not known.
    """
    path, read = WAYS[provider.quota or "openrouter"]
    key = provider_key(provider.api_key_env) if provider.api_key_env else None
    wire = Wire(provider.api_base or "", key)
    try:
        return read(wire.document(path, Watch(ANSWER_S, ANSWER_S, ANSWER_S, cancelled))["data"])
    finally:
        wire.close()
