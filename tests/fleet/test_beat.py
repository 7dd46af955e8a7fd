"""Several beats, as processes: killed, told to stop, with a Redis that forgets and files that change."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from redis import Redis

from tests.fleet.processes import ROOT, Fleet

pytestmark = pytest.mark.timeout(300)

SCHEDULE = """
schedule:
  often: {every: 1s, profile: social, deadline: 5m, overlap: queue, deliver: {redis_list: answers}}
  pulse: {every: 2s, profile: heartbeat, each_worker: true, deadline: 1m, pause_after: 0}
"""

TWICE = """
    SELECT count(*) - count(DISTINCT (metadata, needs ->> 'worker'))
      FROM tasks
     WHERE metadata ? 'schedule'
"""

SUCCEEDED = "SELECT count(*) FROM firings WHERE name = 'often' AND outcome = 'succeeded'"


@pytest.fixture
def fleet(short_folder: Callable[[], Path]) -> Iterator[Fleet]:
    home = short_folder()
    copytree(ROOT / "tests/catalogs/echo", home / "config")
    (home / "config/schedule.yaml").write_text(SCHEDULE)
    made = Fleet(home)
    yield made
    made.end()


def wait_until(fleet: Fleet, more: int, timeout_s: float = 60) -> None:
    """Wait until so many more runs have succeeded."""
    end, goal = time.monotonic() + timeout_s, fleet.ask(SUCCEEDED) + more
    while fleet.ask(SUCCEEDED) < goal:
        if time.monotonic() > end:
            pytest.fail(f"{fleet.ask(SUCCEEDED)} of {goal} runs\n{fleet.log.read_text()}")
        time.sleep(0.1)


def test_beats_that_are_killed_beside_a_redis_that_forgets_fire_each_run_once(fleet: Fleet):
    """A job that ran as a duplicate was paid for twice."""
    fleet.start("dispatcher")
    workers = [fleet.worker("--slots", "2"), fleet.worker("--slots", "2")]
    beats = [fleet.start("beat") for _ in range(3)]
    wait_until(fleet, 3)

    with Redis.from_url(fleet.settings.redis_url) as redis:
        for number in range(3):
            beats[number].send_signal(signal.SIGKILL if number else signal.SIGTERM)
            beats.append(fleet.start("beat"))
            redis.flushall()
            wait_until(fleet, 2)
        # Every worker answered through a queue of its own.
        for worker in workers:
            fleet.wait_for(
                "SELECT count(*) > 0 FROM attempts a JOIN firings f ON f.task_id = a.task_id"  # type: ignore[arg-type]
                f" WHERE f.worker = a.worker AND f.outcome = 'succeeded'"
                f" AND starts_with(f.worker, 'echo-{worker.pid}@')",
                True,
            )
        status = json.loads(fleet.run("status", "--json").stdout)
        assert [bool(each["heartbeat_at"]) for each in status["workers"]] == [True, True]
        assert all(each["name"] not in each["slots"] for each in status["workers"])
        assert fleet.run("ping", "beat").stdout.count("beat@") == 3
        # Delivered, after the last time that Redis was emptied.
        delivered: dict[str, Any] = json.loads(redis.blpop(["answers"], timeout=30)[1])  # type: ignore[index]
        assert delivered["answer"]["choices"][0]["message"]["content"]

        # A changed file counts at once, without a restart; a faulty one does not.
        schedule = Path(fleet.settings.config) / "schedule.yaml"
        schedule.write_text(SCHEDULE.replace("every: 1s", "every: 1d"))
        fleet.wait_for("SELECT next_at > now() + interval '1 minute' OR extract(hour FROM now()) = 23"
                       " FROM schedules WHERE name = 'often'", True)  # fmt: skip
        schedule.write_text("schedule: {often: {every: never}}")
        fleet.wait_for_log("files_refused", 1)

    assert fleet.ask(TWICE) == 0
    for beat in beats[3:]:
        beat.terminate()
    assert {fleet.wait_for_end(beat) for beat in beats[3:]} <= {0}


def test_a_schedule_is_looked_at_run_and_paused_from_the_shell(fleet: Fleet):
    """What runs by itself must be easy to see and to stop."""
    (Path(fleet.settings.config) / "schedule.yaml").write_text(
        "schedule:\n"
        "  digest: {cron: 0 3 * * *, profile: social}\n"
        "  double: {cron: 0 4 * * *, profile: social}\n"
    )
    fleet.start("dispatcher")
    fleet.worker()

    task_id = fleet.run("schedule", "run", "digest").stdout.strip()
    fleet.wait_for(f"SELECT state FROM tasks WHERE id = '{task_id}'", "succeeded")  # type: ignore[arg-type]
    assert "digest is paused" in fleet.run("schedule", "pause", "digest", "--why", "holidays").stdout
    listed = fleet.run("schedule")

    assert "digest and double ask the same" in listed.stdout
    assert "holidays" in listed.stdout
    assert "digest runs again" in fleet.run("schedule", "resume", "digest").stdout
    lines = json.loads(fleet.run("schedule", "--json").stdout)
    assert [(line["name"], bool(line["next_at"])) for line in lines] == [("digest", True), ("double", True)]
    unknown = fleet.run("schedule", "run", "digets")
    assert (unknown.returncode, "did you mean 'digest'?" in unknown.stderr) == (1, True)
