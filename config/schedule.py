"""schedule.yaml: the tasks that the fleet gives itself."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, model_validator
from pydantic.json_schema import WithJsonSchema

from config.entry import Entry, Name, Named, OwnName, Text, Usd, fault, hint, period, quoted
from config.periods import PERIOD, write_period

CRON_FIELDS = 5

CELERY_QUEUE = "celery"
"""Where Celery sends a task that names no queue."""

TARGETS = ("webhook", "celery_task", "redis_list")


def five_fields(value: str) -> str:
    """Check the five fields of cron: minute, hour, day of the month, month, day of the week."""
    if len(value.split()) != CRON_FIELDS:
        raise fault(f"expected 5 fields, such as '*/15 * * * *', got {quoted(value)}")
    try:
        next(CronSim(value, datetime(2026, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise fault(f"expected 5 fields of cron, got {quoted(value)} ({str(error).lower()})") from None
    except (AssertionError, TypeError, ValueError):  # of steps over the last days of months and weeks
        raise fault(f"expected 5 fields of cron, got {quoted(value)}") from None
    except StopIteration:
        raise fault(f"expected a day that comes, got {quoted(value)}") from None
    return value


@cache
def zones() -> list[str]:
    return sorted(available_timezones())


def time_zone(value: str) -> str:
    """Check the name of a time zone."""
    if value not in zones():
        raise fault(f"expected a time zone such as Europe/Berlin, got {quoted(value)}{hint(value, zones())}")
    return value


def web_address(value: str) -> str:
    """Check a webhook; the address is not repeated, because it may hold a secret."""
    try:
        parts = urlsplit(value)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or any(character.isspace() for character in value):
        raise fault("expected an address such as https://example.com/hook")
    return value


Period = Annotated[
    timedelta,
    BeforeValidator(period),
    WithJsonSchema({"type": "string", "pattern": PERIOD, "examples": ["15m"]}),
]


class Deliver(Entry):
    """Where an answer goes once its task has ended; one of three."""

    webhook: Annotated[str, AfterValidator(web_address)] | None = None
    """The outcome is POSTed there as JSON."""
    celery_task: Text | None = None
    """The name of a Celery task of yours, which gets the outcome as its argument."""
    celery_queue: Text = CELERY_QUEUE
    """Where your worker listens for that task."""
    redis_list: Text | None = None
    """A list in the fleet's Redis; the outcome is appended as JSON."""

    @model_validator(mode="after")
    def goes_to_one_place(self) -> Self:
        """Refuse a delivery to several places, or to none."""
        named = [target for target in TARGETS if getattr(self, target) is not None]
        if len(named) != 1:
            raise fault(f"expected one of {', '.join(TARGETS)}, got {' and '.join(named) or 'none'}")
        if self.celery_queue != CELERY_QUEUE and not self.celery_task:
            raise fault("expected celery_task beside celery_queue")
        return self

    def __str__(self) -> str:
        if self.webhook:
            return f"webhook at {urlsplit(self.webhook).hostname}"
        return f"Celery task {self.celery_task}" if self.celery_task else f"Redis list {self.redis_list}"


class RunBudget(Entry):
    """What the runs of a recurring task may cost, in dollars."""

    run_usd: Annotated[Usd, Field(strict=False)] | None = None
    """One run; models that could cost more are passed over."""
    day_usd: Annotated[Usd, Field(strict=False)] | None = None
    """All runs of a day, UTC; a run gets what is left, and is skipped when nothing is."""


OF_COMPLETE = ("profile", "focus", "messages", "each_worker", "budget")


class RecurringTask(Entry):
    """A task that the fleet gives itself, again and again."""

    name: OwnName
    description: Text | None = None
    task: Literal["complete", "embed"] = "complete"
    """What is called; `embed` turns the prompt into a vector."""
    every: Period | None = None
    """Counted from midnight UTC of 1970-01-01, so that it does not depend on when beat was started."""
    cron: Annotated[str, AfterValidator(five_fields)] | None = None
    """Minute, hour, day of the month, month, day of the week."""
    timezone: Annotated[str, AfterValidator(time_zone)] = "UTC"
    """What `cron` counts in."""
    jitter: Period | None = None
    """A run begins up to so much later, by a time that is fixed for each run."""
    profile: Name | None = None
    focus: Name | None = None
    model: Name | None = None
    """Before the profile's own."""
    prompt: Text | None = None
    """Without prompt and messages, the profile's own."""
    messages: tuple[Mapping[str, Any], ...] | None = None
    """OpenAI-style chat messages, instead of a prompt."""
    collection: Name | None = None
    """Of `embed`: where the text can be found again."""
    agent: Text = "schedule"
    """Who asks, in the books."""
    deadline: Period | None = None
    """How long a run may wait for its model; None: until the next one is due."""
    overlap: Literal["skip", "queue"] = "skip"
    """While the last run has not ended: `skip` the next, or let one wait behind it."""
    catch_up: Literal["none", "latest"] = "none"
    """After a time without beat: nothing, or the `latest` run that was missed."""
    each_worker: StrictBool = False
    """One run for each worker with local models, through the queue of that worker alone."""
    budget: RunBudget | None = None
    deliver: Deliver | None = None
    """None: the answer stays in the ledger."""
    pause_after: Annotated[int, Field(strict=True, ge=0)] = 5
    """So many failed runs in a row pause it; 0: none do."""
    enabled: StrictBool = True

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        """Refuse keys that contradict each other."""
        if (self.every is None) == (self.cron is None):
            raise fault(f"expected one of every and cron, got {'none' if self.every is None else 'both'}")
        if self.timezone != "UTC" and self.cron is None:
            raise fault("expected cron beside timezone; every counts in UTC")
        if self.jitter is not None and self.every is not None and self.jitter >= self.every:
            raise fault("expected a jitter shorter than every")
        if self.prompt is not None and self.messages is not None:
            raise fault("expected either prompt or messages, got both")
        if self.task == "embed":
            self.fits_embed()
        elif self.collection is not None:
            raise fault("expected a collection beside task: embed alone")
        if self.profile is None and self.prompt is None and self.messages is None:
            raise fault("expected a profile, which carries a prompt, or a prompt or messages")
        return self

    def fits_embed(self) -> None:
        """Refuse what only `complete` knows."""
        given = [key for key in OF_COMPLETE if getattr(self, key)]
        if given:
            raise fault(f"expected task: complete beside {', '.join(given)}, got embed")
        if self.prompt is None:
            raise fault("expected a prompt, the text to embed")

    @property
    def rhythm(self) -> str:
        """Say when it is due."""
        if self.every is not None:
            return f"every {write_period(self.every)}"
        return f"{self.cron}" if self.timezone == "UTC" else f"{self.cron} ({self.timezone})"

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def asks(self) -> tuple[object, ...]:
        """What is asked of whom; two entries with the same are most likely one by mistake."""
        return (self.task, self.profile, self.focus, self.model, self.prompt, self.messages, self.collection)


class ScheduleFile(Entry):
    """schedule.yaml: heartbeats and other recurring tasks."""

    schedule: Annotated[dict[Name, RecurringTask], Named] = Field(default_factory=dict)


def twins(schedule: Mapping[str, RecurringTask]) -> list[tuple[str, str]]:
    """List the pairs of enabled entries that ask the same."""
    first: dict[str, str] = {}
    found: list[tuple[str, str]] = []
    for name, entry in schedule.items():
        if entry.enabled:
            asks = repr(entry.asks)
            if asks in first:
                found.append((first[asks], name))
            first.setdefault(asks, name)
    return found
