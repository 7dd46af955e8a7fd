"""`fleet selftest mlx`, as a person calls it, on MLX's CPU backend."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlx_lm", reason="the extra `mlx` is not installed")

from tests.fleet.processes import ROOT, run_fleet
from tests.mlx_models import tiny

MODELS = """
models:
  tiny-mlx: {{tier: local, engine: mlx, sources: [{{file: {folder}}}], context_tokens: 4096}}
  gone-mlx: {{tier: local, engine: mlx, sources: [{{file: /nowhere}}], context_tokens: 4096}}
"""

PROFILES = """
profiles: {heartbeat: {model: tiny-mlx, temperature: 0, max_tokens: 12, prompt: Hello.}}
routing: {primary: tiny-mlx}
"""


def selftest(home: Path, *arguments: str, on_cpu: str = "1") -> subprocess.CompletedProcess[str]:
    (home / "models.yaml").write_text(MODELS.format(folder=tiny.make(home / "tiny")))
    (home / "profiles.yaml").write_text(PROFILES)
    (home / "schedule.yaml").write_text("schedule: {}\n")
    ours = {"FLEET_CONFIG": str(home), "FLEET_MLX_ON_CPU": on_cpu, "PYTHONPATH": str(ROOT)}
    return run_fleet({**os.environ, **ours}, "selftest", "mlx", *arguments, timeout_s=None)


def test_a_report_says_what_held(tmp_path: Path):
    """It is what a person with a Mac sends in; it has to be whole, and true."""
    done = selftest(tmp_path, "--quick", "--json")

    report = json.loads(done.stdout)
    held = {check["name"]: check["has_held"] for check in report["checks"]}
    assert done.returncode == 0, (held, done.stderr)
    assert report["has_held"]
    assert report["host"]["model"] == "tiny-mlx"
    assert held["answers fit a JSON schema"] is True
    assert held["a process that ran it ends well"] is True
    assert held["tokens a second, 8 at once"] is None
    assert len(held) >= 13


@pytest.mark.parametrize(
    ("arguments", "on_cpu", "says"),
    [
        (("--model", "gone-mlx"), "1", "not on this host"),
        pytest.param(
            (), "0", "needs a Mac", marks=pytest.mark.skipif(sys.platform == "darwin", reason="a Mac")
        ),
    ],
)
def test_a_host_that_cannot_run_it_is_told_why(
    tmp_path: Path, arguments: tuple[str, ...], on_cpu: str, says: str
):
    done = selftest(tmp_path, *arguments, on_cpu=on_cpu)

    assert done.returncode == 1
    assert says in done.stderr
