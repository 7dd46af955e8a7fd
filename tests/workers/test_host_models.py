"""What a worker tells of its host, beside its signs of life."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.catalog import load_catalog
from ledger import workers
from ledger.connect import Connection
from workers.host_models import HostModels
from workers.lane import Lane

MODELS = """
models:
  here: {{tier: local, engine: llama, sources: [{{file: {folder}/here.gguf}}], context_tokens: 64}}
  gone: {{tier: local, engine: llama, sources: [{{file: {folder}/gone.gguf}}], context_tokens: 64}}
  echo: {{tier: local, engine: echo, context_tokens: 64}}
"""

PROFILES = """
profiles: {heartbeat: {model: here, temperature: 0, max_tokens: 12, prompt: Hello.}}
routing: {primary: here}
"""


@pytest.fixture
def lane(db_url: str, redis_url: str, tmp_path: Path) -> Iterator[Lane]:
    (tmp_path / "models.yaml").write_text(MODELS.format(folder=tmp_path))
    (tmp_path / "profiles.yaml").write_text(PROFILES)
    (tmp_path / "schedule.yaml").write_text("schedule: {}\n")
    for name in ("here", "gone"):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    slots = {"cpu.here": 2, "cpu.gone": 2, "echo.echo": 1}
    opened = Lane(db_url, redis_url, load_catalog(tmp_path), "worker@test", slots)
    yield opened
    opened.close()


def wait_for_slots(db: Connection, slots: dict[str, int]) -> workers.Presence:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        for worker in workers.present(db, 60):
            if worker.slots == slots and worker.models:
                return worker
        time.sleep(0.1)
    pytest.fail(f"no worker has the slots {slots}: {workers.present(db, 60)}")


def test_a_model_whose_file_goes_gets_no_more_tasks(lane: Lane, db: Connection, tmp_path: Path):
    """Each would fail there, and the worker looks alive."""
    host = HostModels(lane)
    before = wait_for_slots(db, {"cpu.here": 2, "cpu.gone": 2, "echo.echo": 1})

    (tmp_path / "gone.gguf").unlink()
    host.look()

    after = wait_for_slots(db, {"cpu.here": 2, "echo.echo": 1})
    assert before.models == {"here": "ready", "gone": "ready"}
    assert after.models["here"] == "ready"
    assert "not on this host" in after.models["gone"]
