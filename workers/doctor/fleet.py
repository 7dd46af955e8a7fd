"""The fleet's processes: who leads, who works, whether beat beats, and what of it runs on this host."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from config.catalog import Catalog, RecurringTask
from config.schedule import twins
from config.settings import Settings
from ledger.accounts import AccountRow
from ledger.health import Lease
from ledger.usage import WorkerLoad
from routing.account import BELIEVED, Account
from routing.recurrence import occurrences
from workers import pidfile
from workers.doctor.finding import Finding, error, note, ok, warning
from workers.doctor.look import NOT_RUNNING, Silence
from workers.doctor.postgres import SCHEDULE_SEEN, FleetFacts
from workers.picture import STALE_S
from workers.words import duration

PERIODS = 3
"""So many of a recurring task's periods without it, and beat is missed."""


@dataclass(frozen=True)
class Up:
    """The `fleet up` of this home."""

    pid: int | None
    """None: there is none."""
    processes: Mapping[str, int]
    """Pids of what it runs, by name."""


NOBODY = "the fleet is not up: nobody leads, nobody works"

NOT_UP = Up(None, {})


def look(settings: Settings) -> Up | Silence:
    """Look for it."""
    try:
        pid = pidfile.holder(settings.home)
        running = pidfile.recorded(settings.home) if pid else {}
    except OSError as fault:
        return Silence(f"cannot be read ({fault.strerror})", "set FLEET_HOME to a folder of your own")
    return Up(pid, {name: process.pid for name, process in running.items()})


def findings(
    up: Up, seen: FleetFacts | Silence, catalog: Catalog | None, *, not_accepted: int
) -> Iterator[Finding]:
    """Judge it.

    Args:
        up: the `fleet up` of this home.
        seen: what the ledger knows.
        catalog: for the schedule; None: it has faults.
        not_accepted: tasks in Redis that no dispatcher has read.
    """
    if up.pid:
        yield ok(
            "fleet.up", f"`fleet up` runs here (pid {up.pid}): {', '.join(up.processes) or 'nothing yet'}"
        )
    if isinstance(seen, Silence):
        if seen == NOT_RUNNING and not up.pid:
            yield note("fleet.dispatcher", NOBODY, "`fleet up`")
        else:
            yield note("fleet.dispatcher", f"who leads and who works is not known: {seen.why}")
        return
    there = [worker for worker in seen.workers if is_there(worker)]
    waiting = seen.tasks.held + seen.tasks.queued + not_accepted
    leads = seen.lease is not None and (seen.lease.left_s or 0.0) > 0
    if not leads and not there and not up.pid and not waiting:
        yield note("fleet.dispatcher", NOBODY, "`fleet up`")
        return
    yield of_dispatcher(seen.lease, waiting)
    yield from of_workers(there, seen.workers, waiting)
    yield from of_accounts(seen.accounts)
    if catalog is not None and leads:
        yield from of_beat(up, seen, there, catalog)
        yield from of_schedule(seen, catalog)


def is_there(worker: WorkerLoad) -> bool:
    """Judge as the brain does."""
    return worker.silent_s < STALE_S


def of_dispatcher(lease: Lease | None, waiting: int) -> Finding:
    check = "fleet.dispatcher"
    if lease is None:
        return error(check, "the table leadership has lost its row", "restore the database from a backup")
    left_s = lease.left_s
    if left_s is not None and left_s > 0:
        return ok(check, f"{lease.holder} leads, epoch {lease.epoch}, its lease lasts {left_s:.1f} s more")
    since = "nobody has led yet" if left_s is None else f"nobody leads since {duration(-left_s)}"
    start = "`fleet up`, or `fleet dispatcher` on its own"
    if waiting:
        return error(check, f"{since}, and {tasks(waiting)} for it", start)
    return warning(check, since, start)


