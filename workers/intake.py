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
from ledger.tasks import HeldTask, NewTask
from workers.call import check_arguments
from workers.errors import InvalidCallError, UnreadableMessageError
from workers.failure import stored
from workers.inbox import Batch, Inbox
from workers.messages import Message, read_message

log = structlog.get_logger()


class Arrival(NamedTuple):
    """A task with the message that it came in."""

    task: NewTask
    raw: bytes


@dataclass(frozen=True)
class Accepted:
    """What one reading brought."""

    batches: Sequence[Batch]
    """What may leave Redis once the rows are on disk."""
    held: Sequence[HeldTask]
    unusable: Sequence[NewTask]
    """The tasks that failed as they arrived."""


@dataclass
class Intake:
    """Where tasks come in."""

    db: Connection
    inbox: Inbox
    catalog: Catalog
    epoch: int

    def accept(self) -> Accepted:
        """Insert the tasks that arrived; the messages stay in Redis."""
        batches = self.inbox.read()
        held: list[HeldTask] = []
        unusable: list[NewTask] = []
        for batch in batches:
            read = ((self.new_task(raw), raw) for raw in batch.messages)
            new = {task.id: Arrival(task, raw) for task, raw in read if task is not None}
            for task_id, accepted_at in self.insert(list(new.values())).items():
                task = new[task_id].task
                if task.error is not None:
                    unusable.append(task)
                else:
                    held.append(held_form(task, accepted_at))
            log.info("accepted", read=len(batch.messages))
        return Accepted(batches, held, unusable)

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
            call = check_arguments(self.catalog, message.args, message.kwargs)
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

    def insert(self, new: Sequence[Arrival]) -> dict[UUID, datetime]:
        """Insert tasks in one statement; one that Postgres cannot keep does not hold up the others.

        Returns:
            When each task was accepted, without those that were there already or are buried now.
        """
        if not new:
            return {}
        try:
            return tasks.accept(self.db, [each.task for each in new], epoch=self.epoch)
        except psycopg.DataError as error:
            if len(new) == 1:
                why = f"Postgres cannot keep it: {type(error).__name__}"
                log.warning("buried", why=why, task=str(new[0].task.id))
                self.inbox.bury(new[0].raw, why)
                return {}
            half = len(new) // 2
            return {**self.insert(new[:half]), **self.insert(new[half:])}


def held_form(task: NewTask, accepted_at: datetime) -> HeldTask:
    """Give the row that the ledger would answer for a task that was accepted just now."""
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
