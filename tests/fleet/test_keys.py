"""Which of the processes of `fleet up` have which key."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.fleet.test_up import DOWN_LIMIT_S, Up, a_home
from workers import embedded, pidfile

KEYS = {"MADE_UP_FREE_KEY": "sk-free-made-up", "MADE_UP_PAID_KEY": "sk-paid-made-up"}

MODELS = """
providers:
  giver: {api_key_env: MADE_UP_FREE_KEY, api_base: "http://127.0.0.1:9/v1"}
  seller: {api_key_env: MADE_UP_PAID_KEY, api_base: "http://127.0.0.1:9/v1"}
models:
  echo: {tier: local, engine: echo, context_tokens: 4096}
  given: {tier: free, engine: cloud, provider: giver, upstream: given, context_tokens: 4096}
  sold:
    tier: paid
    engine: cloud
    provider: seller
    upstream: sold
    context_tokens: 4096
    prices:
      - {input_usd_per_mtok: 1, output_usd_per_mtok: 2, since: 2026-01-01, source: x, checked_on: 2026-01-01}
"""

PROFILES = """
profiles:
  social: {model: given, temperature: 0, max_tokens: 10, prompt: Hello.}
routing: {primary: given}
"""


@pytest.fixture
def up(short_folder: Callable[[], Path]) -> Iterator[Up]:
    """Start a fleet that has both keys."""
    folder = short_folder()
    config = folder / "cloud"
    config.mkdir()
    (config / "models.yaml").write_text(MODELS)
    (config / "profiles.yaml").write_text(PROFILES)
    (config / "schedule.yaml").write_text("schedule: {}\n")
    with a_home(folder) as environment:
        running = Up({**environment, **KEYS, "FLEET_CONFIG": str(config)})
        yield running
    running.process.wait(DOWN_LIMIT_S)


def test_each_key_is_given_to_the_workers_that_need_it_and_to_nobody_else(up: Up):
    """Whatever runs beside the paid worker could spend its money past all budgets, or print it."""
    up.wait_until_printed(" serving ", times=3)

    processes = pidfile.recorded(up.settings.home)
    have = {name: keys_in(process) for name, process in processes.items()}
    servers = [keys_in(psutil.Process(each.pid)) for each in running_services(up)]

    assert have.pop("worker-free") == {"MADE_UP_FREE_KEY"}
    assert have.pop("worker-paid") == {"MADE_UP_PAID_KEY"}
    assert {"dispatcher", "worker-echo", "beat", "flower"} <= set(have)
    assert [name for name, keys in have.items() if keys] == []
    assert servers
    assert not any(servers)
    assert not any(key in up.printed for key in KEYS.values())


def keys_in(process: psutil.Process) -> set[str]:
    return set(KEYS) & set(psutil.Process(process.pid).environ())


def running_services(up: Up) -> list[psutil.Process]:
    """List the embedded servers: they are nobody's children by now."""
    assert embedded.running(up.settings.home, up.settings.sockets)
    home = str(up.settings.home)
    names = ("postgres", "valkey", "redis")
    return [
        process
        for process in psutil.process_iter(["pid", "cmdline"])
        if process.pid != os.getpid()
        and any(home in part for part in process.info["cmdline"] or ())
        and any(name in " ".join(process.info["cmdline"][:1]) for name in names)
    ]