def of_workers(there: Sequence[WorkerLoad], known: Sequence[WorkerLoad], waiting: int) -> Iterator[Finding]:
    for worker in there:
        queues = ", ".join(f"{queue} ({slots})" for queue, slots in worker.slots.items())
        yield ok("fleet.workers", f"{worker.name} on {worker.host} serves {queues}")
    if not there:
        start = "`fleet up` on a host that has a model"
        if waiting:
            yield error("fleet.workers", f"no worker is there, and {tasks(waiting)}", start)
        else:
            yield warning("fleet.workers", "no worker is there", start)
    served = {(worker.host, queue) for worker in there for queue in worker.slots}
    for worker in known:
        if not is_there(worker) and not {(worker.host, queue) for queue in worker.slots} <= served:
            yield warning(
                "fleet.workers",
                f"{worker.name} on {worker.host} was last seen {duration(worker.silent_s)} ago",
                f"look at {worker.host}: does it sleep, does its `fleet up` run?",
            )


def of_accounts(known: Sequence[AccountRow]) -> Iterator[Finding]:
    """Tell what providers say of their accounts, if they were asked lately."""
    now = datetime.now(UTC)
    for row in known:
        if now - row.asked_at > BELIEVED:
            continue
        account = Account(row.asked_at, row.credit_usd, row.is_free_tier)
        ago = f"asked {duration((now - row.asked_at).total_seconds())} ago"
        if account.is_empty:
            yield warning(
                "fleet.accounts",
                f"{row.provider} says that no credit is left ({ago}); nothing that costs money is sent there",
                "add credit, or raise the limit of the key: workers ask again every few minutes",
            )
            continue
        tiers = {True: "on the free tier", False: "credits were bought", None: None}
        known_of_it = ", ".join(filter(None, (account.left, tiers[row.is_free_tier]))) or "no bound is set"
        yield ok("fleet.accounts", f"{row.provider}: {known_of_it} ({ago})")


def of_beat(up: Up, seen: FleetFacts, there: Sequence[WorkerLoad], catalog: Catalog) -> Iterator[Finding]:
    """Tell whether somebody enqueues the recurring tasks: by its process here, or by what it enqueued."""
    check, now = "fleet.beat", datetime.now(UTC)
    periods = [
        period_of(entry, now)
        for entry in catalog.schedule.values()
        if entry.enabled and entry.name not in seen.paused
    ]
    if not periods:
        yield ok(check, "schedule.yaml has no recurring task that is enabled")
        return
    expected_within = PERIODS * min(periods)
    if seen.last_scheduled_at is not None and now - seen.last_scheduled_at < expected_within:
        ago = duration((now - seen.last_scheduled_at).total_seconds())
        yield ok(check, f"the last task of schedule.yaml came {ago} ago")
    elif "beat" in up.processes:
        yield ok(check, f"beat runs here (pid {up.processes['beat']})")
    elif expected_within < SCHEDULE_SEEN and any(now - each.started_at > expected_within for each in there):
        yield warning(
            check,
            f"no task of schedule.yaml came within {duration(expected_within.total_seconds())}",
            "run `fleet beat` on a host; `fleet up` does",
        )
    else:
        yield note(check, "no beat runs on this host, and whether one runs elsewhere is not known")


def period_of(entry: RecurringTask, now: datetime) -> timedelta:
    """Tell how long after its next run an entry runs again."""
    following = list(islice(occurrences(entry, now), 2))
    return following[1] - following[0] if len(following) == 2 else timedelta.max / PERIODS


def of_schedule(seen: FleetFacts, catalog: Catalog) -> Iterator[Finding]:
    """Tell of what is paused, and of what is most likely there twice."""
    check = "fleet.schedule"
    for name, why in seen.paused.items():
        if name in catalog.schedule:
            mend = f"mend it, then `fleet schedule resume {name}`"
            yield warning(check, f"the recurring task {name} is paused: {why}", mend)
    for first, second in twins(catalog.schedule):
        yield warning(check, f"{first} and {second} ask the same", "disable one of them in schedule.yaml")


def tasks(waiting: int) -> str:
    return "1 task waits" if waiting == 1 else f"{waiting} tasks wait"
