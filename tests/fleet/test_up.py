"""`fleet up` as people use it: up, ask, look, down, and nothing is left."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from config.settings import Settings, read_settings
from tests.fleet.processes import ROOT, run_fleet
from workers import embedded

UP_LIMIT_S = 60
DOWN_LIMIT_S = 40
SLOW_S = 5


def slow_catalog(folder: Path) -> Path:
    """Copy the echo catalog, with a model so slow that a fleet can be stopped while it answers."""
    copy = Path(shutil.copytree(ROOT / "tests/catalogs/echo", folder / "config"))
    models = copy / "models.yaml"
    models.write_text(models.read_text().replace('upstream: "0.3"', f'upstream: "{SLOW_S}"'))
    return copy


@contextmanager
def a_home(folder: Path) -> Generator[dict[str, str]]:
    """Make the environment of a fleet with a home of its own; afterwards nothing of it runs."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as free,
        closing(socket.create_server(("127.0.0.1", 0))) as another,
    ):
        port, dashboard_port = free.getsockname()[1], another.getsockname()[1]
    environment = {
        **os.environ,
        "FLEET_HOME": str(folder / "home"),
        "FLEET_CONFIG": str(slow_catalog(folder)),
        "FLEET_FLOWER_PORT": str(port),
        "FLEET_DASHBOARD_PORT": str(dashboard_port),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
    }
    for name in ("FLEET_REDIS_URL", "FLEET_DATABASE_URL", "FLEET_FLOWER_PASSWORD"):
        environment.pop(name, None)
    yield environment
    run(environment, "down")


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_fleet(environment, *arguments, timeout_s=DOWN_LIMIT_S)


