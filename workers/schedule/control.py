"""`fleet schedule run`, `pause`, `resume`: what a person does to an entry."""

from uuid import UUID

from celery import Celery
from redis import Redis

from config.catalog import Catalog, RecurringTask
from config.errors import UnknownNameError
from ledger import schedules
from ledger.connect import Connection
from workers.errors import ScheduleError
from workers.schedule.heartbeats import models_of_workers
from workers.schedule.rounds import Rounds, as_known
from workers.schedule.run import firing_of, objection_to

BY_A_PERSON = "by hand"


def entry_named(catalog: Catalog, name: str) -> RecurringTask:
    """Find an entry.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in catalog.schedule:
        raise UnknownNameError("recurring task", name, sorted(catalog.schedule))
    return catalog.schedule[name]


def run_now(db: Connection, redis: Redis, app: Celery, catalog: Catalog, name: str) -> list[UUID]:
    """Let an entry run now, whatever its rhythm, also while it is paused or not enabled.

    Returns:
        The ids of the tasks: one, or one for each worker.

    Raises:
        UnknownNameError: there is none of that name.
        ScheduleError: the run would be in vain; says why.
    """
    entry = entry_named(catalog, name)
    why_not = objection_to(entry, app, redis, catalog)
    if why_not is not None:
        raise ScheduleError(name, why_not)
    now = schedules.now(db)
    workers = list(models_of_workers(db, catalog, entry)) if entry.each_worker else [""]
    if not workers:
        raise ScheduleError(name, "no worker with local models is there")
    rounds = Rounds(db, redis, app, catalog)
    firings = [firing_of(entry, now, worker) for worker in workers]
    with db.transaction():
        schedules.know(db, as_known(entry, now, is_scheduled=False), now)
        for firing in firings:
            schedules.fire(db, firing, now, is_by_hand=True)
            rounds.send_one(entry, firing, rounds.mark(), now)
    return [firing.task_id for firing in firings]


def pause(db: Connection, catalog: Catalog, name: str, why: str | None) -> bool:
    """Let an entry fire no more; False: it was paused before.

    Raises:
        UnknownNameError: there is none of that name.
    """
    entry, now = entry_named(catalog, name), schedules.now(db)
    with db.transaction():
        schedules.know(db, as_known(entry, now, is_scheduled=False), now)
        return schedules.pause(db, name, why or BY_A_PERSON, now)


def resume(db: Connection, catalog: Catalog, name: str) -> bool:
    """Let an entry fire again; what it missed meanwhile is not made up for. False: it was not paused.

    Raises:
        UnknownNameError: there is none of that name.
    """
    entry_named(catalog, name)
    return schedules.resume(db, name, schedules.now(db))
