"""A beat's round: learn what ended, fire what is due, send what is nowhere yet.

Any number of beats make their rounds at once. A firing is a row with a key of its own, written while its
entry is held, so it is there once, whoever looked first and whoever died in between. A message is sent for a
row, and sent again where its Redis was emptied; the task's id is the row's, so it runs once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

import structlog
from celery import Celery
from redis import Redis

from config.catalog import Catalog, RecurringTask
from ledger import schedules
from ledger.connect import Connection
from ledger.schedules import Ended, Entry, Firing, State
from routing.recurrence import due, next_after, next_start
from workers.schedule.heartbeats import models_of_workers
from workers.schedule.run import firing_of, most_usd, objection_to, send

MARK = "fleet.schedule.mark"
"""The key whose value marks a Redis: when it is gone, so are the messages."""

DELIVERED = ("succeeded", "failed")
"""Of these runs the outcome is delivered; the others never called a model."""

NEVER_ACCEPTED = timedelta(minutes=1)
"""So long after its deadline, a run that no dispatcher accepted has ended."""

log = structlog.get_logger()


@dataclass
class Rounds:
    """One beat's view: its connections, and the schedule as its files have it."""

    db: Connection
    redis: Redis
    app: Celery
    catalog: Catalog

    def begin(self, now: datetime) -> None:
        """Tell the ledger what the schedule is; what it has not seen before begins now."""
        with self.db.transaction():
            for entry in self.entries:
                schedules.know(self.db, as_known(entry, now), now)
            schedules.forget(self.db, but=[entry.name for entry in self.entries])

    def take_over(self, catalog: Catalog, now: datetime) -> None:
        """Go on with another catalog; what was changed begins anew, and makes up for nothing."""
        before, self.catalog = {entry.name: entry for entry in self.entries}, catalog
        changed = [
            entry.name
            for entry in self.entries
            if entry.name not in before or entry.rhythm != before[entry.name].rhythm
        ]
        with self.db.transaction():
            self.begin(now)
            schedules.start_anew(self.db, changed, now)

    @property
    def entries(self) -> list[RecurringTask]:
        return [entry for entry in self.catalog.schedule.values() if entry.enabled]

    def make_a_round(self, now: datetime) -> datetime | None:
        """Do what there is to do.

        Args:
            now: the fleet's time, aware.

        Returns:
            When the next run begins; None: there is none.
        """
        self.learn(now)
        following = self.fire_due(now)
        self.send_all(now)
        return following

    def fire_due(self, now: datetime) -> datetime | None:
        """Decide about what has become due since the last look.

        Returns:
            When the next run begins, of whichever entry; None: there is none.
        """
        known = schedules.states(self.db, [entry.name for entry in self.entries])
        moments: list[datetime] = []
        for entry in self.entries:
            state = known.get(entry.name)
            if state is None:
                continue
            is_to_decide = self.is_to_decide(entry, state, now)
            following = next_start(entry, now if is_to_decide else state.decided_until)
            moments.extend(() if following is None else (following,))
            if is_to_decide:
                why_not = None
                if state.paused_at is None:
                    # It may take seconds, and the row is not held meanwhile.
                    why_not = objection_to(entry, self.app, self.redis, self.catalog)
                with self.db.transaction():
                    self.decide(entry, now, why_not)
        return min(moments, default=None)

    def is_to_decide(self, entry: RecurringTask, state: State, now: datetime) -> bool:
        return state.decided_until > now or due(entry, state.decided_until, now) is not None

    def decide(self, entry: RecurringTask, now: datetime, why_not: str | None) -> None:
        """Fire, skip or refuse what is due, while nobody else can."""
        state = schedules.lock(self.db, entry.name)
        if state is None:
            return
        if state.decided_until > now:
            # The clock was set back. What it shows for the second time has its row, or had not fired.
            schedules.decide(self.db, entry.name, now, next_start(entry, now))
            log.warning("clock_set_back", schedule=entry.name, decided_until=str(state.decided_until))
            return
        found = due(entry, state.decided_until, now)
        if found is None:
            return
        schedules.decide(self.db, entry.name, found.scheduled_at, next_start(entry, found.scheduled_at))
        if state.paused_at is not None:
            return
        if found.is_missed:
            log.warning("missed", schedule=entry.name, scheduled_at=str(found.scheduled_at))
            return
        for worker in self.workers_of(entry):
            firing = firing_of(entry, found.scheduled_at, worker or "")
            if worker is None:
                self.fire(entry, firing, now, "skipped", "no worker with local models is there")
            elif why_not is not None:
                if self.fire(entry, firing, now, "refused", why_not):
                    self.count_failure(entry, state, f"were refused: {why_not}", now)
            else:
                why = self.obstacle(entry, firing, now)
                self.fire(entry, firing, now, "skipped" if why else None, why)

    def workers_of(self, entry: RecurringTask) -> Iterable[str | None]:
        """List who gets a run: '' is anybody; None: there is nobody who could."""
        if not entry.each_worker:
            return [""]
        return list(models_of_workers(self.db, self.catalog, entry)) or [None]

    def fire(
        self, entry: RecurringTask, firing: Firing, now: datetime, outcome: str | None, why: str | None
    ) -> bool:
        """Write a run: to be sent, or ended as it fired; False: it is there already."""
        is_new = schedules.fire(self.db, firing, now, outcome=outcome, why=why)
        if is_new:
            at = firing.scheduled_at.isoformat()
            log.info("fired", schedule=entry.name, scheduled_at=at, outcome=outcome, why=why)
        return is_new

    def obstacle(self, entry: RecurringTask, firing: Firing, now: datetime) -> str | None:
        """Say why a run is skipped; None: it is not."""
        if most_usd(self.db, entry, now) == 0 and entry.budget and entry.budget.day_usd is not None:
            return f"its budget of ${entry.budget.day_usd} a day is spent"
        ahead = [each for each in schedules.still_open(self.db, entry.name) if each.worker == firing.worker]
        if not ahead:
            return None
        if entry.overlap == "skip":
            return f"the run of {ahead[0].scheduled_at:%Y-%m-%d %H:%M:%S} UTC has not ended"
        if len(ahead) > 1:
            return f"the run of {ahead[-1].scheduled_at:%Y-%m-%d %H:%M:%S} UTC waits already"
        return None

    def send_all(self, now: datetime) -> None:
        """Send the messages of the runs whose turn it is, and again those that Redis has lost."""
        entries = {entry.name: entry for entry in self.catalog.schedule.values()}
        mark = self.mark()
        while schedules.to_send(self.db, list(entries), mark):
            with self.db.transaction():
                firing = schedules.next_to_send(self.db, list(entries), mark)
                if firing is None:
                    return
                self.send_one(entries[firing.name], firing, mark, now)

    def mark(self) -> str:
        found = self.redis.get(MARK)
        if found is None:
            self.redis.set(MARK, uuid4().hex, nx=True)
            found = self.redis.get(MARK)
        return found.decode() if isinstance(found, bytes) else ""

    def send_one(self, entry: RecurringTask, firing: Firing, mark: str, now: datetime) -> None:
        more: dict[str, object] = {"max_cost_usd": most_usd(self.db, entry, now)}
        if firing.worker:
            model = models_of_workers(self.db, self.catalog, entry).get(firing.worker)
            if model is None:
                gone = Ended(**vars(firing), state="failed", attempts=0, error="WorkerGone", finished_at=now)
                schedules.end(self.db, gone, "failed", "the worker has gone", delivers=False)
                return
            more |= {"model": model, "worker": firing.worker}
        expires_at = now + lifetime(entry, firing.scheduled_at)
        send(self.app, self.catalog, entry, firing, expires_at, **more)
        schedules.sent(self.db, firing, mark, expires_at)
        log.info("sent", schedule=firing.name, task=str(firing.task_id))

    def learn(self, now: datetime) -> None:
        """Take note of the runs that have ended, and pause what fails again and again."""
        names = list(self.catalog.schedule)
        for each in schedules.ended(self.db, now, expired_before=now - NEVER_ACCEPTED, names=names):
            entry = self.catalog.schedule.get(each.name)
            outcome, why = judge(each, entry)
            delivers = outcome in DELIVERED and entry is not None and entry.deliver is not None
            with self.db.transaction():
                state = schedules.lock(self.db, each.name, wait=True)
                if state is None or not schedules.end(self.db, each, outcome, why, delivers=delivers):
                    continue
                if outcome == "succeeded" and state.failures:
                    schedules.count_failures(self.db, each.name, 0)
                elif outcome == "failed" and entry is not None:
                    self.count_failure(entry, state, f"failed, the last with {why}", now)

    def count_failure(self, entry: RecurringTask, state: State, how: str, now: datetime) -> None:
        """Count one more failure in a row; too many pause the entry."""
        failures = state.failures + 1
        schedules.count_failures(self.db, entry.name, failures)
        if entry.pause_after and failures >= entry.pause_after and state.paused_at is None:
            times = "1 run" if failures == 1 else f"{failures} runs in a row"
            schedules.pause(self.db, entry.name, f"{times} {how}", now)
            log.error("paused", schedule=entry.name, why=f"{times} {how}")


