"""Tokens times a dated price: the same function before and after the run."""

from datetime import date
from decimal import Decimal

from config.models import Model


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
    return price.usd_of(
        prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cached_tokens=cached_tokens
    )
