"""Processes that are stopped or killed while others go on, each on a fleet of the test's own."""

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult
from redis import Redis

from config.settings import settings
from tests.fleet.processes import ROOT, WAIT_S, Fleet
from workers import embedded
from workers.catalog import catalog

pytestmark = pytest.mark.timeout(300)

LONG_S = 120


def text_of(result: AsyncResult, timeout_s: float = WAIT_S) -> str:
    answer: Any = result.get(timeout=timeout_s)
    return answer["choices"][0]["message"]["content"]


@contextmanager
def a_fleet(home: Path, slow_s: float) -> Generator[Fleet]:
    """Run the servers of a fleet whose model `slow` takes `slow_s` seconds, and be a caller of it."""
    copy = Path(shutil.copytree(ROOT / "tests/catalogs/echo", home / "config"))
    models = copy / "models.yaml"
    models.write_text(models.read_text().replace('upstream: "0.3"', f'upstream: "{slow_s}"'))
    fleet = Fleet(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEET_HOME", str(home))
        patch.setenv("FLEET_CONFIG", str(copy))
        settings.cache_clear()
        catalog.cache_clear()
        try:
            yield fleet
        finally:
            fleet.end()
    settings.cache_clear()
    catalog.cache_clear()


@pytest.fixture
def patient_fleet(short_folder: Callable[[], Path]) -> Iterator[Fleet]:
    """Make a fleet with a model that answers in its own time: two seconds."""
    with a_fleet(short_folder(), 2) as fleet:
        yield fleet


@pytest.fixture
def endless_fleet(short_folder: Callable[[], Path]) -> Iterator[Fleet]:
    """Make a fleet with a model that takes far longer than any test."""
    with a_fleet(short_folder(), 600) as fleet:
        yield fleet


@pytest.fixture
def quick_fleet(short_folder: Callable[[], Path]) -> Iterator[Fleet]:
    """Make a fleet with a model that takes a moment."""
    with a_fleet(short_folder(), 0.05) as fleet:
        yield fleet


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_a_worker_that_is_stopped_finishes_what_it_runs_and_hands_back_the_rest(patient_fleet: Fleet):
    """A deployment restarts workers several times a day; nobody should notice."""
    fleet = patient_fleet
    fleet.start("dispatcher")
    worker = fleet.worker("--slots", "1")
    results = [fleet.send(f"number {n}", profile="slow") for n in range(3)]
    fleet.wait_for("SELECT count(*) FROM tasks WHERE state = 'running'", 1)

    worker.terminate()
    status = fleet.wait_for_end(worker)
    after = sorted(fleet.state(result) or "" for result in results)
    fleet.worker("--slots", "3")
    answers = [text_of(result) for result in results]

    assert status == 0, fleet.log.read_text()
    assert after == ["held", "held", "succeeded"]
    assert answers == ["number 0", "number 1", "number 2"]
    assert fleet.ask("SELECT count(*) FROM attempts WHERE outcome = 'succeeded'") == 3


def test_a_worker_that_is_told_twice_breaks_off(endless_fleet: Fleet):
    """What it runs may take an hour; whoever presses Ctrl-C again does not want to wait for it."""
    fleet = endless_fleet
    fleet.start("dispatcher")
    worker = fleet.worker()
    results = [fleet.send(f"number {n}", profile="slow") for n in range(3)]
    fleet.wait_for("SELECT count(*) FROM tasks WHERE state = 'running'", 3)

    worker.send_signal(signal.SIGTERM)
    time.sleep(1)
    is_waiting = worker.poll() is None
    worker.send_signal(signal.SIGINT)
    status = fleet.wait_for_end(worker)

    assert is_waiting
    assert status == 0, fleet.log.read_text()
    assert [fleet.state(result) for result in results] == ["held"] * 3
    assert fleet.ask("SELECT count(*) FROM attempts WHERE outcome = 'cancelled'") == 3


def test_a_running_task_is_cancelled(endless_fleet: Fleet):
    """A task that was sent by mistake holds a slot for as long as its model likes to talk."""
    fleet = endless_fleet
    fleet.start("dispatcher")
    fleet.worker("--slots", "1")
    by_command, by_revoke = fleet.send("first", profile="slow"), fleet.send("second", profile="slow")
    fleet.wait_for_state(by_command, "running")

    cancelled = fleet.run("cancel", str(by_command.id))
    fleet.wait_for_state(by_revoke, "running")
    by_revoke.revoke(terminate=True)

    assert cancelled.returncode == 0, cancelled.stderr
    assert "breaks it off" in cancelled.stdout
    for result in (by_command, by_revoke):
        with pytest.raises(TaskRevokedError):
            result.get(timeout=WAIT_S)
        assert fleet.state(result) == "cancelled"
    fleet.send("third", profile="social").get(timeout=WAIT_S)


def test_a_standby_takes_over_within_seconds(quick_fleet: Fleet):
    """The dispatcher is the one process that all tasks pass."""
    fleet = quick_fleet
    dispatchers = {process.pid: process for process in (fleet.start("dispatcher"), fleet.start("dispatcher"))}
    fleet.worker()
    fleet.send("before", profile="social").get(timeout=WAIT_S)
    holder = fleet.ask("SELECT holder FROM leadership")
    leader = dispatchers[int(holder.rpartition(":")[2])]

    leader.kill()
    began = time.monotonic()
    text = text_of(fleet.send("after", profile="social"))

    assert text == "after"
    assert time.monotonic() - began < 20, "its lease lasts five seconds"
    assert fleet.ask("SELECT holder FROM leadership") != holder


def test_processes_say_that_they_live_and_that_they_stand_still(quick_fleet: Fleet):
    """A container whose process hangs must be seen by its health check."""
    fleet = quick_fleet
    dispatcher, worker = fleet.start("dispatcher"), fleet.worker()
    fleet.wait_for_log("leading", 1)

    assert f":{dispatcher.pid}" in fleet.run("ping", "dispatcher").stdout
    assert f"echo-{worker.pid}@" in fleet.run("ping", "echo").stdout
    nobody = fleet.run("ping", "cpu")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert "no cpu on" in nobody.stderr

    worker.send_signal(signal.SIGSTOP)
    try:
        assert fleet.run("ping", "echo").returncode == 1
    finally:
        worker.send_signal(signal.SIGCONT)


def test_workers_look_for_a_lost_redis_every_few_seconds(quick_fleet: Fleet):
    """Celery's own pauses grow: the longer Redis was away, the longer nobody would notice that it is back."""
    fleet = quick_fleet
    fleet.start("dispatcher")
    fleet.worker()
    embedded.stop_redis(fleet.settings.home, fleet.settings.sockets)
    fleet.wait_for_log("redis_lost", times=6)

    fleet.start_redis()

    fleet.send("is anybody there", profile="social").get(timeout=WAIT_S)
    pauses = [
        float(pause) for pause in re.findall(r"redis_lost.*again_in_s=([0-9.]+)", fleet.log.read_text())
    ]
    assert max(pauses) <= 3


def test_redis_that_is_killed_under_load_stops_nobody_and_loses_nothing(
    quick_fleet: Fleet, pool: ThreadPoolExecutor
):
    """Whoever has to restart workers by hand after each crash of Redis needs no fleet."""
    fleet = quick_fleet
    pid = fleet.start_redis()
    processes = [fleet.start("dispatcher"), fleet.worker(), fleet.worker()]
    sent = 0
    waiting: list[Future[str]] = []
    for _ in range(2):
        results = [fleet.send(f"number {sent + n}", profile="slow") for n in range(150)]
        sent += len(results)
        waiting.append(pool.submit(text_of, results[-1], LONG_S))
        fleet.wait_for("SELECT count(*) > 20 FROM tasks WHERE state = 'succeeded'", value=True)
        os.kill(pid, signal.SIGKILL)
        time.sleep(2)
        pid = fleet.start_redis()

    fleet.wait_for("SELECT count(*) FROM tasks WHERE state = 'succeeded'", sent, timeout_s=LONG_S)

    assert [process.poll() for process in processes] == [None] * 3, fleet.log.read_text()
    assert fleet.ask("SELECT count(*) FROM attempts WHERE outcome = 'succeeded'") == sent
    assert [each.result(LONG_S) for each in waiting] == ["number 149", "number 299"]
    assert Redis.from_url(fleet.settings.redis_url).llen("dispatch") == 0
    assert fleet.send("afterwards", profile="social").get(timeout=WAIT_S)


def test_what_comes_after_a_task_is_sent_once_redis_is_back(patient_fleet: Fleet):
    """A chain must not end in the middle because Redis was away in the moment its first task ended."""
    fleet = patient_fleet
    pid = fleet.start_redis()
    fleet.start("dispatcher")
    fleet.worker()
    slow = fleet.app.signature("complete", ["first"], {"profile": "slow"}, queue="dispatch")
    second = fleet.app.signature("complete", kwargs={"profile": "social"}, queue="dispatch")
    chained: Any = chain(slow, second).apply_async()
    joined: Any = chord([slow, slow], second).apply_async()
    fleet.wait_for("SELECT count(*) FROM tasks WHERE state = 'running'", 3)
    os.kill(pid, signal.SIGKILL)
    fleet.wait_for("SELECT count(*) FROM tasks WHERE state = 'succeeded'", 3)
    time.sleep(15)  # longer than those who call, and Celery by itself, try again

    fleet.start_redis()

    fleet.wait_for("SELECT count(*) FROM tasks WHERE state = 'succeeded'", 5)
    assert text_of(chained) == "first"
    assert text_of(joined) == "first\n\nfirst"


def test_a_worker_ends_in_time_while_redis_is_away(patient_fleet: Fleet):
    """What it could not send is sent by nobody then; but the answer is in the ledger."""
    fleet = patient_fleet
    pid = fleet.start_redis()
    fleet.start("dispatcher")
    worker = fleet.worker()
    sent = fleet.send("first", profile="slow")
    fleet.wait_for_state(sent, "running")
    os.kill(pid, signal.SIGKILL)
    fleet.wait_for_state(sent, "succeeded")

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(30) is not None


def test_postgres_that_is_killed_under_load_stops_nobody_and_loses_nothing(quick_fleet: Fleet):
    """Answers that were there when it died are written when it is back, and no model is asked twice."""
    fleet = quick_fleet
    processes = [fleet.start("dispatcher"), fleet.worker(), fleet.worker()]
    sent = 0
    for _ in range(2):
        for _ in range(100):
            fleet.send(f"number {sent}", profile="slow")
            sent += 1
        fleet.wait_for("SELECT count(*) > 10 FROM tasks WHERE state = 'running'", value=True)
        os.kill(fleet.start_postgres(), signal.SIGKILL)
        time.sleep(2)
        fleet.start_postgres()

    fleet.wait_for("SELECT count(*) FROM tasks WHERE state = 'succeeded'", sent, timeout_s=LONG_S)

    assert [process.poll() for process in processes] == [None] * 3, fleet.log.read_text()
    assert fleet.ask("SELECT count(*) FROM attempts") == sent
