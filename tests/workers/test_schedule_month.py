"""A month of beats on a clock of the test's own, with everything that can go wrong between two ticks."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from shutil import copy
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from redis import Redis

from config.catalog import Catalog, load_catalog
from ledger import schedules
from ledger.connect import Connection, connect
from tests.workers.conftest import CATALOG
from tests.workers.made import batches_in, trim
from workers.inbox import Inbox
from workers.messages import read_message
from workers.schedule.rounds import Rounds

pytestmark = pytest.mark.timeout(300)

ACCEPT = """
    INSERT INTO tasks (id, state, agent, priority, needs, envelope, accepted_at, finished_at)
    VALUES (%(id)s, 'succeeded', 'schedule', 0, '{}', '{}', %(now)s, %(now)s)
        ON CONFLICT (id) DO NOTHING
    RETURNING id
"""

SCHEDULE = """
schedule:
  often: {every: 2h, profile: heartbeat}
  hourly: {cron: 0 * * * *, timezone: America/New_York, profile: social}
  night: {cron: 30 2 * * *, timezone: Europe/Berlin, profile: creative}
  office: {cron: 0 9 * * MON-FRI, timezone: Europe/London, profile: code, jitter: 5m}
  first: {cron: 0 0 1 * *, profile: analysis, catch_up: latest}
  made-up-for: {every: 1d, profile: quick, catch_up: latest}
  idle: {every: 1m, profile: quick, enabled: false}
"""

DAY = timedelta(days=1)


class Killed(BaseException):
    """A beat dies here: nothing may catch it."""


@dataclass
class Mortal:
    """The Celery app of a beat that may die right before a message is in Redis, or right after."""

    app: Celery
    chance: Random
    deaths: int = 0

    def send_task(self, *args: Any, **options: Any) -> None:
        fate = self.chance.random()
        if fate < 0.05:
            self.deaths += 1
            raise Killed
        self.app.send_task(*args, **options)
        if fate < 0.1:
            self.deaths += 1
            raise Killed


@dataclass
class World:
    """Beats, a Redis that loses its memory, and a dispatcher that accepts what is left."""

    db: Connection
    redis: Redis
    app: Mortal
    catalog: Catalog
    url: str
    chance: Random
    now: datetime
    beats: list[Rounds] = field(default_factory=list[Rounds])
    ran: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    flushes: int = 0

    def start_beat(self) -> Rounds:
        made = Rounds(connect(self.url, name="beat"), self.redis, self.app, self.catalog)  # type: ignore[arg-type]
        made.begin(self.now)
        self.beats.append(made)
        return made

    def round(self) -> datetime | None:
        """Let one of the beats look; None: it did not live through it."""
        beat = self.chance.choice(self.beats)
        try:
            return beat.make_a_round(self.now)
        except Killed:
            beat.db.close()
            self.beats.remove(beat)
            self.start_beat()
            return None

    def flush(self) -> None:
        self.flushes += 1
        self.redis.flushall()

    def accept(self) -> None:
        """Accept what is in Redis, as the dispatcher does: each id once; and run it in no time."""
        inbox = Inbox(self.redis, "dispatch")
        for batch in batches_in(inbox):
            for raw in batch.messages:
                message = read_message(raw)
                if self.db.execute(ACCEPT, {"id": message.id, "now": self.now}).fetchone():
                    told = message.kwargs["metadata"]
                    self.ran[told["schedule"], told["scheduled_at"]] += 1
            trim(inbox, batch)

    def settle(self) -> datetime:
        """Live through what is due now, and tell when the next is."""
        self.round()
        if self.chance.random() < 0.1:
            self.flush()
        self.accept()
        while (following := self.round()) is None or self.is_open():
            self.accept()
        return following

    def is_open(self) -> bool:
        row = self.db.execute("SELECT EXISTS (SELECT FROM firings WHERE outcome IS NULL)").fetchone()
        return bool(row and row[0])

    def live_until(self, end: datetime) -> None:
        """Go from one moment at which something is due to the next, each time a little late."""
        while (following := self.settle()) < end:
            self.now = following + timedelta(seconds=self.chance.random() * 3)
        self.now = end

    def counts(self) -> Counter[str]:
        assert set(self.ran.values()) <= {1}
        return Counter(name for name, _ in self.ran)


@pytest.fixture
def make_world(
    db: Connection, redis: Redis, app: Celery, db_url: str, tmp_path: Path
) -> Iterator[Callable[[datetime, int, str], World]]:
    made: list[World] = []

    def make(start: datetime, seed: int, text: str = SCHEDULE) -> World:
        for name in ("models.yaml", "profiles.yaml"):
            copy(CATALOG / name, tmp_path / name)
        (tmp_path / "schedule.yaml").write_text(text)
        chance = Random(seed)
        world = World(db, redis, Mortal(app, chance), load_catalog(tmp_path), db_url, chance, start)
        for _ in range(3):
            world.start_beat()
        made.append(world)
        return world

    yield make
    for world in made:
        for beat in world.beats:
            beat.db.close()


def days(start: datetime, end: datetime) -> list[date]:
    return [start.date() + n * DAY for n in range((end - start).days)]


@pytest.mark.parametrize(
    "start", [datetime(2027, 3, 5, tzinfo=UTC), datetime(2027, 10, 20, tzinfo=UTC)], ids=str
)
def test_a_month_has_exactly_the_runs_that_the_calendar_says(
    make_world: Callable[..., World], start: datetime
):
    """Three beats, changed clocks, deaths, lost messages, a pause of five days: once each, none left out."""
    world = make_world(start, seed=start.month)
    end = start + 30 * DAY

    world.live_until(start + 10 * DAY)
    assert schedules.pause(world.db, "night", "by hand", world.now)
    world.live_until(start + 15 * DAY)
    assert schedules.resume(world.db, "night", world.now)
    world.live_until(end)

    counts = world.counts()
    assert world.app.deaths > 50
    assert world.flushes > 40
    weekdays = [day for day in days(start, end) if day.weekday() < 5]
    assert counts == {
        "often": 30 * 12 - 1,  # the first one would be at the very start, the next one at the end
        "made-up-for": 29,
        "hourly": 30 * 24 - 1,
        "night": 25,
        "office": len(weekdays),
        "first": 1,
    }
    in_berlin = {
        datetime.fromisoformat(at).astimezone(ZoneInfo("Europe/Berlin")).date()
        for name, at in world.ran
        if name == "night"
    }
    paused = days(start + 10 * DAY, start + 15 * DAY)
    assert in_berlin == set(days(start, end)) - set(paused)
