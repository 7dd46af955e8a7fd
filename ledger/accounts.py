"""What providers say is left of the accounts that we have with them."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from psycopg.rows import class_row

from ledger.connect import Connection

TELL = """
    INSERT INTO accounts (provider, worker, credit_usd, is_free_tier)
    VALUES (%(provider)s, %(worker)s, %(credit_usd)s, %(is_free_tier)s)
        ON CONFLICT (provider) DO UPDATE
       SET worker = excluded.worker,
           credit_usd = excluded.credit_usd,
           is_free_tier = excluded.is_free_tier,
           asked_at = clock_timestamp()
"""

TOLD = "SELECT provider, worker, credit_usd, is_free_tier, asked_at FROM accounts ORDER BY provider"


@dataclass(frozen=True)
class AccountRow:
    """An account, as its provider described it last."""

    provider: str
    worker: str
    """Who asked."""
    credit_usd: Decimal | None
    """What may still be spent; None: the provider sets no bound, or does not tell."""
    is_free_tier: bool | None
    """Whether nothing was ever paid in; None: the provider does not tell."""
    asked_at: datetime


def tell(
    db: Connection, *, provider: str, worker: str, credit_usd: Decimal | None, is_free_tier: bool | None
) -> None:
    """Record what a provider said of its account."""
    said = {
        "provider": provider,
        "worker": worker,
        "credit_usd": credit_usd,
        "is_free_tier": is_free_tier,
    }
    db.execute(TELL, said)


def told(db: Connection) -> list[AccountRow]:
    """Read what is known of all accounts, by name."""
    with db.cursor(row_factory=class_row(AccountRow)) as cursor:
        return cursor.execute(TOLD).fetchall()
