"""Which workers get a run of their own, and with which of their models."""

from collections.abc import Mapping
from datetime import UTC, datetime

from config.catalog import Catalog, RecurringTask
from config.models import Model
from ledger import workers
from ledger.connect import Connection
from workers.picture import STALE_S


def models_of_workers(db: Connection, catalog: Catalog, entry: RecurringTask) -> dict[str, str]:
    """Choose a local model of each worker that is there, by worker; one without any is left out."""
    order = preference(catalog, entry)
    chosen: dict[str, str] = {}
    for worker in workers.present(db, STALE_S):
        if worker.name in worker.slots:  # it listens on a queue of its own
            mine = [name for name, model in order.items() if worker.slots.get(model.queue)]
            chosen.update({worker.name: mine[0]} if mine else {})
    return chosen


def preference(catalog: Catalog, entry: RecurringTask) -> Mapping[str, Model]:
    """List the local chat models: those that the entry's profile names first, in its order."""
    today = datetime.now(UTC).date()
    profile = catalog.profiles.get(entry.profile or "")
    named = [profile.model, *(profile.fallbacks or ())] if profile else []
    ordered = [catalog.resolve(name, today) for name in [*named, *catalog.models]]
    return {model.name: model for model in ordered if is_local(model) and not model.is_retired(today)}


def any_model(catalog: Catalog) -> str | None:
    """Name a local model, to check with; None: the catalog has none."""
    return next((model.name for model in catalog.models.values() if is_local(model)), None)


def is_local(model: Model) -> bool:
    return model.tier == "local" and model.kind == "chat"
