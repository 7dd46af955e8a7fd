"""What the provider served: every request, its tokens, its dollars, and every limit that was exceeded."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from threading import Lock
from typing import Any

MTOK = Decimal(1_000_000)


@dataclass
class Served:
    """One request that reached the provider."""

    key: str
    model: str
    at: float
    """By `time.monotonic`."""
    status: int = 0
    """0: nothing was answered."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    is_whole: bool = False
    """Whether a whole answer went out."""
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class Limits:
    """What an account is allowed; what is more gets a 429, and is written down."""

    per_minute: int | None = None
    per_day: int | None = None
    at_once: int | None = None
    minute_s: float = 60.0
    """How long a minute takes; tests have less time."""


@dataclass
class Books:
    """All that was served, in order."""

    served: list[Served] = field(default_factory=list[Served])
    exceeded: list[str] = field(default_factory=list[str])
    """One entry for each request that a limit refused."""
    running: int = 0
    most_at_once: int = 0
    lock: Lock = field(default_factory=Lock)

    def begin(self, request: Served) -> None:
        with self.lock:
            self.served.append(request)
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)

    def end(self) -> None:
        with self.lock:
            self.running -= 1

    def why_refused(self, limits: Limits, now: float) -> str | None:
        """Say which limit the newest request exceeds; None: none."""
        counted = [request for request in self.served if request.status != 429]
        minute = [request for request in counted if now - request.at < limits.minute_s]
        for name, used, allowed in (
            ("per-day", len(counted), limits.per_day),
            ("per-min", len(minute), limits.per_minute),
            ("at-once", self.running, limits.at_once),
        ):
            if allowed is not None and used > allowed:
                self.exceeded.append(name)
                return name
        return None

    def of(self, model: str | None = None) -> list[Served]:
        return [request for request in self.served if model is None or request.model == model]

    @property
    def whole(self) -> list[Served]:
        return [request for request in self.served if request.is_whole]

    def totals(self) -> tuple[int, int, int, Decimal]:
        """Add up (prompt, cached, completion tokens, dollars) of the whole answers."""
        return (
            sum(request.prompt_tokens for request in self.whole),
            sum(request.cached_tokens for request in self.whole),
            sum(request.completion_tokens for request in self.whole),
            sum((request.cost_usd for request in self.whole), Decimal(0)),
        )


def clock() -> float:
    return time.monotonic()
