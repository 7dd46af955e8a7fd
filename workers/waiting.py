"""A task that waits: from the ledger's row to what a plan sees."""

from config.catalog import Catalog
from ledger.tasks import HeldTask
from routing.task import DEFAULT_PATIENCE_S, Task, needs_from, patience_end
from routing.vitals import Vitals


def waiting_task(row: HeldTask, catalog: Catalog, vitals: Vitals) -> Task:
    """Turn a ledger row into what a plan sees; its patience is its own, else its profile's."""
    needs = needs_from(row.needs)
    profile = catalog.profiles.get(row.profile) if row.profile else None
    patience_s = needs.patience_s
    if patience_s is None:
        patience_s = profile.patience_s if profile else DEFAULT_PATIENCE_S
    return Task(
        id=row.id,
        profile=row.profile,
        focus=row.focus,
        model=row.model,
        agent=row.agent,
        priority=row.priority,
        not_before=row.not_before,
        deadline=row.deadline,
        needs=needs,
        accepted_at=row.accepted_at,
        patient_until=patience_end(
            max(row.accepted_at, row.not_before or row.accepted_at),
            patience_s,
            row.deadline,
            max(vitals.service_s.values(), default=None),
        ),
        tried=tuple((model, why) for model, why in row.tried),
    )
