"""`fleet schedule`: what is scheduled, how it went, and what it costs."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.catalog import Catalog, RecurringTask
from config.models import Model
from config.schedule import twins
from ledger import recurring
from ledger.connect import Connection
from ledger.recurring import Summary
from routing.candidates import candidates
from routing.price import cost_usd
from routing.recurrence import count_between, next_start
from routing.task import needs_from
from workers.calls import AnyCall
from workers.explain import imagined
from workers.schedule.run import arguments, check_run
from workers.waiting import task_of
from workers.words import duration, moment

EXPENSIVE_USD = Decimal(1)
"""A month; from here on an entry on a paid model is told of, with what would be free."""

CENT = Decimal("0.01")

A_MONTH = timedelta(days=30)


@dataclass(frozen=True)
class Line:
    """An entry of schedule.yaml, with what the ledger has of it."""

    name: str
    rhythm: str
    is_enabled: bool
    next_at: datetime | None
    """None: it is paused or not enabled."""
    model: str
    """Of the last run that called one, else the first that would be asked."""
    tier: str
    usd_a_month: Decimal | None
    """Thirty days at the cost of a run so far; before there is one, at the most that a run can cost.
    None: unknown."""
    is_measured: bool
    free_alternative: str | None
    """Of an expensive entry on a paid model: the first of its candidates that costs nothing."""
    past: Summary | None
    """None: beat has not seen it yet."""


def lines(db: Connection, catalog: Catalog) -> list[Line]:
    """Read the schedule, in the order of the file."""
    now = datetime.now(UTC)
    past = {summary.name: summary for summary in recurring.summaries(db, now)}
    return [line_of(entry, past.get(entry.name), catalog, now) for entry in catalog.schedule.values()]


def line_of(entry: RecurringTask, past: Summary | None, catalog: Catalog, now: datetime) -> Line:
    call = check_run(catalog, entry, arguments(entry))
    asked = candidates(task_of(imagined(call, now)), catalog, now.date())
    model = catalog.models.get((past and past.model) or "", asked[0])
    monthly_runs = count_between(entry, now, now + A_MONTH)
    is_measured = past is not None and past.runs > 0
    if past is not None and past.runs:
        usd_a_month = past.usd_30d / past.runs * monthly_runs
    else:
        most = most_usd(entry, model, call, now)
        usd_a_month = None if most is None else most * monthly_runs
    is_expensive = model.tier == "paid" and (usd_a_month is None or usd_a_month >= EXPENSIVE_USD)
    is_paused = past is not None and past.paused_at is not None
    return Line(
        name=entry.name,
        rhythm=entry.rhythm,
        is_enabled=entry.enabled,
        next_at=next_start(entry, now) if entry.enabled and not is_paused else None,
        model=model.name,
        tier=model.tier,
        usd_a_month=usd_a_month,
        is_measured=is_measured,
        free_alternative=alternative(asked, catalog, now) if is_expensive else None,
        past=past,
    )


def most_usd(entry: RecurringTask, model: Model, call: AnyCall, now: datetime) -> Decimal | None:
    """Tell the most that a run can cost on a model; None: nobody knows its price."""
    needs = needs_from(call.needs)
    day = now.date()
    most = cost_usd(model, day, prompt_tokens=needs.prompt_tokens, completion_tokens=needs.max_tokens)
    bound = entry.budget.run_usd if entry.budget else None
    return most if most is None or bound is None else min(most, bound)


def alternative(asked: tuple[Model, ...], catalog: Catalog, now: datetime) -> str | None:
    """Find what would cost nothing: of the entry's own candidates, else of the catalog."""
    today = now.date()
    known = [*asked, *catalog.models.values()]
    free = [model for model in known if model.tier != "paid" and model.kind == asked[0].kind]
    return next((model.name for model in free if not model.is_retired(today)), None)


def as_json(found: list[Line]) -> list[dict[str, Any]]:
    return [asdict(line) for line in found]


def show(console: Console, found: list[Line], schedule: Mapping[str, RecurringTask]) -> None:
    """Print the schedule, and below it what somebody should look at."""
    if not found:
        console.print("schedule.yaml has no entry.", highlight=False)
        return
    table = Table(box=None, header_style="bold")
    for column in (
        "name",
        "when",
        "next",
        "last",
        "model",
        "tokens 24 h / 30 d",
        "$ 24 h / 30 d",
        "$ a month",
    ):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    now = datetime.now(UTC)
    for line in found:
        table.add_row(*(Text(cell) for cell in cells(line, now)))
    console.print(table)
    for remark in remarks(found, schedule):
        console.print(f"\n{remark}", highlight=False, markup=False)


def cells(line: Line, now: datetime) -> Iterator[str]:
    """Write a line of the table."""
    past = line.past
    yield line.name
    yield line.rhythm
    if not line.is_enabled:
        yield "not enabled"
    else:
        yield "paused" if line.next_at is None else f"in {between(now, line.next_at)}"
    yield (
        "never" if past is None or past.last_at is None else f"{between(past.last_at, now)} ago, {how(past)}"
    )
    yield f"{line.model} ({line.tier})"
    yield f"{past.tokens_24h:,} / {past.tokens_30d:,}" if past else "0 / 0"
    yield f"{cents(past.usd_24h)} / {cents(past.usd_30d)}" if past else "0 / 0"
    if line.usd_a_month is None:
        yield "unknown"
    else:
        yield f"{'' if line.is_measured else 'at most '}{cents(line.usd_a_month)}"


def between(begin: datetime, end: datetime) -> str:
    return duration((end - begin).total_seconds())


def how(past: Summary) -> str:
    """Say how the last run ended."""
    ended = past.outcome or "has not ended"
    return f"{ended}, {past.delivery} delivery" if past.delivery in ("failed", "pending") else ended


def cents(usd: Decimal) -> str:
    """Write dollars to the cent, and say of less that it is something."""
    return "0" if usd == 0 else f"{usd.quantize(CENT):f}" if usd >= CENT else "< 0.01"


def remarks(found: list[Line], schedule: Mapping[str, RecurringTask]) -> Iterator[str]:
    """Say what somebody should look at, and what to do."""
    for line in found:
        past = line.past
        if past is not None and past.paused_at is not None:
            yield (
                f"{line.name} is paused since {moment(past.paused_at)}: {past.paused_why}. "
                f"`fleet schedule resume {line.name}` lets it run again."
            )
        if past is not None and past.why and past.outcome not in (None, "succeeded"):
            yield f"{line.name}: the last run was {past.outcome}: {past.why}."
        if past is not None and past.delivery in ("failed", "pending") and past.delivery_why:
            yield f"{line.name}: its last answer is not delivered: {past.delivery_why}."
        if line.free_alternative and line.is_enabled:
            price = "an unknown sum" if line.usd_a_month is None else f"${cents(line.usd_a_month)}"
            most = "" if line.is_measured else "up to "
            yield (
                f"{line.name} costs {most}{price} a month on {line.model}, which is paid. "
                f"{line.free_alternative} costs nothing: set `model: {line.free_alternative}`."
            )
    for first, second in twins(schedule):
        yield f"{first} and {second} ask the same. Disable one of them, unless you mean it."
