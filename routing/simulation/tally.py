"""What became of the tasks under one policy."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal


@dataclass
class Tally:
    """The sums of one run, or of what really happened."""

    policy: str
    succeeded: int = 0
    failed: int = 0
    """Ended without an answer: lost."""
    expired: int = 0
    """Their deadline passed before a model began."""
    waiting: int = 0
    """Not ended when the simulation did."""
    late: int = 0
    """Answered, but after their deadline."""
    failed_with_deadline: int = 0
    usd: Decimal = Decimal(0)
    unpriced: int = 0
    """Calls of which nobody knows the price."""
    useless: int = 0
    """Requests that a provider's limit turned away."""
    faulty: int = 0
    """Calls that failed otherwise: outages, workers that went away."""
    waits_s: list[float] = field(default_factory=list[float])
    """From the acceptance to the begin of the call that answered, for each task that succeeded."""
    calls: Counter[str] = field(default_factory=Counter[str])
    """By tier."""
    answered_by: Counter[str] = field(default_factory=Counter[str])
    """By model."""
    usd_by_profile: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    reasons: Counter[str] = field(default_factory=Counter[str])
    """Why tasks failed."""
    ended_at: datetime | None = None
    """The last end."""

    @property
    def tasks(self) -> int:
        """All that arrived: each has exactly one end, or none yet."""
        return self.succeeded + self.failed + self.expired + self.waiting

    @property
    def missed(self) -> int:
        """Deadlines that passed without an answer."""
        return self.expired + self.late + self.failed_with_deadline

    def wait_s(self, share: float) -> float | None:
        """Give the wait that this share of the answered tasks did not exceed; None: none was answered."""
        if not self.waits_s:
            return None
        ordered = sorted(self.waits_s)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    def pay(self, profile: str | None, usd: Decimal | None) -> None:
        """Add what a call cost; None: nobody knows."""
        if usd is None:
            self.unpriced += 1
            return
        self.usd += usd
        name = profile or "(none)"
        self.usd_by_profile[name] = self.usd_by_profile.get(name, Decimal(0)) + usd

    def succeed(self, model: str, waited_s: float, *, is_late: bool) -> None:
        """Take note of an answer."""
        self.succeeded += 1
        self.late += is_late
        self.answered_by[model] += 1
        self.waits_s.append(waited_s)

    def fail(self, why: str, *, had_deadline: bool) -> None:
        """Take note of a task that was lost."""
        self.failed += 1
        self.failed_with_deadline += had_deadline
        self.reasons[why] += 1