class Up:
    """A running `fleet up`, and what it printed."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.log = Path(environment["FLEET_HOME"]).with_name("up.log")
        with self.log.open("w") as writing:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers.cli", "up"],
                env=environment,
                cwd=ROOT,
                stdout=writing,
                stderr=writing,
            )

    @property
    def settings(self) -> Settings:
        return read_settings(self.environment)

    @property
    def printed(self) -> str:
        return self.log.read_text()

    def wait_until_serving(self) -> dict[str, Any]:
        end = time.monotonic() + UP_LIMIT_S
        while time.monotonic() < end:
            found = run(self.environment, "status", "--json")
            if found.returncode == 0:
                return json.loads(found.stdout)
            assert self.process.poll() is None, self.printed
        pytest.fail(f"no leader and worker within {UP_LIMIT_S} s:\n{self.printed}")

    def wait_until_printed(self, text: str, times: int = 1) -> None:
        end = time.monotonic() + UP_LIMIT_S
        while self.printed.count(text) < times:
            if time.monotonic() > end:
                pytest.fail(f"{text!r} was not printed {times} times:\n{self.printed}")
            time.sleep(0.05)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def up(short_folder: Callable[[], Path]) -> Iterator[Up]:
    """Start a fleet that the test ends."""
    with a_home(short_folder()) as environment:
        running = Up(environment)
        yield running
    running.process.wait(DOWN_LIMIT_S)


@pytest.fixture(scope="module")
def serving(short_folder: Callable[[], Path]) -> Iterator[Up]:
    """Start a fleet that several tests look at."""
    with a_home(short_folder()) as environment:
        running = Up(environment)
        running.wait_until_serving()
        yield running
    running.process.wait(DOWN_LIMIT_S)


def get(url: str, password: str | None = None) -> int:
    request = urllib.request.Request(url)
    if password:
        request.add_header("Authorization", f"Basic {b64encode(f'fleet:{password}'.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def answers(url: str) -> bool:
    try:
        return get(url) > 0
    except OSError:
        return False


def assert_nothing_runs(settings: Settings, children: list[psutil.Process]) -> None:
    assert embedded.running(settings.home, settings.sockets) == []
    _, alive = psutil.wait_procs(children, timeout=5)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


def test_status_tells_who_is_there(serving: Up):
    """A script waits with it for a fleet, and a person looks there first."""
    status = serving.wait_until_serving()

    assert status["is_serving"] is True
    assert (status["tasks"]["held"], status["not_accepted"], status["dead_letters"]) == (0, 0, 0)
    assert [worker["name"].partition("-")[0] for worker in status["workers"]] == ["echo"]
    assert f"pid {serving.process.pid}" in run(serving.environment, "status").stdout


def test_a_second_up_is_refused(serving: Up):
    """Two of them would load every model twice."""
    again = run(serving.environment, "up")

    assert again.returncode == 1
    assert f"up already (pid {serving.process.pid})" in again.stderr


def test_flower_asks_for_the_password_and_no_command_line_shows_it(serving: Up):
    """Flower can revoke tasks and shut workers down: whoever is on the host must not."""
    url = f"http://127.0.0.1:{serving.settings.flower_port}/workers"
    end = time.monotonic() + UP_LIMIT_S
    while not answers(url) and time.monotonic() < end:
        time.sleep(0.1)
    kept = serving.settings.home / "flower.password"
    password = kept.read_text().strip()

    assert get(url) == 401
    assert get(url, "wrong") == 401
    assert get(url, password) == 200
    assert run(serving.environment, "ping", "flower").returncode == 0
    assert kept.stat().st_mode & 0o777 == 0o600
    assert password in serving.printed
    assert not any(password in " ".join(child.cmdline()) for child in serving.children())


def test_the_dashboard_is_there_and_its_health_can_be_asked(serving: Up):
    """The first screen names its address; a container asks the command."""
    url = serving.settings.dashboard_url
    end = time.monotonic() + UP_LIMIT_S
    while not answers(url) and time.monotonic() < end:
        time.sleep(0.1)

    assert get(f"{url}/") == 200
    assert url in serving.printed
    assert run(serving.environment, "ping", "dashboard").returncode == 0


def test_a_process_that_dies_is_started_again(serving: Up):
    """Work goes on after native code has crashed the worker, or the out-of-memory killer took it."""
    psutil.Process(serving.wait_until_serving()["workers"][0]["pid"]).send_signal(signal.SIGSEGV)

    serving.wait_until_printed("worker-echo ended with status -11; it starts again in 1 s")
    serving.wait_until_printed(" serving ", times=2)
    asked = run(serving.environment, "complete", "still there", "--profile", "social")
    assert asked.stdout.strip() == "still there", asked.stderr


@pytest.mark.parametrize("name", ["redis", "postgres"])
def test_an_embedded_server_that_dies_is_started_again(serving: Up, name: str):
    """Nobody is there at night to start it by hand; and what was asked before is answered after."""
    using = read_settings(serving.environment)
    server = next(s for s in embedded.running(using.home, using.sockets) if s.name == name)

    psutil.Process(server.pid).kill()
    serving.wait_until_printed(f"the embedded {name} had ended; it runs again")
    answered = run(serving.environment, "complete", "still there", "--profile", "social")

    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.strip() == "still there"


def test_down_ends_all_of_it_once_what_runs_is_answered(up: Up):
    """A worker that outlives its fleet has an old catalog; one that ends early wastes a paid call."""
    up.wait_until_serving()
    children = up.children()
    asking = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "complete", "take your time", "--model", "slow"],
        env=up.environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    up.wait_until_printed("model=slow took_s=")

    ended = run(up.environment, "down")

    assert asking.communicate(timeout=SLOW_S)[0].strip() == "take your time"
    assert ended.returncode == 0, ended.stderr
    assert "Stopped `fleet up`" in ended.stdout
    assert up.process.wait(5) == 0
    assert_nothing_runs(up.settings, children)
    assert run(up.environment, "status").returncode == 1
    assert "Nothing runs" in run(up.environment, "down").stdout


def test_ctrl_c_ends_all_of_it(up: Up):
    """The terminal sends SIGINT to `fleet up`, which ends the others in order."""
    up.wait_until_serving()
    children = up.children()

    up.process.send_signal(signal.SIGINT)

    assert up.process.wait(DOWN_LIMIT_S) == 0, up.printed
    assert_nothing_runs(up.settings, children)


def test_down_ends_what_a_killed_up_left(up: Up):
    """After a kill -9 nobody knows the processes any more but the record in the home."""
    up.wait_until_serving()
    children = up.children()
    up.process.kill()
    up.process.wait()
    assert any(child.is_running() for child in children)

    ended = run(up.environment, "down")

    assert "Stopped worker-echo, left behind" in ended.stdout
    assert_nothing_runs(up.settings, children)
