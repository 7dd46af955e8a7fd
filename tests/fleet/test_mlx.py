"""A worker of MLX models as a process, on MLX's CPU backend."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery.result import AsyncResult

pytest.importorskip("mlx_lm", reason="the extra `mlx` is not installed")

from tests.fleet.processes import Fleet
from tests.mlx_models import tiny

MODELS = """
models:
  tiny-mlx:
    tier: local
    engine: mlx
    sources: [{{file: {folder}}}]
    context_tokens: 2048
    capabilities: {{json_schema: true}}
  half-mlx:
    tier: local
    engine: mlx
    sources: [{{file: {later}}}]
    context_tokens: 2048
  echo: {{tier: local, engine: echo, context_tokens: 2048}}
"""

PROFILES = """
profiles:
  heartbeat:
    {model: tiny-mlx, fallbacks: [echo], max_tier: local, temperature: 0, max_tokens: 12, prompt: Hello.}
routing: {primary: tiny-mlx, fallbacks: [echo]}
"""

ON_CPU = {"FLEET_MLX_ON_CPU": "1"}


@pytest.fixture(scope="module")
def fleet(short_folder: Callable[[], Path]) -> Iterator[Fleet]:
    home = short_folder()
    config = home / "config"
    config.mkdir()
    folder = tiny.make(home / "tiny")
    (config / "models.yaml").write_text(MODELS.format(folder=folder, later=home / "later"))
    (config / "profiles.yaml").write_text(PROFILES)
    (config / "schedule.yaml").write_text("schedule: {}\n")
    fleet = Fleet(home)
    fleet.environment |= ON_CPU
    fleet.start("dispatcher")
    yield fleet
    fleet.end()


def answer_of(result: AsyncResult) -> Any:
    return result.get(timeout=60)


def test_a_worker_serves_what_is_here_and_tells_what_is_not(fleet: Fleet):
    """A task must not be sent to a host that cannot run it; and somebody has to be told why."""
    worker = fleet.start("worker", "mlx", "--slots", "2")
    fleet.wait_for("SELECT models->>'tiny-mlx' FROM workers", "ready")

    with psycopg.connect(fleet.settings.database_url) as db:
        row = db.execute("SELECT slots, models FROM workers").fetchone()
    assert row is not None
    assert row[0]["mlx.tiny-mlx"] == 2
    assert "mlx.half-mlx" not in row[0]
    assert "not on this host" in row[1]["half-mlx"]

    answers = [answer_of(fleet.send(f"Question {n}", profile="heartbeat")) for n in range(3)]
    assert {answer["fleet"]["model"] for answer in answers} == {"tiny-mlx"}
    assert all(answer["usage"]["completion_tokens"] <= 12 for answer in answers)

    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "boolean"}}}
    told = answer_of(fleet.send("Is it so?", model="tiny-mlx", response_format=form))
    assert json.loads(told["choices"][0]["message"]["content"]) in (True, False)

    worker.send_signal(signal.SIGTERM)
    assert fleet.wait_for_end(worker) == 0, fleet.log.read_text()


def test_a_mac_that_sleeps_gets_no_tasks_and_serves_again_when_it_wakes(fleet: Fleet):
    """What waits for it goes elsewhere or is held; nothing is lost, and nobody has to start anything."""
    worker = fleet.start("worker", "mlx")
    fleet.wait_for("SELECT count(*) FROM workers WHERE models->>'tiny-mlx' = 'ready'", 1)
    assert answer_of(fleet.send("Hello.", model="tiny-mlx"))["fleet"]["model"] == "tiny-mlx"

    worker.send_signal(signal.SIGSTOP)
    try:
        fleet.wait_for("SELECT count(*) FROM workers WHERE seen_at > now() - interval '11 seconds'", 0)
        held = fleet.send("Are you awake?", model="tiny-mlx")
        time.sleep(2)
        assert fleet.state(held) == "held"
    finally:
        worker.send_signal(signal.SIGCONT)

    assert answer_of(held)["fleet"]["model"] == "tiny-mlx"
    worker.send_signal(signal.SIGTERM)
    assert fleet.wait_for_end(worker) == 0


def test_a_worker_that_waits_serves_a_model_that_comes_later(fleet: Fleet):
    """`fleet pull` takes long; whoever started a Mac's worker first must not have to come back."""
    refused = fleet.run("worker", "mlx", "--model", "half-mlx")
    assert refused.returncode == 1
    assert "not on this host" in refused.stderr
    waiting = fleet.start("worker", "mlx", "--model", "half-mlx", "--wait")
    fleet.wait_for_log("lane=mlx", 1)

    tiny.make(fleet.settings.home / "later")

    fleet.wait_for(f"SELECT count(*) FROM workers WHERE pid = {waiting.pid}", 1)  # type: ignore[arg-type]
    assert answer_of(fleet.send("Hello.", model="half-mlx"))["fleet"]["model"] == "half-mlx"
    waiting.send_signal(signal.SIGTERM)
    assert fleet.wait_for_end(waiting) == 0


def test_the_host_is_checked_without_a_fleet(fleet: Fleet):
    """Whoever sets up a Mac looks first, and has no server yet."""
    checked = fleet.run("models", "--check", "--json")

    states = {each["model"]: each["state"] for each in json.loads(checked.stdout)}
    assert states["tiny-mlx"] == "ready"
