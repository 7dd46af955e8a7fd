"""Whether a model, or an account, is known to work: cooldowns, circuits and probes.

A limit, an empty account or a repeated failure closes it for a while. When that is over, one attempt goes
first, as a probe; the others follow once it has succeeded. So is a free account of which nothing was heard
for long: its quota may be gone, and one request is enough to find out.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from config.models import Model
from routing.key import Key
from routing.lessons import Lesson
from routing.objection import Objection
from routing.windows import window_end

FAULTS_THAT_OPEN = 3
"""Failures in a row after which nothing is sent any more, until a probe succeeds."""

FIRST_PAUSE_S = 5.0
"""After a limit that did not say when it ends, and after a circuit opened; doubled each time."""

LONGEST_PAUSE_S = 300.0

JITTER = 0.25
"""A pause is up to this share longer, so that not everybody who was turned away comes back at once."""

ACCOUNT_PAUSE = timedelta(hours=1)
"""After a refused key or an empty account: somebody has to do something about it first."""

GONE_PAUSE = timedelta(days=1)
"""After "no such model": it is asked for once a day."""

LONGEST_TOLD = timedelta(days=32)
"""A reset further away is not believed: a month is the longest quota there is."""

PROOF_LASTS = timedelta(minutes=10)
"""How long a success says that a free account still has quota."""

REFUSAL_TAKES = timedelta(seconds=10)
"""A provider says no at once; a call that still runs after this was let in."""


@dataclass
class Health:
    """What the last calls taught about one model or account."""

    failures: int = 0
    """Of the service, in a row."""
    pauses: int = 0
    """Limits in a row that did not say when they end."""
    closed_until: datetime | None = None
    closed_why: str = ""
    closed_by: Lesson | None = None
    """The lesson that closed it; None: it is open and known to work, or nothing is known."""
    failed_at: datetime | None = None
    """When the service failed last."""
    proven_at: datetime | None = None
    """When a call succeeded last."""
    under_way: dict[Key, datetime | None] = field(default_factory=dict[Key, datetime | None])
    """Since when each call runs; None: no worker has claimed it yet."""

    def learn(self, lesson: Lesson, key: Key, at: datetime) -> None:
        """Take note of a failure that concerns this model or account.

        Args:
            key: of the attempt; its digits are the chance in the length of a pause.
            at: when it failed.
        """
        self.failed_at = at if lesson.cause == "fault" else self.failed_at
        if lesson.cause == "task" or self.is_pausing(lesson, at):
            return
        match lesson.cause:
            case "fault":
                self.failures += 1
                if self.failures < FAULTS_THAT_OPEN:
                    return
                why = f"failed {self.failures} times in a row"
                until = lesson.until or at + pause(self.failures - FAULTS_THAT_OPEN, key)
            case "rate_limit":
                why = "was told to slow down"
                until = lesson.until or at + pause(self.pauses, key)
                self.pauses += 1
            case "quota":
                why = "has no quota left"
                until = lesson.until or window_end("day", at)
            case "payment":
                why = "has no money left"
                until = lesson.until or at + ACCOUNT_PAUSE
            case "key":
                why = "does not accept the key"
                until = lesson.until or at + ACCOUNT_PAUSE
            case "gone":
                why = "is gone from its provider"
                until = lesson.until or at + GONE_PAUSE
        until = min(until, at + LONGEST_TOLD)
        if self.closed_until is None or until >= self.closed_until:
            self.closed_until, self.closed_why, self.closed_by = until, why, lesson

    def succeed(self, at: datetime) -> None:
        """Take note of a call that succeeded; a limit still lasts as long as the provider said."""
        self.proven_at = max(at, self.proven_at or at)
        self.failures = self.pauses = 0
        if self.closed_by is not None and (
            self.closed_by.cause == "fault" or self.closed_until is None or self.closed_until <= at
        ):
            self.closed_until, self.closed_why, self.closed_by = None, "", None

    def pay(self, at: datetime) -> None:
        """Take note that the account has money again: one task tries it."""
        if self.closed_by is not None and self.closed_by.cause == "payment":
            self.closed_until = min(self.closed_until or at, at)

    def objection(self, subject: str, now: datetime, *, needs_proof: bool) -> Objection | None:
        """Say why nothing can be sent now; None: it can.

        Args:
            subject: whose health it is, for the sentence.
            now: aware, UTC.
            needs_proof: whether it counts as unknown after a long silence.
        """
        lesson = self.closed_by
        if lesson is not None and self.closed_until is not None and now < self.closed_until:
            return Objection(
                f"{subject} {self.closed_why}",
                is_final=lesson.cause == "gone",
                until=self.closed_until,
                is_worth_waiting=lesson.cause in ("rate_limit", "quota", "fault"),
            )
        if self.under_way and (lesson is not None or (needs_proof and not self.is_known_to_work(now))):
            why = "after a failure" if lesson is not None else "for a while"
            return Objection(f"{subject} is tried by one task, the first {why}", is_worth_waiting=True)
        return None

    def is_pausing(self, lesson: Lesson, at: datetime) -> bool:
        """Tell whether a failure is nothing new: it was under way when the same closed this for a pause."""
        if lesson.until is not None or lesson.cause not in ("fault", "rate_limit"):
            return False
        is_same = self.closed_by is not None and self.closed_by.cause == lesson.cause
        return is_same and self.closed_until is not None and at < self.closed_until

    def is_known_to_work(self, now: datetime) -> bool:
        """Tell whether a call succeeded lately, or runs for longer than a refusal takes."""
        if self.proven_at is not None and now - self.proven_at < PROOF_LASTS:
            return True
        return any(since is not None and now - since > REFUSAL_TAKES for since in self.under_way.values())


def is_void(lesson: Lesson, model: Model) -> bool:
    """Tell whether the catalog has changed since: the id that was gone is asked for no more."""
    return lesson.cause == "gone" and lesson.upstream != model.upstream


def pause(before: int, key: Key) -> timedelta:
    """Make a pause: twice as long as the one before, up to the longest, and a little by chance.

    Args:
        before: pauses in a row so far.
        key: gives the chance, so that the same ledger gives the same pause.
    """
    seconds = min(FIRST_PAUSE_S * 2 ** min(before, 16), LONGEST_PAUSE_S)
    return timedelta(seconds=seconds * (1 + JITTER * (key[0].int % 1024) / 1024))
