"""How a provider counts, and whom it turns away: its own view, not the brain's."""

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from config.models import Limits
from routing.lessons import Lesson, Scope
from routing.limits import MINUTE
from routing.windows import window_end


@dataclass
class Meter:
    """The count of one account or model."""

    limits: Limits
    scope: Scope
    minute: deque[tuple[datetime, int]] = field(default_factory=deque[tuple[datetime, int]])
    """(when, tokens) of the calls let in within the last minute."""
    day: date = date.min
    calls_today: int = 0
    """Also those that were turned away: they count too."""
    at_once: int = 0

    def refusal(self, tokens: int, now: datetime) -> Lesson | None:
        """Say what a call is turned away with; None: it is let in."""
        limits, recent = self.limits, self.minute
        while recent and recent[0][0] <= now - MINUTE:
            recent.popleft()
        if limits.requests_per_day is not None and self.today(now) >= limits.requests_per_day:
            return Lesson("quota", self.scope, "same", window_end("day", now))
        if limits.requests_per_minute is not None and len(recent) >= limits.requests_per_minute:
            return Lesson("rate_limit", self.scope, "same", recent[0][0] + MINUTE)
        used = sum(each for _, each in recent)
        if limits.tokens_per_minute is not None and used and used + tokens > limits.tokens_per_minute:
            return Lesson("rate_limit", self.scope, "same", recent[0][0] + MINUTE)
        if limits.concurrency is not None and self.at_once >= limits.concurrency:
            return Lesson("rate_limit", self.scope, "same", now + timedelta(seconds=1))
        return None

    def today(self, now: datetime) -> int:
        return self.calls_today if self.day == now.astimezone(UTC).date() else 0

    def count(self, now: datetime) -> None:
        """Count a request, let in or not."""
        self.day, self.calls_today = now.astimezone(UTC).date(), self.today(now) + 1

    def begin(self, tokens: int, now: datetime) -> None:
        """Let a call in."""
        self.minute.append((now, tokens))
        self.at_once += 1

    def end(self) -> None:
        """Let a call out."""
        self.at_once -= 1
