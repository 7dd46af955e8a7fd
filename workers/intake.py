"""Accepting: from the messages in Redis to the rows in Postgres."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import structlog

from config.catalog import Catalog
from config.errors import UnknownNameError
from ledger import tasks
from ledger.connect import Connection
from ledger.tasks import HeldTask, NewTask, Placement, QueuedAttempt
from workers.calls import check
from workers.errors import InvalidCallError, UnreadableMessageError
from workers.failure import stored
from workers.inbox import Batch, Inbox
from workers.messages import Message, read_message

MOST_AT_ONCE = 500
"""Tasks inserted by one statement."""

log = structlog.get_logger()


class Arrival(NamedTuple):
    """A task with the message that it came in."""

    task: NewTask
    raw: bytes


@dataclass(frozen=True)
class Arrived:
    """What one reading brought; none of it is in the ledger yet."""

    batches: Sequence[Batch]
    """What may leave Redis once the rows are on disk."""
    tasks: Mapping[UUID, Arrival]

    @property
    def usable(self) -> list[NewTask]:
        """The tasks that can wait for a model."""
        return [arrival.task for arrival in self.tasks.values() if arrival.task.error is None]

    @property
    def unusable(self) -> list[NewTask]:
        """The tasks that have failed as they arrived."""
        return [arrival.task for arrival in self.tasks.values() if arrival.task.error is not None]


@dataclass
class Intake:
    """Where tasks come in."""

    db: Connection
    inbox: Inbox
    catalog: Catalog
    epoch: int

    def read(self) -> Arrived:
        """Read the messages that arrived, and leave them in Redis."""
        batches = self.inbox.read()
        read = ((self.new_task(raw), raw) for batch in batches for raw in batch.messages)
        return Arrived(batches, {task.id: Arrival(task, raw) for task, raw in read if task is not None})

    def write(self, arrived: Arrived, placements: Mapping[UUID, Placement]) -> set[UUID]:
        """Insert the tasks that arrived, with the attempts of those that have a model already.

        Returns:
            Those that were inserted; the others were there already, or Postgres cannot keep them.
        """
        inserted: set[UUID] = set()
        arrivals = list(arrived.tasks.values())
        for start in range(0, len(arrivals), MOST_AT_ONCE):
            inserted |= self.insert(arrivals[start : start + MOST_AT_ONCE], placements)
        if arrivals:
            log.info("accepted", tasks=len(inserted))
        return inserted

    def new_task(self, raw: bytes) -> NewTask | None:
        """Read a message; one that cannot be read is buried, and is None."""
        try:
            return self.checked_task(read_message(raw))
        except UnreadableMessageError as error:
            log.warning("buried", why=error.why)
            self.inbox.bury(raw, error.why)
            return None

    def checked_task(self, message: Message) -> NewTask:
        """Check a message's arguments again, for callers with another catalog."""
        known: dict[str, Any] = {
            "id": message.id,
            "priority": message.priority,
            "not_before": message.eta,
            "deadline": message.expires,
            "envelope": message.envelope,
        }
        try:
            call = check(message.task, self.catalog, message.args, message.kwargs)
        except (InvalidCallError, UnknownNameError) as error:
            nothing: Mapping[str, Any] = {
                "profile": None,
                "focus": None,
                "model": None,
                "request": None,
                "needs": {},
            }
            return NewTask(**known, **nothing, agent="unknown", error=stored(error))
        return NewTask(
            **known,
            profile=call.profile,
            focus=call.focus,
            model=call.model,
            agent=call.agent,
            needs=call.needs,
            request=call.request,
            metadata=call.metadata,
        )

    def insert(self, new: Sequence[Arrival], placements: Mapping[UUID, Placement]) -> set[UUID]:
        """Insert tasks in one statement; one that Postgres cannot keep does not hold up the others."""
        if not new:
            return set()
        placed = [placements[each.task.id] for each in new if each.task.id in placements]
        try:
            of = [each.task for each in new]
            return set(tasks.accept(self.db, of, epoch=self.epoch, placements=placed))
        except psycopg.DataError as error:
            if len(new) == 1:
                why = f"Postgres cannot keep it: {type(error).__name__}"
                log.warning("buried", why=why, task=str(new[0].task.id))
                self.inbox.bury(new[0].raw, why)
                return set()
            half = len(new) // 2
            return self.insert(new[:half], placements) | self.insert(new[half:], placements)


def held_form(task: NewTask, accepted_at: datetime) -> HeldTask:
    """Give the row that the ledger would answer for a task that is accepted just now."""
    return HeldTask(
        id=task.id,
        profile=task.profile,
        focus=task.focus,
        model=task.model,
        agent=task.agent,
        priority=task.priority,
        not_before=task.not_before,
        deadline=task.deadline,
        needs=task.needs,
        accepted_at=accepted_at,
        tried=[],
    )


def first_attempt(task: NewTask, placement: Placement) -> QueuedAttempt:
    """Give what the message of a task's first attempt is made from."""
    return QueuedAttempt(task.id, 1, task.profile, placement.model, placement.queue, task.envelope)
