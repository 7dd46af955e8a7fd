"""`fleet models`: the catalog, with what each model can do now and how it did lately."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.catalog import Catalog
from config.models import TIERS, Model
from ledger import usage
from ledger.connect import Connection, one_moment
from ledger.tasks import HeldTask
from ledger.usage import ModelRecord
from routing.plan import objection_to
from routing.scheduler import Scheduler
from routing.vitals import Vitals
from workers.completion import plain
from workers.forecast import NOBODY
from workers.picture import read_vitals
from workers.screen import print_section
from workers.waiting import let_wait
from workers.words import duration, moment

LATELY = timedelta(days=1)

NEUTRAL = HeldTask(
    id=NOBODY,
    profile=None,
    focus=None,
    model=None,
    agent="nobody",
    priority=0,
    not_before=None,
    deadline=None,
    needs={"prompt_tokens": 32, "max_tokens": 16},
    accepted_at=datetime.min.replace(tzinfo=UTC),
    tried=[],
)
"""A task that any model of its kind could answer."""

State = Literal["ready", "busy", "unfit", "retired"]

STYLES: dict[State, str] = {"ready": "green", "busy": "yellow", "unfit": "red", "retired": "dim"}


@dataclass(frozen=True)
class ModelState:
    """A model of the catalog at one moment."""

    name: str
    tier: str
    queue: str
    state: State
    why: str | None
    """Why it is not ready for a small task that asks for nothing special."""
    slots: int
    """Of all live workers on its queue; models may share a queue."""
    free_slots: int
    input_usd_per_mtok: Decimal | None
    """None: unknown, which is not free."""
    output_usd_per_mtok: Decimal | None
    retired_on: str | None
    successor: str | None
    """The model that a retired one stands for now."""
    attempts: int
    """That ended within the last day; the fields below are of them too."""
    success_rate: float | None
    tokens_per_s: float | None
    last_error: str | None
    last_error_at: datetime | None
    left: dict[str, str]
    """What is left of the limits and budgets that its calls count for: the model's, its account's, ours."""


def model_states(db: Connection, catalog: Catalog) -> list[ModelState]:
    """Look at all models, the cheapest tier first, else in the catalog's order."""
    now = datetime.now(UTC)
    with one_moment(db):
        vitals = read_vitals(db, catalog, now)
        records = {record.model: record for record in usage.models(db, now - LATELY)}
    models = sorted(catalog.models.values(), key=lambda model: TIERS.index(model.tier))
    return [state_of(model, catalog, vitals, records.get(model.name), now) for model in models]


def state_of(
    model: Model, catalog: Catalog, vitals: Vitals, record: ModelRecord | None, now: datetime
) -> ModelState:
    today = now.date()
    state, why = readiness(model, catalog, vitals, now)
    slots = vitals.slots.get(model.queue, 0)
    price = model.price_on(today)
    free = Decimal(0) if model.tier != "paid" else None
    successor = catalog.resolve(model.name, today).name if model.is_retired(today) else model.name
    return ModelState(
        name=model.name,
        tier=model.tier,
        queue=model.queue,
        state=state,
        why=why,
        slots=slots,
        free_slots=max(slots - vitals.in_queue.get(model.queue, 0), 0),
        input_usd_per_mtok=free if price is None or free is not None else price.input_usd_per_mtok,
        output_usd_per_mtok=free if price is None or free is not None else price.output_usd_per_mtok,
        retired_on=str(model.retired_on) if model.is_retired(today) else None,
        successor=None if successor == model.name else successor,
        attempts=record.attempts if record else 0,
        success_rate=record.succeeded / record.attempts if record else None,
        tokens_per_s=record.tokens_per_s if record else None,
        last_error=record.last_error if record else None,
        last_error_at=record.last_error_at if record else None,
        left=vitals.left(model, now),
    )


def readiness(model: Model, catalog: Catalog, vitals: Vitals, now: datetime) -> tuple[State, str | None]:
    """Ask what a plan would say of a small task."""
    scheduler = Scheduler(catalog, vitals)
    needs = {**NEUTRAL.needs, "kind": model.kind}
    task = let_wait(scheduler, replace(NEUTRAL, model=model.name, needs=needs, accepted_at=now), now)
    objection = objection_to(model, task, catalog, vitals, now)
    if model.is_retired(now.date()):
        return "retired", objection.why if objection else None
    if objection is None:
        return "ready", None
    until = f" (until {moment(objection.until)})" if objection.until else ""
    return "unfit" if objection.is_final else "busy", f"{objection.why}{until}"


def as_json(found: Sequence[ModelState]) -> list[dict[str, Any]]:
    return [asdict(each) for each in found]


def show(console: Console, found: Sequence[ModelState]) -> None:
    """Print the models that may run, then their last errors, then those that are gone."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("model", "tier", "queue"):
        table.add_column(column, overflow="fold", style="cyan" if column == "model" else None)
    for column in ("slots", "$/Mtok", "ok", "tok/s"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold", ratio=1)
    for each in found:
        if each.state != "retired":
            table.add_row(
                each.name,
                each.tier,
                each.queue,
                f"{each.free_slots}/{each.slots}",
                prices(each),
                "-" if each.success_rate is None else f"{each.success_rate:.0%}",
                "-" if each.tokens_per_s is None else f"{each.tokens_per_s:.0f}",
                Text.assemble((each.state, STYLES[each.state]), f": {short_why(each)}" if each.why else ""),
            )
    console.print(table)
    console.print(
        "\nslots: free/all; $/Mtok: in/out; ok, tok/s and errors: of the attempts of the last day",
        style="dim",
        highlight=False,
    )
    now = datetime.now(UTC)
    print_section(
        console,
        "Last errors",
        [
            (each.name, f"{duration((now - each.last_error_at).total_seconds())} ago: {each.last_error}")
            for each in found
            if each.last_error_at
        ],
    )
    print_section(
        console, "Left", list({what: left for each in found for what, left in each.left.items()}.items())
    )
    print_section(
        console,
        "Retired",
        [
            (each.name, f"since {each.retired_on}, {stand_in(each)}")
            for each in found
            if each.state == "retired"
        ],
    )


def short_why(model: ModelState) -> str:
    """Leave the queue out, which has a column of its own."""
    return (model.why or "").replace(f" on queue {model.queue}", "").replace(f" of queue {model.queue}", "")


def prices(model: ModelState) -> str:
    if model.input_usd_per_mtok is None or model.output_usd_per_mtok is None:
        return "unknown"
    if model.tier != "paid":
        return "0"
    return f"{plain(model.input_usd_per_mtok)}/{plain(model.output_usd_per_mtok)}"


def stand_in(model: ModelState) -> str:
    return f"stands for {model.successor}" if model.successor else "without a successor"
