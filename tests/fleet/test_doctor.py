"""`fleet doctor` as people and scripts run it."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from config.settings import Settings
from tests.fleet.processes import ROOT, run_fleet
from workers.doctor.look import LIMIT_S

START_S = 20
"""What a slow machine may need to start Python and import what the command needs."""


def doctor(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return run_fleet(environment, "doctor", *options, timeout_s=60)


def by_check(ran: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {each["check"]: each for each in json.loads(ran.stdout)["findings"]}


def test_a_fleet_that_runs_is_told_process_by_process(environment: dict[str, str], fleet: Settings):
    """The one command to run when something seems wrong must see what is right."""
    end = time.monotonic() + START_S
    while True:
        ran = doctor(environment, "--json")
        found = by_check(ran)
        # A machine so slow that a look takes its 3 seconds gets another try.
        if found["fleet.dispatcher"]["level"] == "ok" or time.monotonic() > end:
            break

    assert found["fleet.dispatcher"]["level"] == "ok"
    assert "echo-" in found["fleet.workers"]["found"]
    # These servers are started for tests: they do not wait for the disk.
    assert found["redis.append_only"]["level"] == "warning"
    assert found["postgres.durability"]["level"] == "error"
    assert ran.returncode == 2
    assert json.loads(ran.stdout)["exit_status"] == 2


def test_servers_that_never_answer_do_not_hold_it_up(short_folder: Callable[[], Path]):
    """A host behind a firewall takes packets and says nothing; so does a server that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        place = f"127.0.0.1:{mute.getsockname()[1]}"
        environment = {
            **os.environ,
            "FLEET_HOME": str(short_folder()),
            "FLEET_CONFIG": str(ROOT / "tests/catalogs/echo"),
            "FLEET_REDIS_URL": f"redis://{place}/0",
            "FLEET_DATABASE_URL": f"postgresql://me@{place}/fleet",
            "PYTHONPATH": str(ROOT),
        }
        began = time.monotonic()
        ran = doctor(environment, "--json")
        took_s = time.monotonic() - began
    found = by_check(ran)

    assert took_s < LIMIT_S + START_S
    assert ran.returncode == 2
    for check in ("redis.reachable", "postgres.reachable"):
        assert found[check]["level"] == "error"
        assert "gave no answer within 3 s" in found[check]["found"]


def test_nothing_is_made_by_looking(short_folder: Callable[[], Path]):
    """Somebody who asks what is wrong with a home must not make one by asking."""
    home = short_folder() / "home"
    environment = {**os.environ, "FLEET_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    environment["FLEET_CONFIG"] = str(ROOT / "tests/catalogs/echo")
    for name in ("FLEET_REDIS_URL", "FLEET_DATABASE_URL"):
        environment.pop(name, None)

    ran = doctor(environment)

    assert "the embedded Redis is not running" in ran.stdout
    assert "`fleet up` starts it" in ran.stdout
    assert "profile nowhere cannot be served" in ran.stdout
    assert ran.returncode == 2
    assert not home.exists()
