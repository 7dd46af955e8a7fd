"""Why a candidate cannot take a task now, and when that ends."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Objection:
    """Why a candidate cannot take a task now."""

    why: str
    is_final: bool = False
    """True: it never can (unfit). False: it may later (busy)."""
    until: datetime | None = None
    """When it ends, where that is known."""
    is_worth_waiting: bool = False
    """True: it comes free by itself, so a dearer candidate can wait."""
    only_before_paid: bool = False
    """True: it is waited for rather than paying, but not rather than taking another that costs nothing."""
    ends_plan: bool = False
    """True: no candidate after this one is looked at."""


PassedOver = tuple[tuple[str, Objection], ...]
"""(model, objection) for each candidate that was not taken, in order."""
