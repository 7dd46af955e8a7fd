"""The brain's tick: accept what arrived, learn what ended, decide, write one batch, publish.

One brain at a time: every transaction checks that its epoch still leads.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import structlog
from celery import Celery
from redis import Redis

from config.catalog import Catalog
from ledger import attempts, tasks, unfinished
from ledger.attempts import Key
from ledger.connect import Connection, one_moment
from ledger.tasks import EndedTask, HeldTask, Placement, QueuedAttempt
from routing.budgets import Amount
from routing.candidates import retired_names
from routing.errors import ExpiredError, refusal
from routing.objection import PassedOver
from routing.plan import Run
from routing.scheduler import Scheduler
from routing.task import Task
from routing.vitals import Vitals
from workers.callers import tell_cancelled, tell_failed
from workers.errors import WorkerStoppedError
from workers.failure import stored
from workers.inbox import Batch, Inbox, removal
from workers.intake import Arrived, Intake, first_attempt, held_form
from workers.messages import lane_message
from workers.picture import ended_form, read_accounts, read_away, read_slots, read_vitals
from workers.sweep import Sweep
from workers.tracing import span
from workers.waiting import let_wait
from workers.wire import Command, Wire

POLL_S = 1.0
"""How often the ledger is read without a hint: notifications are hints, the ledger is the truth.

