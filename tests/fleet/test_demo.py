"""`fleet demo`: the first thing that anybody runs; on echo models here, so that it is over in seconds."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEMO_LIMIT_S = 90


def start(folder: Path, *profiles: str) -> "subprocess.Popen[str]":
    """Start the demo with some profiles of the echo catalog, and with room of its own for its home."""
    catalog = Path(shutil.copytree(ROOT / "tests/catalogs/echo", folder / "config"))
    file = catalog / "profiles.yaml"
    declared = yaml.safe_load(file.read_text())
    declared["profiles"] = {name: declared["profiles"][name] for name in (*profiles, "heartbeat")}
    file.write_text(yaml.safe_dump(declared))
    (folder / "tmp").mkdir()
    environment = {
        **os.environ,
        "FLEET_CONFIG": str(catalog),
        "FLEET_REDIS_URL": "redis://127.0.0.1:1/0",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(folder / "tmp"),
        "COLUMNS": "200",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "demo"],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_of(folder: Path) -> list[str]:
    found = subprocess.run(["ps", "-A", "-ww", "-o", "args"], capture_output=True, text=True, check=True)
    return [line for line in found.stdout.splitlines() if str(folder) in line]


def test_it_shows_what_callers_and_postgres_have_and_leaves_nothing(short_folder: Callable[[], Path]):
    """It must not touch a fleet that is there: the Redis that the environment names is not used."""
    folder = short_folder()
    demo = start(folder, "social", "code")

    printed, _ = demo.communicate(timeout=DEMO_LIMIT_S)

    assert demo.returncode == 0, printed
    answers, rows = printed.split("What the callers get")[1].split("What Postgres has of it")
    for profile in ("social", "code", "heartbeat"):
        assert f"The default prompt of {profile}." in answers
        assert profile in rows
    assert rows.count("succeeded") == 6  # the task's state and the attempt's outcome
    assert list((folder / "tmp").iterdir()) == []
    assert processes_of(folder) == []


def test_a_task_that_fails_fails_the_demo_and_shows_the_logs(short_folder: Callable[[], Path]):
    """`make demo` in CI must not be green while nothing is answered."""
    demo = start(short_folder(), "impossible")

    printed, _ = demo.communicate(timeout=DEMO_LIMIT_S)

    assert demo.returncode == 1
    assert "NoModelError" in printed
    assert "The last lines of the logs" in printed
    assert "leading epoch=1" in printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_an_interrupted_demo_leaves_nothing(short_folder: Callable[[], Path], number: signal.Signals):
    """Ctrl-C is how people end what takes too long."""
    folder = short_folder()
    demo = start(folder, "nowhere")
    while not processes_of(folder / "tmp"):
        assert demo.poll() is None
        time.sleep(0.05)
    time.sleep(3)

    demo.send_signal(number)
    demo.communicate(timeout=DEMO_LIMIT_S)

    assert demo.returncode == 1
    assert list((folder / "tmp").iterdir()) == []
    assert processes_of(folder) == []
