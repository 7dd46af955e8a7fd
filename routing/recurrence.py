"""When a recurring task is due: from its rhythm and two moments to the moments between them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import NamedTuple

from cronsim import CronSim

from config.schedule import RecurringTask

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

GRACE = timedelta(seconds=60)
"""So late a run still counts as on time: a beat that was killed is replaced, or started again, by then."""

A_WHILE = timedelta(days=2)
"""A long gap is searched from its end first: only its last moment matters."""


class Due(NamedTuple):
    """What has become due."""

    scheduled_at: datetime
    """The last moment of those that have come; the ones before it are not made up for."""
    is_missed: bool
    """It came too long ago, and its entry catches nothing up."""


def occurrences(entry: RecurringTask, after: datetime) -> Iterator[datetime]:
    """List the moments at which an entry is scheduled, from the first one after `after`, in UTC.

    In the hour that a change of clocks repeats, a cron entry with a fixed hour is scheduled once; in the one
    that is left out, right after it.
    """
    if entry.cron is None:
        period = entry.every or timedelta(days=1)
        turn = (after - EPOCH) // period + 1
        while True:
            yield EPOCH + turn * period
            turn += 1
    last = after
    for moment in CronSim(entry.cron, after.astimezone(entry.zone)):
        if (found := moment.astimezone(UTC)) > last:
            yield found
            last = found


def starts_at(entry: RecurringTask, scheduled_at: datetime) -> datetime:
    """Tell when the run of a scheduled moment begins: later by a part of the jitter, always the same one."""
    if entry.jitter is None:
        return scheduled_at
    mark = sha256(f"{entry.name} {scheduled_at.astimezone(UTC).isoformat()}".encode()).digest()
    return scheduled_at + entry.jitter * (int.from_bytes(mark[:4]) / 2**32)


def due(entry: RecurringTask, since: datetime, now: datetime) -> Due | None:
    """Tell what has become due since a moment; None: nothing.

    Args:
        entry: of schedule.yaml.
        since: what was scheduled until then is decided already.
        now: aware, UTC.
    """
    found = last_started(entry, max(since, now - A_WHILE), now)
    if found is None and since < now - A_WHILE:
        found = last_started(entry, since, now)
    if found is None:
        return None
    is_late = starts_at(entry, found) < now - GRACE
    return Due(found, is_missed=is_late and entry.catch_up == "none")


def last_started(entry: RecurringTask, since: datetime, now: datetime) -> datetime | None:
    """Find the last moment after `since` whose run should have begun."""
    last = None
    for moment in occurrences(entry, since):
        if starts_at(entry, moment) > now:
            return last
        last = moment
    return last


def next_after(entry: RecurringTask, after: datetime) -> datetime | None:
    """Tell when an entry is scheduled next; None: within fifty years it is not."""
    return next(occurrences(entry, after), None)


def next_start(entry: RecurringTask, after: datetime) -> datetime | None:
    """Tell when the run of the next scheduled moment begins; None: there is none."""
    following = next_after(entry, after)
    return None if following is None else starts_at(entry, following)


def count_between(entry: RecurringTask, after: datetime, until: datetime) -> int:
    """Count the moments of a span."""
    if entry.every is not None:
        return (until - EPOCH) // entry.every - (after - EPOCH) // entry.every
    count = 0
    for moment in occurrences(entry, after):
        if moment > until:
            break
        count += 1
    return count
