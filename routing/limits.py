"""What providers and models allow: requests a minute and a day, tokens a minute, calls at once.

N allowed means N, never N+1. An attempt counts from the moment it is placed, because it may call the
provider at any time from then on; once the ledger tells when it was claimed, it counts from there.
"""

from bisect import bisect_right, insort
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import NamedTuple

from config.models import Limits
from routing.key import Key
from routing.windows import window_end

MINUTE = timedelta(minutes=1)

SLACK = timedelta(seconds=1)
"""Between the claim and the moment at which the provider counts the request, and between two clocks."""


DAYS_KEPT = 2
"""Today's count, and that of the day before or after it."""


class Placed(NamedTuple):
    """An attempt that may still call, or is calling."""

    claimed_at: datetime | None
    """None: no worker has it yet."""
    tokens: int
    """The most that it will use."""


class Called(NamedTuple):
    """A call that has ended."""

    at: datetime
    tokens: int


class Full(NamedTuple):
    """A limit that leaves no room."""

    why: str
    until: datetime | None
    """None: until one of the attempts that are under way has been claimed or has ended."""


@dataclass
class Usage:
    """What was and is being used of one provider or model."""

    placed: dict[Key, Placed] = field(default_factory=dict[Key, Placed])
    recent: list[Called] = field(default_factory=list[Called])
    """In order of the moments from which they count; pruned as they leave the minute."""
    calls_on: dict[date, int] = field(default_factory=dict[date, int])
    """Ended calls by day, UTC; one that began right before midnight may arrive, and count, on the next."""

    def place(self, key: Key, tokens: int, claimed_at: datetime | None = None) -> None:
        """Take note of an attempt that was placed, or of its claim."""
        self.placed[key] = Placed(claimed_at, tokens)

    def end(self, key: Key, claimed_at: datetime | None, tokens: int) -> None:
        """Take note of the end of an attempt; one that was never claimed has called nobody."""
        self.placed.pop(key, None)
        if claimed_at is None:
            return
        insort(self.recent, Called(claimed_at, tokens))
        for day in {claimed_at.date(), (claimed_at + SLACK).date()}:
            self.count_on(day, 1)

    def count_on(self, day: date, calls: int) -> None:
        """Add calls to a day's count; days before the last one do not matter any more."""
        self.calls_on[day] = self.calls_on.get(day, 0) + calls
        if len(self.calls_on) > DAYS_KEPT:
            del self.calls_on[min(self.calls_on)]

    def full(self, limits: Limits, tokens: int, now: datetime) -> Full | None:
        """Say which limit leaves no room for one more attempt; None: there is room.

        Args:
            limits: those that are None do not bound.
            tokens: the most that the attempt would use.
            now: aware, UTC.
        """
        if limits.concurrency is not None and len(self.placed) >= limits.concurrency:
            return Full(f"{limits.concurrency} at once", None)
        return (
            self.full_day(limits.requests_per_day, now)
            or self.full_minute(limits.requests_per_minute, now)
            or self.too_many_tokens(limits.tokens_per_minute, tokens, now)
        )

    def left(self, limits: Limits, now: datetime) -> tuple[str, ...]:
        """Say what is left of each limit."""
        self.prune(now)
        running = self.running_since(now)
        minute = len(self.recent) + len(running) + self.unclaimed
        tokens = sum(call.tokens for call in (*self.recent, *running))
        tokens += sum(placed.tokens for placed in self.placed.values() if placed.claimed_at is None)
        today = len(self.placed) + self.calls_on.get(now.date(), 0)
        counts = (
            (limits.requests_per_minute, minute, "requests this minute"),
            (limits.requests_per_day, today, "requests today"),
            (limits.tokens_per_minute, tokens, "tokens this minute"),
            (limits.concurrency, len(self.placed), "calls at once"),
        )
        return tuple(
            f"{max(limit - used, 0):,} of {limit:,} {what}"
            for limit, used, what in counts
            if limit is not None
        )

    def full_day(self, limit: int | None, now: datetime) -> Full | None:
        if limit is None:
            return None
        if self.calls_on.get(now.date(), 0) + len(self.placed) < limit:
            return None
        return Full(f"{limit} requests a day", window_end("day", now))

    def full_minute(self, limit: int | None, now: datetime) -> Full | None:
        if limit is None:
            return None
        self.prune(now)
        running = self.running_since(now)
        used = len(self.recent) + len(running) + self.unclaimed
        if used < limit:
            return None
        moments = sorted(call.at + MINUTE + SLACK for call in (*self.recent, *running))
        # As many must leave the minute as stand above the last one that may stay.
        leaving = used - limit
        until = moments[leaving] if leaving < len(moments) else None
        return Full(f"{limit} requests a minute", until)

    def too_many_tokens(self, limit: int | None, tokens: int, now: datetime) -> Full | None:
        if limit is None:
            return None
        self.prune(now)
        calls = sorted((*self.recent, *self.running_since(now)))
        used = sum(call.tokens for call in calls)
        used += sum(placed.tokens for placed in self.placed.values() if placed.claimed_at is None)
        # A task larger than the limit may run when nothing else does: it would never run otherwise.
        if used == 0 or used + tokens <= limit:
            return None
        for call in calls:
            used -= call.tokens
            if used == 0 or used + tokens <= limit:
                return Full(f"{limit} tokens a minute", call.at + MINUTE + SLACK)
        return Full(f"{limit} tokens a minute", None)

    @property
    def unclaimed(self) -> int:
        return sum(1 for placed in self.placed.values() if placed.claimed_at is None)

    def prune(self, now: datetime) -> None:
        """Forget the ended calls that count no longer."""
        del self.recent[: bisect_right(self.recent, now - MINUTE - SLACK, key=lambda call: call.at)]

    def running_since(self, now: datetime) -> list[Called]:
        """List the calls under way that began within the last minute."""
        since = now - MINUTE - SLACK
        return [
            Called(placed.claimed_at, placed.tokens)
            for placed in self.placed.values()
            if placed.claimed_at is not None and placed.claimed_at > since
        ]
