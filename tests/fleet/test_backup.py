"""A backup of a fleet at work; then both of its servers are lost, and it goes on from the backup."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.result import AsyncResult
from redis import Redis

from tests.fleet.processes import ROOT, WAIT_S, Fleet
from workers import embedded
from workers.backup import program

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def fleet(short_folder: Callable[[], Path]) -> Iterator[Fleet]:
    home = short_folder()
    shutil.copytree(ROOT / "tests/catalogs/echo", home / "config")
    fleet = Fleet(home)
    yield fleet
    fleet.end()


def text_of(result: AsyncResult) -> str:
    answer: Any = result.get(timeout=WAIT_S)
    return answer["choices"][0]["message"]["content"]


def lose_everything(fleet: Fleet) -> None:
    """End the servers and remove their data, as a disk that breaks does."""
    home, sockets = fleet.settings.home, fleet.settings.sockets
    embedded.stop_redis(home, sockets)
    embedded.stop_postgres(home, sockets)
    shutil.rmtree(home / "redis")
    shutil.rmtree(home / "postgres")


def test_a_fleet_goes_on_from_a_backup_without_its_redis(fleet: Fleet, tmp_path: Path):
    """What waits runs, what ran can be read, the books agree; nothing of it needs the old Redis."""
    dump = tmp_path / "fleet.dump"
    dispatcher, worker = fleet.start("dispatcher"), fleet.worker()
    done = [fleet.send(f"done {n}", profile="social") for n in range(5)]
    for result in done:
        result.get(timeout=WAIT_S)
    worker.terminate()
    fleet.wait_for_end(worker)
    held = [fleet.send(f"held {n}", profile="social") for n in range(5)]
    fleet.wait_for("SELECT count(*) FROM tasks WHERE state = 'held'", 5)
    spent = fleet.ask("SELECT sum(attempts) FROM spend")
    fleet.run("db", "roles")  # which the server that is restored to does not know

    made = fleet.run("db", "backup", "-o", str(dump))
    after = fleet.send("accepted after the backup", profile="social")
    fleet.wait_for("SELECT count(*) FROM tasks WHERE state = 'held'", 6)
    dispatcher.terminate()
    fleet.wait_for_end(dispatcher)
    lose_everything(fleet)
    restored = fleet.run("db", "restore", str(dump))
    is_left_running = bool(embedded.running(fleet.settings.home, fleet.settings.sockets))
    fleet.start_redis()
    fleet.start_postgres()
    keys = redis_keys(fleet)
    answers_before = [text_of(result) for result in done]
    fleet.start("dispatcher")
    fleet.worker()
    answers_after = [text_of(result) for result in held]

    assert made.returncode == 0, made.stderr
    assert dump.stat().st_mode & 0o777 == 0o600
    assert (restored.returncode, is_left_running) == (0, False), restored.stderr
    assert fleet.ask("SELECT count(*) FROM pg_policies") == 0
    assert fleet.run("db", "roles").returncode == 0
    assert fleet.ask("SELECT count(*) FROM pg_policies") == 2
    assert keys == 0
    assert answers_before == [f"done {n}" for n in range(5)]
    assert answers_after == [f"held {n}" for n in range(5)]
    assert fleet.state(after) is None
    assert spent == 5
    assert fleet.ask("SELECT sum(attempts) FROM spend") == 10
    assert fleet.ask("SELECT count(*) FROM attempts WHERE outcome = 'succeeded'") == 10
    again = fleet.run("db", "restore", str(dump))
    assert again.returncode == 1
    assert "has a ledger already" in again.stderr


def test_a_database_without_a_ledger_is_not_backed_up(fleet: Fleet, tmp_path: Path):
    """A file of nothing would be found out on the day that it is needed."""
    lose_everything(fleet)
    dump = tmp_path / "fleet.dump"

    ran = fleet.run("db", "backup", "-o", str(dump))

    assert ran.returncode == 1
    assert "has no ledger" in ran.stderr
    assert not dump.exists()


@pytest.mark.parametrize(("on_path", "is_taken"), [("9.6.24", False), ("99.1", True)])
def test_the_newest_program_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_path: str, *, is_taken: bool
):
    """One that is older than its server refuses, and distributions have old ones."""
    theirs = tmp_path / "pg_dump"
    theirs.write_text(f'#!/bin/sh\necho "pg_dump (PostgreSQL) {on_path} (Debian {on_path}-0)"\n')
    theirs.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert (program("pg_dump") == theirs) is is_taken


def redis_keys(fleet: Fleet) -> int:
    with Redis.from_url(fleet.settings.redis_url) as redis:
        return len(list(redis.scan_iter()))
