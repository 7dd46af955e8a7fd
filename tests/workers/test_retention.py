"""Texts that are not kept: what the lane writes, what the housekeeper removes, what a caller then gets."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from celery import Celery
from celery.app.task import Context
from redis import Redis

from config.catalog import Catalog, load_catalog
from config.settings import Settings, read_settings
from ledger import leadership, partitions, tasks
from ledger.connect import Connection
from tests.workers.made import tick
from workers import lane as lanes
from workers.attempt import run_attempt
from workers.brain import Brain
from workers.errors import TextRemovedError
from workers.housekeeper import Housekeeper
from workers.inbox import Inbox
from workers.lane import Lane

CATALOG = Path(__file__).parents[1] / "catalogs/echo"
SECRET = "the name of the rose"


@pytest.fixture
def catalog() -> Catalog:
    """Keep nothing of `social`, and `code` for as long as the settings say."""
    shipped = load_catalog(CATALOG)
    social = shipped.profiles["social"].model_copy(update={"keep_text": timedelta(0)})
    return shipped.model_copy(update={"profiles": {**shipped.profiles, "social": social}})


@pytest.fixture
def settings(redis_url: str, db_url: str) -> Settings:
    return read_settings(
        {"FLEET_REDIS_URL": redis_url, "FLEET_DATABASE_URL": db_url, "FLEET_KEEP_ATTEMPTS": "90d"}
    )


@pytest.fixture
def run(
    db: Connection, redis: Redis, app: Celery, catalog: Catalog, settings: Settings
) -> Iterator["Runner"]:
    epoch = leadership.take(db, "test", 60)
    assert epoch is not None
    lane = Lane(settings.database_url, settings.redis_url, catalog, "worker@test", {"echo.echo": 2})
    lanes.open_lane = lane
    yield Runner(Brain(db, redis, app, catalog, epoch, Inbox(redis, "dispatch")), redis, app)
    lanes.open_lane = None
    lane.close()


class Runner:
    """Runs one task from the caller to the ledger; its result comes into no Redis."""

    def __init__(self, brain: Brain, redis: Redis, app: Celery) -> None:
        self.brain, self.redis, self.app = brain, redis, app
        for _ in range(500):
            brain.look_at_workers()
            if brain.vitals.slots:
                return
            time.sleep(0.01)
        pytest.fail("the lane did not show itself")

    def __call__(self, profile: str) -> tuple[UUID, str]:
        sent = self.app.send_task("complete", [SECRET], {"profile": profile}, queue="dispatch")
        tick(self.brain)
        raw = self.redis.rpop("echo.echo")
        assert isinstance(raw, bytes)
        message = json.loads(raw)
        request = Context({**message["headers"], "delivery_info": message["properties"]["delivery_info"]})
        return UUID(sent.id), run_attempt(request)["choices"][0]["message"]["content"]


def in_the_ledger(db: Connection) -> str:
    found = db.execute("SELECT t::text FROM tasks t UNION ALL SELECT a::text FROM attempts a").fetchall()
    return " ".join(row[0] for row in found)


def later(db: Connection, minutes: int) -> None:
    db.execute("UPDATE tasks SET finished_at = finished_at - make_interval(mins => %s)", [minutes])


def test_an_answer_that_is_not_to_be_kept_is_never_written(run: Runner, db: Connection):
    """What never came into a database is in none of its backups."""
    task_id, answer = run("social")

    assert SECRET in answer
    assert tasks.fates(db, [task_id])[0].answer is None
    assert tasks.fates(db, [task_id])[0].completion_tokens


def test_the_rest_of_it_goes_when_its_result_is_there(
    run: Runner, db: Connection, settings: Settings, catalog: Catalog
):
    """The prompt had to be there while the task waited."""
    run("social")
    Housekeeper(settings, catalog).make_a_round()
    at_once = in_the_ledger(db)
    later(db, minutes=2)
    Housekeeper(settings, catalog).make_a_round()

    assert SECRET in at_once
    assert SECRET not in in_the_ledger(db)


def test_a_profile_that_says_nothing_keeps_as_the_settings_say(
    run: Runner, db: Connection, settings: Settings, catalog: Catalog
):
    """The default of the settings is for all the others."""
    run("code")
    later(db, minutes=60)
    Housekeeper(settings, catalog).make_a_round()
    after_an_hour = in_the_ledger(db)
    Housekeeper(replace(settings, keep_text=timedelta(minutes=30)), catalog).make_a_round()

    assert SECRET in after_an_hour
    assert SECRET not in in_the_ledger(db)


def test_a_result_whose_text_is_gone_says_so(
    run: Runner, db: Connection, settings: Settings, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
):
    """An empty answer would be taken for the model's own; a moment after the end it is still on its way."""
    monkeypatch.setattr("workers.results.settings", lambda: settings)
    task_id, _ = run("social")
    before = run.app.AsyncResult(str(task_id)).state
    later(db, minutes=2)
    Housekeeper(settings, catalog).make_a_round()

    assert before == "STARTED"
    with pytest.raises(TextRemovedError, match="no longer kept"):
        run.app.AsyncResult(str(task_id)).get(timeout=5)


def test_old_months_of_attempts_are_dropped(
    run: Runner, db: Connection, settings: Settings, catalog: Catalog
):
    """And so are answers that would have been kept longer."""
    run("code")
    long_ago = datetime.now(UTC) - timedelta(days=200)
    db.execute("UPDATE attempts SET queued_at = %s", [long_ago])
    Housekeeper(settings, catalog).make_a_round()
    left = db.execute("SELECT count(*) FROM attempts").fetchone()
    there = db.execute("SELECT to_regclass(%s)", [partitions.partition(long_ago.date())]).fetchone()

    assert left == (0,)
    assert there == (None,)
