"""The picture that decisions are made on, read from the ledger: by a new brain, and by whoever asks."""

from collections import Counter
from datetime import UTC, datetime, time

from config.catalog import Catalog
from ledger import attempts, workers
from ledger.connect import Connection
from routing.limits import MINUTE, SLACK, Called
from routing.plan import most_tokens
from routing.task import needs_from
from routing.vitals import Vitals

STALE_S = 10.0
"""A worker that was not seen for so long is no longer counted on: five of its beats."""


def read_vitals(db: Connection, catalog: Catalog, now: datetime) -> Vitals:
    """Fold what the ledger says: live workers, attempts under way, and the calls that limits count.

    Args:
        now: aware, UTC.
    """
    vitals = Vitals(catalog, slots=read_slots(db))
    for row in attempts.still_open(db):
        model = catalog.models.get(row.model)
        if model is not None:
            tokens = most_tokens(model, needs_from(row.needs))
            vitals.placed((row.task_id, row.number), model, tokens, row.claimed_at)
    vitals.remember(
        recent=(
            (catalog.models[call.model], Called(call.claimed_at, call.tokens or 0))
            for call in attempts.recent_calls(db, now - MINUTE - SLACK)
            if call.model in catalog.models
        ),
        today=now.date(),
        calls_today=(
            (catalog.models[model], calls)
            for model, calls in attempts.calls_since(db, datetime.combine(now.date(), time(), UTC)).items()
            if model in catalog.models
        ),
    )
    return vitals


def read_slots(db: Connection) -> Counter[str]:
    """Add up the slots of the workers that are there, by queue."""
    slots: Counter[str] = Counter()
    for worker in workers.present(db, STALE_S):
        slots.update(worker.slots)
    return slots