Where there is always something to do, half as often.
"""

QUIET_S = 0.02
"""How long nothing happens before the brain reads the ledger without a hint: so that no task waits for it."""

LOST_AFTER_S = 15.0
"""How long an attempt may wait for a claim while slots are free, before its message counts as lost."""

MOST_AT_ONCE = 500
"""Tasks placed by one statement."""

NOTHING = Arrived((), {})

log = structlog.get_logger()


@dataclass
class Brain:
    """The one that decides, with the picture it decides on."""

    db: Connection
    redis: Redis
    app: Celery
    catalog: Catalog
    epoch: int
    inbox: Inbox
    scheduler: Scheduler = field(init=False)
    polled_at: float = 0.0
    swept_at: float = 0.0

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.catalog)
        self.wire = Wire(self.redis)
        self.sweep = Sweep(self.db, self.epoch)
        self.intake = Intake(self.db, self.inbox, self.catalog, self.epoch)

    def rebuild(self) -> None:
        """Read the whole picture from the ledger, and publish again what no worker has claimed.

        A message that was not lost is then there twice; the claim drops the second one.
        """
        now = datetime.now(UTC)
        with one_moment(self.db):
            self.scheduler = Scheduler(self.catalog, read_vitals(self.db, self.catalog, now))
            for row in tasks.all_held(self.db):
                let_wait(self.scheduler, row, now)
            again = tasks.unclaimed(self.db)
        self.publish(again)
        for name, model in retired_names(self.catalog, now.date()).items():
            log.warning("retired", model=name, stands_for=model.name if model.name != name else "nothing")
        log.info(
            "rebuilt",
            held=len(self.scheduler.backlog),
            open=len(self.vitals.under_way),
            published_again=len(again),
        )

    @property
    def vitals(self) -> Vitals:
        return self.scheduler.vitals

    def tick(self, hints: Sequence[str], batches: Sequence[Batch]) -> None:
        """Do all that there is to do now.

        Args:
            hints: notifications that came.
            batches: messages that arrived.
        """
        arrived = self.new_to_me(self.intake.read(batches))
        self.learn(hints)
        self.look_around(is_quiet=not (hints or batches))
        now = datetime.now(UTC)
        # The order of arrival, also within a batch.
        self.hold(
            held_form(task, now + place * timedelta(microseconds=1))
            for place, task in enumerate(arrived.usable)
        )
        self.dispatch(arrived)
        self.expire()
        for task in arrived.unusable:
            tell_failed(self.app, EndedTask(task.id, task.envelope), task.error or {})

    def new_to_me(self, arrived: Arrived) -> Arrived:
        """Leave out the tasks that this brain has already: a message may come twice."""
        if not arrived.tasks:
            return arrived
        mine = self.scheduler.backlog.tasks.keys() | {key[0] for key in self.vitals.under_way}
        return replace(arrived, tasks={key: each for key, each in arrived.tasks.items() if key not in mine})

    def hold(self, rows: Iterable[HeldTask]) -> None:
        now = datetime.now(UTC)
        for row in rows:
            let_wait(self.scheduler, row, now)

    def look_around(self, *, is_quiet: bool) -> None:
        """Read the ledger without a hint, now and then, and take back what workers have lost.

        Args:
            is_quiet: nothing has happened, and no task waits for the end of this tick.
        """
        if time.monotonic() - self.polled_at < (POLL_S if is_quiet else 2 * POLL_S):
            return
        self.polled_at = time.monotonic()
        claimed = attempts.claimed(self.db)
        for key, claimed_at in claimed.items():
            self.vitals.claimed(key, claimed_at)
        self.look_for_lost(claimed.keys())
        self.look_at_workers()
        self.learn_which_ended(set(self.vitals.under_way))
        self.take_back()

    def looks_in_s(self) -> float:
        """Tell when it is time to look around, where nothing happens."""
        return max(QUIET_S, self.polled_at + POLL_S - time.monotonic())

    def learn(self, hints: Sequence[str]) -> None:
        """Take note of attempts that ended and of workers that came or went."""
        if "" in hints:
            self.look_at_workers()
        hinted = {key for hint in hints for key in attempts.hinted(hint)}
        self.learn_which_ended(hinted & self.vitals.under_way.keys())

    def learn_which_ended(self, asked: Collection[Key]) -> None:
        if not asked:
            return
        unsuccessful: list[UUID] = []
        for row in attempts.finished(self.db, asked):
            self.vitals.ended((row.task_id, row.number), ended_form(row))
            if row.outcome != "succeeded":
                unsuccessful.append(row.task_id)
        if unsuccessful:
            self.hold(tasks.held(self.db, unsuccessful))

    def look_for_lost(self, claimed: Collection[Key]) -> None:
        """See to what nobody has claimed for long.

        Where slots are free, its message is gone, because a worker that is killed takes the messages with it
        that it had received: it is published again; where it was not lost after all, the claim drops the
        second. Where no worker is left, its task waits again, and may go elsewhere.
        """
        if time.monotonic() - self.swept_at < LOST_AFTER_S:
            return
        self.swept_at = time.monotonic()
        slots = self.vitals.slots
        running = Counter(way.model.queue for key, way in self.vitals.under_way.items() if key in claimed)
        waiting = tasks.unclaimed(self.db, older_than_s=LOST_AFTER_S)
        lost = [each for each in waiting if running[each.queue] < slots.get(each.queue, 0)]
        if lost:
            self.publish(lost)
            log.warning("published_again", attempts=len(lost))
        for queue in {each.queue for each in waiting if not slots.get(each.queue)}:
            deserted = [(each.task_id, each.number) for each in waiting if each.queue == queue]
            why = stored(WorkerStoppedError(f"the last worker of queue {queue}"))
            given_back = unfinished.hand_back(self.db, deserted, worker=None, error=why)
            self.learn_which_ended(given_back & self.vitals.under_way.keys())
            log.warning("deserted", queue=queue, attempts=len(given_back))

    def take_back(self) -> None:
        """Let the tasks wait again whose workers died with them."""
        lost, failed = self.sweep.look()
        if not lost:
            return
        for row in attempts.finished(self.db, [(each.task_id, each.number) for each in lost]):
            self.vitals.ended((row.task_id, row.number), ended_form(row))
        self.hold(tasks.held(self.db, [each.task_id for each in lost]))
        for task, error in failed:
            tell_failed(self.app, task, error)
            log.warning("refused", task=str(task.id), error=error["type"])

    def look_at_workers(self) -> None:
        slots = read_slots(self.db)
        if slots != self.vitals.slots:
            log.info("workers", slots=dict(slots))
        self.vitals.slots = slots
        self.vitals.away = read_away(self.db, slots)
        accounts = read_accounts(self.db)
        if accounts != self.vitals.accounts:
            self.vitals.know(accounts)

    def expire(self) -> None:
        """Fail the tasks whose deadline has passed while they waited; nothing was spent on them."""
        now = datetime.now(UTC)
        expired = list(self.scheduler.backlog.expired(now))
        if expired:
            errors = {
                task.id: stored(
                    ExpiredError(
                        task.deadline or now, objections(self.scheduler.decide(task, now).passed_over)
                    )
                )
                for task in expired
            }
            self.fail(errors)

    def dispatch(self, arrived: Arrived) -> None:
        """Give each task that need not wait to its model; what has just arrived is written along with it."""
        self.scheduler.look_again_at = None
        while True:
            now = datetime.now(UTC)
            placed: dict[UUID, Placement] = {}
            refused: dict[UUID, dict[str, Any]] = {}
            for task, decision in self.scheduler.decisions(now):
                if isinstance(decision, Run):
                    reserved = self.vitals.under_way[task.id, task.number].amount
                    placed[task.id] = placement(task, decision, reserved)
                else:
                    refused[task.id] = stored(refusal(task.profile, decision.passed_over))
                if len(placed) + len(refused) == MOST_AT_ONCE:
                    break
            queued = self.write(arrived, placed)
            queued += self.queue([each for each in placed.values() if each.task_id not in arrived.tasks])
            self.publish(queued, arrived.batches)
            if queued:
                models = Counter(attempt.model for attempt in queued)
                log.info("dispatched", tasks=len(queued), to=dict(models))
            if refused:
                self.fail(refused)
            if len(placed) + len(refused) < MOST_AT_ONCE:
                return
            arrived = NOTHING

    def write(self, arrived: Arrived, placed: Mapping[UUID, Placement]) -> list[QueuedAttempt]:
        """Write what arrived, in the state that was decided for it.

        Returns:
            The attempts of those that have a model.
        """
        if not arrived.tasks:
            return []
        inserted = self.intake.write(arrived, placed)
        queued: list[QueuedAttempt] = []
        for task in arrived.usable:
            if task.id not in inserted:
                self.scheduler.backlog.discard(task.id)
                self.forget(task.id)
            elif task.id in placed:
                queued.append(first_attempt(task, placed[task.id]))
        return queued

    def queue(self, placed: Sequence[Placement]) -> list[QueuedAttempt]:
        """Write decisions about tasks that were held.

        Returns:
            The attempts whose messages can go out now.
        """
        if not placed:
            return []
        queued = tasks.queue(self.db, placed, epoch=self.epoch)
        moved = {attempt.task_id for attempt in queued}
        for each in placed:
            if each.task_id not in moved:
                self.forget(each.task_id)
        return queued

    def publish(self, queued: Sequence[QueuedAttempt], accepted: Sequence[Batch] = ()) -> None:
        """Send attempts to their lanes, and let what was accepted leave Redis."""
        if not queued and not accepted:
            return
        by_queue: dict[str, list[bytes]] = defaultdict(list)
        for attempt in queued:
            task_id, number, model = str(attempt.task_id), attempt.number, attempt.model
            of_task = (task_id, attempt.envelope["headers"])
            with span("dispatch", of_task, fleet__task=task_id, fleet__attempt=number, fleet__model=model):
                by_queue[attempt.queue].append(lane_message(attempt))
        commands: list[Command] = [("LPUSH", queue, *messages) for queue, messages in by_queue.items()]
        commands += map(removal, accepted)
        self.wire.ask(commands)

    def fail(self, errors: dict[UUID, dict[str, Any]]) -> None:
        """End tasks that no model will run, and tell their callers."""
        failed = tasks.fail(self.db, errors, epoch=self.epoch)
        for ended in failed:
            tell_failed(self.app, ended, errors[ended.id])
            log.warning("refused", task=str(ended.id), error=errors[ended.id]["type"])

    def cancel(self, ids: Sequence[UUID]) -> None:
        """Cancel the tasks that have not ended, and tell their callers; workers look for it."""
        cancelled = tasks.cancel(self.db, ids, epoch=self.epoch)
        for ended in cancelled:
            self.scheduler.backlog.discard(ended.id)
            tell_cancelled(self.app, ended)
            log.info("cancelled", task=str(ended.id))
        self.learn_of(ids)

    def learn_of(self, ids: Sequence[UUID]) -> None:
        of_ids = set(ids)
        keys = [key for key in self.vitals.under_way if key[0] in of_ids]
        self.learn_which_ended(keys)

    def forget(self, task_id: UUID) -> None:
        """Take back the placement of a task that was cancelled in the meantime."""
        for key in [key for key in self.vitals.under_way if key[0] == task_id]:
            self.vitals.withdrawn(key)


def placement(task: Task, decision: Run, reserved: Amount) -> Placement:
    model = decision.model
    return Placement(
        task_id=task.id,
        model=model.name,
        tier=model.tier,
        queue=model.queue,
        passed_over=objections(decision.passed_over),
        reserved_usd=reserved.usd or Decimal(0),
        reserved_tokens=reserved.tokens,
    )


def objections(passed_over: PassedOver) -> list[list[str]]:
    """Write objections as the ledger keeps them: [[model, why], ...]."""
    return [[model, objection.why] for model, objection in passed_over]
