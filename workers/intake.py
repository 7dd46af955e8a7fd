"""Accepting: from the messages in Redis to the rows in Postgres."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import structlog

from config.catalog import Catalog
from config.errors import UnknownNameError
from config.settings import settings
from ledger import tasks
from ledger.connect import Connection
from ledger.tasks import HeldTask, NewTask, Placement, QueuedAttempt
from workers.arguments import check_size
from workers.calls import check
from workers.errors import InvalidCallError, PayloadTooLargeError, UnreadableMessageError
from workers.failure import stored
from workers.inbox import Batch, Inbox
from workers.messages import Message, read_message

MOST_AT_ONCE = 500
"""Tasks inserted by one statement."""

MOST_BYTES_AT_ONCE = 100_000_000
"""Of their messages; a value in Postgres has at most 1 GB."""

log = structlog.get_logger()


class Arrival(NamedTuple):
    """A task with the message that it came in."""

    task: NewTask
    raw: bytes
    size_bytes: int


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

    def read(self, batches: Sequence[Batch]) -> Arrived:
        """Read the messages that arrived; they are still in Redis."""
        read = (self.arrival(raw) for batch in batches for raw in batch.messages)
        return Arrived(batches, {each.task.id: each for each in read if each is not None})

    def write(self, arrived: Arrived, placements: Mapping[UUID, Placement]) -> set[UUID]:
        """Insert the tasks that arrived, with the attempts of those that have a model already.

        Returns:
            Those that were inserted; the others were there already, or Postgres cannot keep them.
        """
        inserted: set[UUID] = set()
        for some in in_portions(arrived.tasks.values()):
            inserted |= self.insert(some, placements)
        if arrived.tasks:
            log.info("accepted", tasks=len(inserted))
        return inserted

    def arrival(self, raw: bytes) -> Arrival | None:
        """Read a message; one that cannot be read is buried, and is None."""
        try:
            message = read_message(raw)
            return Arrival(self.checked_task(message), raw, message.size_bytes)
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
            most = settings().max_payload_bytes
            if message.size_bytes > most:  # maybe for what follows in a chain
                check_size([message.args, message.kwargs], most)
            call = check(message.task, self.catalog, message.args, message.kwargs)
        except (InvalidCallError, PayloadTooLargeError, UnknownNameError) as error:
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


def in_portions(arrivals: Iterable[Arrival]) -> Iterator[list[Arrival]]:
    """Divide what arrived into what one statement can carry."""
    portion, size_bytes = list[Arrival](), 0
    for each in arrivals:
        if portion and (len(portion) == MOST_AT_ONCE or size_bytes + each.size_bytes > MOST_BYTES_AT_ONCE):
            yield portion
            portion, size_bytes = [], 0
        portion.append(each)
        size_bytes += each.size_bytes
    if portion:
        yield portion


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
