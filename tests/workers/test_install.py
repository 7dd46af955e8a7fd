"""The launch agent of a Mac's MLX worker."""

import plistlib
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from config.settings import environment_for_service
from workers.errors import NotThereError
from workers.install import agent, install


def test_the_agent_starts_a_worker_that_waits_for_its_model(tmp_path: Path):
    """launchd starts it at login, perhaps before there is a network, a fleet or a model."""
    read = plistlib.loads(agent({"FLEET_REDIS_URL": "redis://hub"}, tmp_path))

    assert read["ProgramArguments"][-3:] == ["worker", "mlx", "--wait"]
    assert Path(read["ProgramArguments"][0]).is_absolute()
    assert read["EnvironmentVariables"] == {"FLEET_REDIS_URL": "redis://hub"}
    assert read["KeepAlive"]
    assert read["ExitTimeOut"] > 45
    assert Path(read["StandardErrorPath"]).parent == tmp_path


def test_the_agent_gets_the_fleets_variables_and_no_keys(monkeypatch: pytest.MonkeyPatch):
    """A key in a property list is read by every program of that user, and spent past all budgets."""
    monkeypatch.setenv("FLEET_HOME", "/somewhere")
    monkeypatch.setenv("HF_HOME", "/models")
    monkeypatch.setenv("MOONSHOT_API_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")

    given = environment_for_service()

    assert given["FLEET_HOME"] == "/somewhere"
    assert given["HF_HOME"] == "/models"
    assert "secret" not in given.values()


def test_a_dry_run_prints_the_agent_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("HOME", str(tmp_path))

    install(Console(width=40), is_dry_run=True)

    assert plistlib.loads(capsys.readouterr().out.encode())["Label"] == "aria-fleet.worker-mlx"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "darwin", reason="would install it")
def test_a_host_without_launchd_says_so():
    with pytest.raises(NotThereError, match="no launchd"):
        install(Console(), is_dry_run=False)


@pytest.mark.skipif(sys.platform != "darwin", reason="plutil is macOS's")
def test_macos_reads_the_agent(tmp_path: Path):
    file = tmp_path / "agent.plist"
    file.write_bytes(agent({}, tmp_path))

    subprocess.run(["plutil", "-lint", str(file)], check=True)
