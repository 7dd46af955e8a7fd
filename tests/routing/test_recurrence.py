"""When recurring tasks are due."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.schedule import RecurringTask
from routing.recurrence import GRACE, Due, count_between, due, next_after, occurrences, starts_at

BERLIN = ZoneInfo("Europe/Berlin")

MINUTE = timedelta(minutes=1)


def an_entry(**keys: Any) -> RecurringTask:
    return RecurringTask.model_validate({"name": "entry", "profile": "social", **keys})


CRONS = ("30 2 * * *", "0 * * * *", "*/20 1-3 * * *", "15 */4 * * *", "0 9 * * MON-FRI", "0 0 L * *")

ENTRIES = [
    *(an_entry(cron=cron, timezone=zone) for cron in CRONS for zone in ("Europe/Berlin", "America/New_York")),
    an_entry(every="7m"),
    an_entry(every="36h"),
    an_entry(every="1h", jitter="20m"),
]

MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - its zone is beside it


@settings(deadline=None)  # cron is looked for minute by minute
@given(entry=st.sampled_from(ENTRIES), start=MOMENTS, later=st.timedeltas(timedelta(0), timedelta(days=3)))
def test_what_is_scheduled_does_not_depend_on_where_one_begins_to_look(
    entry: RecurringTask, start: datetime, later: timedelta
):
    """Two beats that looked last at different moments would fire at different ones."""
    late = list(islice(occurrences(entry, start + later), 3))
    after = (moment for moment in occurrences(entry, start) if moment > start + later)
    early = list(islice(after, 3))

    assert early == late
    assert early == sorted(set(early))


@settings(deadline=None)
@given(
    entry=st.sampled_from(ENTRIES),
    start=MOMENTS,
    steps=st.lists(st.integers(1, 50), min_size=20, max_size=60),
)
def test_a_beat_that_looks_often_enough_misses_nothing_and_doubles_nothing(
    entry: RecurringTask, start: datetime, steps: list[int]
):
    """Whatever the moments of its looks: what comes due between two of them is found once."""
    now, since, found = start, start, list[datetime]()
    for seconds in steps:
        now += timedelta(seconds=seconds)
        come = due(entry, since, now)
        if come:
            assert not come.is_missed
            found.append(come.scheduled_at)
            since = come.scheduled_at

    expected = [moment for moment in islice(occurrences(entry, start), 60) if starts_at(entry, moment) <= now]
    assert found == expected


def test_a_fixed_hour_runs_once_on_the_days_that_change_the_clocks():
    """A run that is left out in spring, or comes twice in autumn, is noticed months later."""
    entry = an_entry(cron="30 2 * * *", timezone="Europe/Berlin")

    for change in (datetime(2026, 3, 29, tzinfo=BERLIN), datetime(2026, 10, 25, tzinfo=BERLIN)):
        begin, end = change - timedelta(days=2), change + timedelta(days=3)
        assert count_between(entry, begin, end) == 5
        assert len({each.astimezone(BERLIN).date() for each in islice(occurrences(entry, begin), 5)}) == 5


def test_every_counts_from_a_fixed_moment():
    """A beat that is started anew must not shift the runs."""
    entry = an_entry(every="15m")

    assert next_after(entry, datetime(2026, 5, 1, 10, 7, tzinfo=UTC)) == datetime(
        2026, 5, 1, 10, 15, tzinfo=UTC
    )
    assert next_after(entry, datetime(2026, 5, 1, 10, 15, tzinfo=UTC)) == datetime(
        2026, 5, 1, 10, 30, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("catch_up", "away", "is_missed"),
    [
        ("none", GRACE, False),
        ("none", GRACE + MINUTE, True),
        ("latest", GRACE + MINUTE, False),
        ("latest", timedelta(days=400, hours=3), False),
    ],
)
def test_of_what_was_missed_the_latest_runs_or_nothing(catch_up: str, away: timedelta, *, is_missed: bool):
    """A host that was off for a week must not start hundreds of runs when it comes back."""
    entry = an_entry(cron="0 0 * * *", catch_up=catch_up)
    midnight = datetime(2026, 5, 1, tzinfo=UTC)
    now = midnight + away

    last = midnight + timedelta(days=away.days)
    assert due(entry, midnight - timedelta(hours=1), now) == Due(last, is_missed)


def test_jitter_is_the_same_for_every_beat_and_another_for_every_run():
    """Two beats that draw lots would fire twice; runs that all begin at once are what it is there against."""
    entry = an_entry(every="1h", jitter="30m")
    moments = list(islice(occurrences(entry, datetime(2026, 5, 1, tzinfo=UTC)), 200))

    delays = [starts_at(entry, moment) - moment for moment in moments]
    assert delays == [starts_at(entry, moment) - moment for moment in moments]
    assert all(timedelta(0) <= delay < timedelta(minutes=30) for delay in delays)
    assert len(set(delays)) == 200
    assert starts_at(an_entry(every="1h"), moments[0]) == moments[0]
