"""The brain's tick: accept what arrived, learn what ended, decide, write one batch, publish.

One brain at a time: every transaction checks that its epoch still leads.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import structlog
from celery import Celery
from redis import Redis

from config.catalog import Catalog
from config.errors import UnknownNameError
from ledger import attempts, tasks
from ledger.attempts import Key
from ledger.connect import Connection, commit_without_waiting, flush
from ledger.tasks import EndedTask, HeldTask, NewTask, Placement, QueuedAttempt
from routing.backlog import Backlog
from routing.candidates import Candidates
from routing.errors import ExpiredError, NoModelError
from routing.plan import (
    Objection,
    PassedOver,
    Plan,
    Refuse,
    Run,
    Wait,
    most_tokens,
    plan,
    suiting,
    worst_cost_usd,
)
from routing.task import Task
from routing.vitals import Vitals
from workers.call import check_arguments
from workers.callers import tell_cancelled, tell_failed
from workers.errors import InvalidCallError, UnreadableMessageError
from workers.failure import stored
from workers.inbox import Batch, Inbox
from workers.messages import Message, lane_message, read_message
from workers.picture import read_slots, read_vitals
from workers.waiting import waiting_task

POLL_S = 1.0
"""How often the ledger is read without a hint: notifications are hints, the ledger is the truth."""

LOST_AFTER_S = 15.0
"""How long an attempt may wait for a claim while slots are free, before its message counts as lost."""

MOST_AT_ONCE = 500
"""Tasks placed by one statement."""

log = structlog.get_logger()


class Arrival(NamedTuple):
    """A task with the message that it came in."""

    task: NewTask
    raw: bytes


@dataclass
class Brain:
    """The one that decides, with the picture it decides on."""

    db: Connection
    redis: Redis
    app: Celery
    catalog: Catalog
    epoch: int
    inbox: Inbox
    backlog: Backlog = field(default_factory=Backlog)
    vitals: Vitals = field(init=False)
    polled_at: float = 0.0
    swept_at: float = 0.0
    look_again_at: datetime | None = None
    """When a limit leaves room again for a task that waits for it."""

    def __post_init__(self) -> None:
        self.vitals = Vitals(self.catalog)
        self.candidates = Candidates(self.catalog)

    def rebuild(self) -> None:
        """Read the whole picture from the ledger, and publish again what no worker has claimed.

        A message that was not lost is then there twice; the claim drops the second one.
        """
        commit_without_waiting(self.db)
        self.backlog = Backlog()
        self.vitals = read_vitals(self.db, self.catalog, datetime.now(UTC))
        for row in tasks.held(self.db):
            self.backlog.add(self.task_of(row))
        again = tasks.unclaimed(self.db)
        self.publish(again)
        log.info(
            "rebuilt", held=len(self.backlog), open=len(self.vitals.under_way), published_again=len(again)
        )

    def tick(self, hints: Iterable[str]) -> None:
        """Do all that there is to do now."""
        batches, unusable = self.accept()
        self.learn(hints)
        self.expire()
        self.dispatch()
        self.settle(batches, unusable)

    def accept(self) -> tuple[list[Batch], list[NewTask]]:
        """Insert the tasks that arrived.

        Returns:
            What may leave Redis once the rows are on disk, and the tasks that failed as they arrived.
        """
        batches = self.inbox.read()
        unusable: list[NewTask] = []
        for batch in batches:
            read = ((self.new_task(raw), raw) for raw in batch.messages)
            new = {task.id: Arrival(task, raw) for task, raw in read if task is not None}
            for task_id, accepted_at in self.insert(list(new.values())).items():
                task = new[task_id].task
                if task.error is not None:
                    unusable.append(task)
                else:
                    self.backlog.add(self.task_of(held_form(task, accepted_at)))
            log.info("accepted", read=len(batch.messages))
        return batches, unusable

    def settle(self, batches: Sequence[Batch], unusable: Sequence[NewTask]) -> None:
        """Make sure that what was accepted is on disk; only then it leaves Redis.

        The dispatch does not wait for this: whoever claims an attempt waits for the disk himself, and so
        for all that was committed before.
        """
        if not batches:
            return
        flush(self.db)
        for batch in batches:
            self.inbox.trim(batch)
        for task in unusable:
            tell_failed(self.app, EndedTask(task.id, task.envelope), task.error or {})

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
            nothing: dict[str, Any] = {
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

    def learn(self, hints: Iterable[str]) -> None:
        """Take note of attempts that ended and of workers that came or went."""
        hints = list(hints)
        asked = {key for hint in hints for key in attempts.hinted(hint)} & self.vitals.under_way.keys()
        if time.monotonic() - self.polled_at > POLL_S:
            self.polled_at = time.monotonic()
            asked = set(self.vitals.under_way)
            claimed = attempts.claimed(self.db)
            for key, claimed_at in claimed.items():
                self.vitals.claimed(key, claimed_at)
            self.publish_lost(claimed.keys())
            self.look_at_workers()
        elif "" in hints:
            self.look_at_workers()
        if not asked:
            return
        unsuccessful: list[UUID] = []
        for ended in attempts.finished(self.db, asked):
            self.vitals.ended(
                (ended.task_id, ended.number),
                claimed_at=ended.claimed_at,
                finished_at=ended.finished_at,
                tokens=ended.tokens,
            )
            if ended.outcome != "succeeded":
                unsuccessful.append(ended.task_id)
        if unsuccessful:
            for row in tasks.held(self.db, unsuccessful):
                self.backlog.add(self.task_of(row))

    def publish_lost(self, claimed: Collection[Key]) -> None:
        """Publish again what nobody has claimed for long although slots are free: its message is gone.

        A worker that is killed takes the messages with it that it had received; where one was not lost
        after all, the claim drops the second.
        """
        if time.monotonic() - self.swept_at < LOST_AFTER_S:
            return
        self.swept_at = time.monotonic()
        running = Counter(way.model.queue for key, way in self.vitals.under_way.items() if key in claimed)
        waiting = tasks.unclaimed(self.db, older_than_s=LOST_AFTER_S)
        lost = [each for each in waiting if running[each.queue] < self.vitals.slots.get(each.queue, 0)]
        if lost:
            self.publish(lost)
            log.warning("published_again", attempts=len(lost))

    def look_at_workers(self) -> None:
        slots = read_slots(self.db)
        if slots != self.vitals.slots:
            log.info("workers", slots=dict(slots))
        self.vitals.slots = slots

    def expire(self) -> None:
        """Fail the tasks whose deadline has passed while they waited; nothing was spent on them."""
        now = datetime.now(UTC)
        expired = list(self.backlog.expired(now))
        if expired:
            errors = {
                task.id: stored(ExpiredError(task.deadline or now, objections(self.decide(task).passed_over)))
                for task in expired
            }
            self.fail(errors)

    def dispatch(self) -> None:
        """Give each task that need not wait to its model."""
        self.look_again_at = None
        while self.dispatch_batch() == MOST_AT_ONCE:
            pass

    def dispatch_batch(self) -> int:
        """Decide on as many tasks as one statement places.

        Returns:
            How many tasks no longer wait.
        """
        now = datetime.now(UTC)
        placed: list[Placement] = []
        refused: dict[UUID, dict[str, Any]] = {}
        for task, decision in self.backlog.decide(now, self.decide):
            if isinstance(decision, Run):
                tokens = most_tokens(decision.model, task.needs)
                self.vitals.placed((task.id, len(task.tried) + 1), decision.model, tokens)
                placed.append(placement(task, decision, now))
            else:
                refused[task.id] = stored(NoModelError(task.profile, objections(decision.passed_over)))
            if len(placed) + len(refused) == MOST_AT_ONCE:
                break
        if placed:
            self.place(placed)
        if refused:
            self.fail(refused)
        return len(placed) + len(refused)

    def decide(self, task: Task) -> Plan:
        now = datetime.now(UTC)
        try:
            models = self.candidates(task, now.date())
        except UnknownNameError as error:
            # Accepted under another catalog: it would break every tick from now on.
            return Refuse(((error.name, Objection(str(error), is_final=True)),))
        decision = plan(task, models, self.catalog, self.vitals, now)
        if isinstance(decision, Wait) and decision.until:
            self.look_again_at = min(decision.until, self.look_again_at or decision.until)
        return decision

    def place(self, placed: Sequence[Placement]) -> None:
        """Write a batch of decisions, and publish them after the commit."""
        moved = {attempt.task_id: attempt for attempt in tasks.queue(self.db, placed, epoch=self.epoch)}
        for each in placed:
            if each.task_id not in moved:
                self.forget(each.task_id)
        queued = [moved[each.task_id] for each in placed if each.task_id in moved]
        self.publish(queued)
        log.info("dispatched", tasks=len(queued), to=dict(Counter(attempt.model for attempt in queued)))

    def publish(self, queued: Sequence[QueuedAttempt]) -> None:
        by_queue: dict[str, list[bytes]] = defaultdict(list)
        for attempt in queued:
            by_queue[attempt.queue].append(lane_message(attempt))
        with self.redis.pipeline(transaction=False) as pipeline:
            for queue, messages in by_queue.items():
                pipeline.lpush(queue, *messages)
            pipeline.execute()

    def fail(self, errors: dict[UUID, dict[str, Any]]) -> None:
        """End tasks that no model will run, and tell their callers."""
        failed = tasks.fail(self.db, errors, epoch=self.epoch)
        flush(self.db)
        for ended in failed:
            tell_failed(self.app, ended, errors[ended.id])
            log.warning("refused", task=str(ended.id), error=errors[ended.id]["type"])

    def cancel(self, ids: Sequence[UUID]) -> None:
        """Cancel the tasks that no worker has begun, and tell their callers."""
        cancelled = tasks.cancel(self.db, ids, epoch=self.epoch)
        flush(self.db)
        for ended in cancelled:
            self.backlog.discard(ended.id)
            tell_cancelled(self.app, ended)
            log.info("cancelled", task=str(ended.id))
        self.learn_of(ids)

    def learn_of(self, ids: Sequence[UUID]) -> None:
        of_ids = set(ids)
        keys = [key for key in self.vitals.under_way if key[0] in of_ids]
        self.learn(attempts.hints(keys))

    def forget(self, task_id: UUID) -> None:
        """Take back the placement of a task that was cancelled in the meantime."""
        for key in [key for key in self.vitals.under_way if key[0] == task_id]:
            self.vitals.ended(key, claimed_at=None, finished_at=None, tokens=0)

    def task_of(self, row: HeldTask) -> Task:
        """Turn a ledger row into a task of the backlog."""
        task, today = waiting_task(row, self.catalog, self.vitals), datetime.now(UTC).date()
        try:
            models = self.candidates(task, today)
        except UnknownNameError:
            return task
        return replace(task, suits=suiting(task, models, self.catalog, today))


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


def placement(task: Task, decision: Run, now: datetime) -> Placement:
    model = decision.model
    return Placement(
        task_id=task.id,
        model=model.name,
        tier=model.tier,
        queue=model.queue,
        passed_over=objections(decision.passed_over),
        reserved_usd=worst_cost_usd(model, task.needs, now.date()) or Decimal(0),
        reserved_tokens=most_tokens(model, task.needs),
    )


def objections(passed_over: PassedOver) -> list[list[str]]:
    """Write objections as the ledger keeps them: [[model, why], ...]."""
    return [[model, objection.why] for model, objection in passed_over]
