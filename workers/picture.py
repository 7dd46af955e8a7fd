"""The picture that decisions are made on, read from the ledger: by a new brain, and by whoever asks."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from config.budgets import Window
from config.catalog import Catalog
from config.models import Model
from ledger import accounts, attempts, fold, workers
from ledger.attempts import FinishedAttempt
from ledger.connect import Connection
from ledger.usage import WorkerLoad
from routing.account import Account
from routing.budgets import Amount
from routing.candidates import run_by
from routing.lessons import lesson_from
from routing.limits import MINUTE, SLACK, Called
from routing.pace import seen_pace
from routing.task import needs_from
from routing.vitals import AWAY, Ended, UnderWay, Vitals
from routing.windows import window_start

STALE_S = 10.0
"""A worker that was not seen for so long is no longer counted on: five of its beats."""

SHOWN_S = 3600.0
"""How long a worker that fell silent is still shown."""

REMEMBERED = timedelta(days=1)
"""How far back failures, successes and paces are read."""

MOST_REMEMBERED = 5000
"""Attempts that paces and estimates are learned from."""


def read_vitals(db: Connection, catalog: Catalog, now: datetime) -> Vitals:
    """Fold what the ledger says: workers, attempts under way, limits, budgets, health and paces.

    Args:
        db: in `one_moment`, or a call that ends meanwhile may count for nothing.
        now: aware, UTC.
    """
    slots = read_slots(db)
    vitals = Vitals(catalog, slots=slots, away=read_away(db, slots), accounts=read_accounts(db))
    read_limits(vitals, db, now)
    read_budgets(vitals, db, now)
    read_health(vitals, db, now)
    read_paces(vitals, db, now)
    for row in fold.still_open(db):
        model = catalog.models.get(row.model)
        if model is not None:
            needs = needs_from(row.needs)
            attempt = UnderWay(
                run_by(model, needs.worker),
                Amount(row.reserved_usd, row.reserved_tokens),
                profile=row.profile,
                agent=row.agent,
                placed_at=row.queued_at,
                needs=needs,
                is_suspect=row.is_suspect,
            )
            vitals.placed((row.task_id, row.number), attempt, row.claimed_at)
    return vitals


def read_limits(vitals: Vitals, db: Connection, now: datetime) -> None:
    """Count the calls of the last minute and of today."""
    models = vitals.catalog.models
    # A call that began right before midnight may have reached its provider after it.
    midnight = window_start("day", now) - SLACK
    vitals.remember_calls(
        recent=(
            (models[call.model], Called(call.claimed_at, call.tokens or 0))
            for call in fold.recent_calls(db, now - MINUTE - SLACK)
            if call.model in models
        ),
        today=now.date(),
        calls_today=(
            (models[model], calls)
            for model, calls in fold.calls_since(db, midnight).items()
            if model in models
        ),
    )


def read_budgets(vitals: Vitals, db: Connection, now: datetime) -> None:
    """Add up what is spent of each budget in its window."""
    windows: set[Window] = {purse.budget.window for purse in vitals.budgets.purses.values()}
    for window in windows:
        since = window_start(window, now)
        for row in fold.spent(db, since):
            if row.model not in vitals.catalog.models:
                continue
            used = Amount(row.usd, int(row.tokens), row.requests)
            for purse in vitals.budgets.of(row.model, row.profile, row.agent):
                if purse.budget.window == window:
                    purse.spend(purse.counted(used) or Decimal(0), now)


def read_health(vitals: Vitals, db: Connection, now: datetime) -> None:
    """Learn from the failures and the last successes, in the order in which they happened."""
    models = vitals.catalog.models
    successes = fold.last_successes(db, now - REMEMBERED)
    ends: list[tuple[datetime, Model, attempts.Key | None, Ended]] = []
    for model, at in successes.items():
        if model in models:
            ends.append((at, models[model], None, Ended("succeeded", at, at, None, None)))
    for row in fold.failures(db, now - REMEMBERED):
        if row.model in models:
            lesson = lesson_from(row.lesson)
            end = Ended("failed", row.finished_at, row.finished_at, None, None, lesson=lesson)
            ends.append((row.finished_at, models[row.model], (row.task_id, row.number), end))
    for _, model, key, end in sorted(ends, key=lambda each: each[0]):
        vitals.learn(model, key, end)


def read_paces(vitals: Vitals, db: Connection, now: datetime) -> None:
    """Learn how long each model takes, and how its tokens compare with the estimates."""
    since = now - REMEMBERED
    for row in fold.paces(db, since, MOST_REMEMBERED):
        seen = seen_pace(row.queue_s, row.run_s, row.first_token_s, round(row.completion_tokens))
        vitals.paces[row.model] = seen
    for row in fold.prompts(db, since, MOST_REMEMBERED):
        vitals.count(row.model, needs_from(row.needs), row.counted)


def ended_form(row: FinishedAttempt) -> Ended:
    """Turn a ledger row into what the vitals learn from."""
    return Ended(
        outcome=row.outcome,
        claimed_at=row.claimed_at,
        finished_at=row.finished_at,
        tokens=row.tokens,
        cost_usd=row.cost_usd,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        first_token_s=row.first_token_s,
        lesson=lesson_from(row.lesson),
    )


def read_accounts(db: Connection) -> dict[str, Account]:
    """Read what providers say of their accounts."""
    return {
        row.provider: Account(row.asked_at, row.credit_usd, row.is_free_tier) for row in accounts.told(db)
    }


def is_there(worker: WorkerLoad) -> bool:
    """Judge of a worker that is shown as the brain does."""
    return worker.silent_s < STALE_S


def read_slots(db: Connection) -> Counter[str]:
    """Add up the slots of the workers that are there, by queue."""
    slots: Counter[str] = Counter()
    for worker in workers.present(db, STALE_S):
        slots.update(worker.slots)
    return slots


def read_away(db: Connection, slots: Mapping[str, int]) -> frozenset[str]:
    """List the queues whose workers went silent and are expected back; one that said goodbye is not."""
    lately = workers.present(db, AWAY.total_seconds())
    return frozenset(queue for worker in lately for queue in worker.slots if not slots.get(queue))
