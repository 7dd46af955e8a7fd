"""A fleet whose processes a test starts, stops and kills one by one."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from celery import Celery
from celery.result import AsyncResult

from config.settings import Settings, read_settings
from ledger.migrate import migrate
from workers import embedded
from workers.app import make_app

ROOT = Path(__file__).parents[2]

WAIT_S = 90


def run_python(
    environment: Mapping[str, str],
    *arguments: str,
    timeout_s: float | None = WAIT_S,
    given: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run Python in this clone, to its end.

    Args:
        given: what it reads from its standard input; None: what the tests have there.
    """
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=ROOT,
        input=given,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def run_fleet(
    environment: Mapping[str, str],
    *arguments: str,
    timeout_s: float | None = WAIT_S,
    given: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a `fleet` command to its end; the arguments are those of `run_python`."""
    return run_python(environment, "-m", "workers.cli", *arguments, timeout_s=timeout_s, given=given)


class Fleet:
    """Processes that the test starts, stops and kills one by one."""

    def __init__(self, home: Path) -> None:
        self.environment = {
            **os.environ,
            "FLEET_HOME": str(home),
            "FLEET_CONFIG": str(home / "config"),
            "PYTHONPATH": str(ROOT),
        }
        for name in ("FLEET_REDIS_URL", "FLEET_DATABASE_URL"):
            self.environment.pop(name, None)
        self.settings: Settings = read_settings(self.environment)
        self.started: list[subprocess.Popen[bytes]] = []
        self.log = home / "fleet.log"
        self.start_redis()
        self.start_postgres()
        migrate(self.settings.database_url)
        self.app: Celery = make_app(self.settings)

    def start_redis(self) -> int:
        return embedded.start_redis(self.settings.home, self.settings.sockets).pid

    def start_postgres(self) -> int:
        return embedded.start_postgres(self.settings.home, self.settings.sockets).pid

    def start(
        self, *arguments: str, module: str = "workers.cli", also: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Run a `fleet` command in the background.

        Args:
            module: which program, if not `fleet`.
            also: what its environment has besides that of the others.
        """
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env={**self.environment, **(also or {})},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        self.started.append(process)
        return process

    def worker(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a worker and wait until the brain can know of it."""
        process = self.start("worker", "echo", *arguments)
        self.wait_for(f"SELECT count(*) FROM workers WHERE pid = {process.pid}", 1)  # type: ignore[arg-type]
        return process

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_fleet(self.environment, *arguments)

    def send(self, prompt: str, **arguments: Any) -> AsyncResult:
        return self.app.send_task("complete", [prompt], arguments, queue="dispatch")

    def ask(self, query: LiteralString, *values: object) -> Any:
        with psycopg.connect(self.settings.database_url) as db:
            row = db.execute(query, values).fetchone()
        return row[0] if row else None

    def wait_for(self, query: LiteralString, value: object, timeout_s: float = WAIT_S) -> None:
        end = time.monotonic() + timeout_s
        while (found := self.ask(query)) != value:
            if time.monotonic() > end:
                pytest.fail(f"{query!r} gave {found!r}, expected {value!r}\n{self.log.read_text()}")
            time.sleep(0.05)

    def wait_for_log(self, text: str, times: int) -> None:
        end = time.monotonic() + WAIT_S
        while self.log.read_text().count(text) < times:
            if time.monotonic() > end:
                pytest.fail(f"{text!r} is not there {times} times:\n{self.log.read_text()}")
            time.sleep(0.05)

    def wait_for_state(self, result: AsyncResult, state: str) -> None:
        end = time.monotonic() + WAIT_S
        while (found := self.state(result)) != state:
            if time.monotonic() > end:
                pytest.fail(f"the task is {found}, expected {state}\n{self.log.read_text()}")
            time.sleep(0.02)

    def wait_for_end(self, process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end within {WAIT_S} s\n{self.log.read_text()}")

    def state(self, result: AsyncResult) -> str | None:
        return self.ask("SELECT state FROM tasks WHERE id = %s", UUID(result.id))

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.app.close()
        embedded.stop_redis(self.settings.home, self.settings.sockets)
        embedded.stop_postgres(self.settings.home, self.settings.sockets)
        shutil.rmtree(self.settings.sockets)
