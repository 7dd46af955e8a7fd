"""What a provider says is left of our account with it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from routing.objection import Objection

BELIEVED = timedelta(hours=1)
"""An answer that is older decides nothing any more: whoever asked has stopped to."""


@dataclass(frozen=True)
class Account:
    """An account, as its provider described it last."""

    asked_at: datetime
    credit_usd: Decimal | None = None
    """None: no bound is set, or none is told."""
    is_free_tier: bool | None = None
    """Whether nothing was ever paid in; None: that is not told."""

    @property
    def is_empty(self) -> bool:
        return self.credit_usd is not None and self.credit_usd <= 0

    def objection(self, subject: str, now: datetime) -> Objection | None:
        """Say why nothing that costs money can be sent now; None: it can, as far as is known."""
        if not self.is_empty or now - self.asked_at > BELIEVED:
            return None
        return Objection(f"{subject} says that no credit is left")

    @property
    def left(self) -> str | None:
        """Say what is left; None: that is not told."""
        if self.credit_usd is None:
            return None
        return f"${max(self.credit_usd, Decimal(0)):.2f} of credit"
