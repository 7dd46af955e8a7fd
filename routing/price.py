"""Tokens times a dated price: the same function before and after the run."""

from datetime import date
from decimal import Decimal

from config.models import Model

MTOK = Decimal(1_000_000)
NANODOLLAR = Decimal("1e-9")
"""The ledger's smallest amount: numeric(18,9)."""


def cost_usd(
    model: Model, day: date, *, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0
) -> Decimal | None:
    """Price a call of a model.

    Args:
        model: local and free ones cost 0.
        day: of the call, UTC; the price that was valid then counts.
        prompt_tokens: including the cached ones.
        completion_tokens: including reasoning.
        cached_tokens: those of the prompt that the provider did not compute again.

    Returns:
        US dollars; None where the catalog has no price for that day: unknown is not free.
    """
    if model.tier != "paid":
        return Decimal(0)
    price = model.price_on(day)
    if price is None:
        return None
    cached_price = price.cached_input_usd_per_mtok
    fresh = prompt_tokens if cached_price is None else prompt_tokens - cached_tokens
    cached = 0 if cached_price is None else cached_tokens
    usd = (
        fresh * price.input_usd_per_mtok
        + cached * (cached_price or Decimal(0))
        + completion_tokens * price.output_usd_per_mtok
    ) / MTOK
    return usd.quantize(NANODOLLAR)