def as_known(entry: RecurringTask, now: datetime, *, is_scheduled: bool = True) -> Entry:
    """Give what the ledger is told of an entry."""
    return Entry(entry.name, entry.rhythm, next_start(entry, now) if is_scheduled else None)


def lifetime(entry: RecurringTask, scheduled_at: datetime) -> timedelta:
    """Tell how long a run may wait: its deadline, else until the next one is due."""
    if entry.deadline is not None:
        return entry.deadline
    following = next_after(entry, scheduled_at)
    return following - scheduled_at if following is not None else timedelta(days=1)


def judge(ended: Ended, entry: RecurringTask | None) -> tuple[str, str | None]:
    """Tell how a run ended, and why; nothing that cost nothing for want of a model is a failure."""
    if ended.state in ("succeeded", "cancelled"):
        return ended.state, None
    if ended.state == "unsent":
        return "skipped", "schedule.yaml does not name it any more"
    if ended.state == "unaccepted":
        return "expired", "no dispatcher accepted it in time"
    if ended.attempts == 0 and ended.error == "ExpiredError":
        return "expired", "no model was ready in time"
    bounded = entry is not None and entry.budget is not None and entry.budget.day_usd is not None
    if ended.attempts == 0 and ended.error == "NoModelError" and bounded:
        return "skipped", "what is left of its budget a day pays for no model"
    return "failed", f"{ended.error} (`fleet explain {ended.task_id}`)"
