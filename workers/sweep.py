"""The brain's sweep: attempts whose worker died are counted as lost, and their tasks wait again."""

import time
from dataclasses import dataclass
from typing import Any

import structlog

from ledger import unfinished
from ledger.connect import Connection
from ledger.tasks import EndedTask
from ledger.unfinished import Lost
from workers.errors import WorkersDiedError
from workers.failure import stored

AWAY_S = 5.0
"""A brain that did not look for so long was away itself: paused, or without Postgres, or not yet leading."""

GRACE_S = 10.0
"""How long workers then get to renew their leases: they may have been away with it. Five of their beats."""

MOST_LOSSES = 3
"""Workers that a task may take with it. A host that is switched off is bad luck, and so may be a second."""

log = structlog.get_logger()


@dataclass
class Sweep:
    """Looks for leases that have ended."""

    db: Connection
    epoch: int
    looked_at: float = 0.0
    """By the wall clock, because that goes on while a host sleeps, as leases do."""
    patient_until: float = 0.0

    def look(self) -> tuple[list[Lost], list[tuple[EndedTask, dict[str, Any]]]]:
        """End the attempts that nobody runs any more.

        Returns:
            Those attempts, whose tasks are held again; and the tasks that failed instead, with their errors.

        Raises:
            NotLeadingError: nothing was written, another dispatcher leads.
        """
        if not self.is_due(time.time()):
            return [], []
        lost, failed = unfinished.lose(self.db, error_of, epoch=self.epoch)
        for each in lost:
            log.warning("lost", task=str(each.task_id), attempt=each.number, worker=each.worker)
        return lost, failed

    def is_due(self, now: float) -> bool:
        """Tell whether who is alive has had the time to say so."""
        gone_s = abs(now - self.looked_at)
        if gone_s > AWAY_S:
            self.patient_until = now + GRACE_S
        self.looked_at = now
        return not now < self.patient_until <= now + GRACE_S


def error_of(lost: Lost) -> dict[str, Any] | None:
    """Say why a task whose attempt was lost shall not be tried again; None: it shall."""
    deaths = [*lost.before, [lost.worker, lost.lease_until.isoformat(timespec="seconds")]]
    return stored(WorkersDiedError(deaths)) if len(deaths) >= MOST_LOSSES else None
