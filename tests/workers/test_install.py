"""What keeps a part of the fleet running: a unit of systemd, a launch agent of launchd."""

import configparser
import os
import plistlib
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from config.catalog import Catalog, load_catalog
from config.settings import read_settings
from workers.cli import main
from workers.cli.running import INSTALLABLE
from workers.errors import NotThereError
from workers.install import launchd, role, systemd
from workers.install.role import install, process_of, service_of
from workers.install.service import Service
from workers.presence import FINISH_S
from workers.procfile import listed

ROOT = Path(__file__).parents[2]
SHIPPED = load_catalog(ROOT / "config")

KEYS = {"OPENROUTER_API_KEY": "sk-planted-free", "MOONSHOT_API_KEY": "sk-planted-paid"}
PASSWORD = "pw-planted"
URL = f"redis://:{PASSWORD}@hub:6379/0"

ODD = 'a "b" $c \\d `e` %f'
"""What shells and systemd would read otherwise."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the user a home of its own, and an environment with everything that could be handed on."""
    for name in list(os.environ):
        if name.startswith("FLEET_"):
            monkeypatch.delenv(name)
    given = {
        **KEYS,
        "HF_TOKEN": "hf-planted",
        "FLEET_REDIS_URL": URL,
        "HF_HOME": "/models",
        "HOME": str(tmp_path),
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def a_service(**environment: str) -> Service:
    return Service("worker-cpu", "fleet worker cpu", environment, stop_s=60)


def installed(wanted: str, catalog: Catalog = SHIPPED, *, is_dry_run: bool = False) -> str:
    said = StringIO()
    install(wanted, read_settings(os.environ), catalog, Console(file=said, width=40), is_dry_run=is_dry_run)
    return said.getvalue()


def unit_of(written: bytes) -> configparser.ConfigParser:
    read = configparser.ConfigParser(interpolation=None, comment_prefixes="#")
    read.optionxform = str  # type: ignore[assignment]
    read.read_string(written.decode())
    return read


def test_every_process_of_the_procfile_can_be_installed():
    """One that cannot is a terminal that somebody has to keep open."""
    assert {process_of(each) for each in INSTALLABLE} == {*listed(), "up"}


def test_a_role_that_there_is_not_is_answered_with_those_that_there_are():
    ran = CliRunner().invoke(main, ["install", "worker-cpu"])

    assert ran.exit_code == click.UsageError.exit_code
    assert all(repr(each) in ran.output for each in INSTALLABLE)


@pytest.mark.parametrize("wanted", INSTALLABLE)
def test_a_role_gets_the_keys_that_it_sends_and_no_others(wanted: str):
    """A key in the file of a role that does not need it can be spent past all budgets."""
    given = service_of(wanted, SHIPPED).environment

    expected = {
        "free": {"sk-planted-free"},
        "paid": {"sk-planted-paid"},
        "up": {"sk-planted-free", "sk-planted-paid"},
    }
    assert {value for value in given.values() if "planted" in value} == {*expected.get(wanted, ()), URL}
    assert given["HF_HOME"] == "/models"


@pytest.mark.parametrize(
    ("variable", "reader"),
    [("FLEET_FLOWER_PASSWORD", "flower"), ("FLEET_DASHBOARD_DATABASE_URL", "dashboard")],
)
def test_the_password_of_a_page_is_for_that_page(variable: str, reader: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, "postgresql://x")

    holders = {each for each in INSTALLABLE if variable in service_of(each, SHIPPED).environment}

    assert holders == {reader, "up"}


@pytest.mark.parametrize("wanted", INSTALLABLE)
def test_a_service_may_take_as_long_to_stop_as_its_process_does(wanted: str):
    """Killed before, a worker loses answers that were paid for."""
    assert service_of(wanted, SHIPPED).stop_s > FINISH_S


def test_the_unit_starts_again_whatever_ended(home: Path):
    unit, variables = systemd.files(a_service(FLEET_HOME="/fleet"), {"FLEET_HOME": "/fleet"}).items()
    read = unit_of(unit[1])

    assert unit[0] == home / ".config/systemd/user/aria-fleet-worker-cpu.service"
    assert variables == (home / ".config/aria-fleet/worker-cpu.env", b'FLEET_HOME="/fleet"\n')
    assert read["Service"]["EnvironmentFile"] == str(variables[0])
    assert (read["Service"]["Restart"], read["Unit"]["StartLimitIntervalSec"]) == ("always", "0")
    assert read["Service"]["TimeoutStopSec"] == "60"
    assert read["Install"]["WantedBy"] == "default.target"
    program = shlex.split(read["Service"]["ExecStart"])
    assert Path(program[0]).is_absolute()
    assert program[-2:] == ["worker", "cpu"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not on this machine")
@pytest.mark.parametrize("wanted", INSTALLABLE)
def test_systemd_reads_the_unit(wanted: str, home: Path):
    """An unknown or misspelt directive is only a warning when the unit is started."""
    [(name, unit), _] = systemd.files(service_of(wanted, SHIPPED), {}).items()
    file = home / name.name
    file.write_bytes(unit)

    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", str(file)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, [line for line in done.stderr.splitlines() if file.name in line]) == (0, [])


def test_a_variable_means_the_same_in_systemd_and_in_a_shell():
    """A password may have any character; systemd reads such a file as a shell does."""
    [_, (_, written)] = systemd.files(a_service(), {"FLEET_ODD": ODD}).items()

    read = subprocess.run(
        ["sh", "-c", f'{written.decode()}printf %s "$FLEET_ODD"'], capture_output=True, text=True, check=True
    )

    assert read.stdout == ODD


def test_a_dry_run_prints_the_files_without_secrets_and_writes_nothing(home: Path):
    """It is what somebody pastes into a chat to ask whether it is right."""
    said = installed("paid", is_dry_run=True)

    assert "planted" not in said
    assert "FLEET_REDIS_URL" in said
    assert "hub:6379" in said
    assert "MOONSHOT_API_KEY" in said
    assert not list(home.iterdir())


def test_a_key_that_is_missing_is_told_before_the_service_is_started_in_vain(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MOONSHOT_API_KEY")

    with pytest.raises(NotThereError, match="MOONSHOT_API_KEY is not set"):
        installed("paid")


@pytest.fixture
def systemctl(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a systemctl first on the PATH that writes down what it is asked, and then does as the test says."""

    def put(answer: str) -> Path:
        folder, asked = home / "bin", home / "asked"
        folder.mkdir()
        (folder / "systemctl").write_text(f'#!/bin/sh\necho "$*" >> {asked}\n{answer}\n')
        (folder / "systemctl").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return asked

    return put


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has launchd")
def test_a_host_where_no_systemd_runs_is_told_what_to_do(home: Path, systemctl: Callable[[str], Path]):
    """In a container there is often the program, and nothing behind it."""
    systemctl("echo 'Failed to connect to bus: No medium found' >&2; exit 1")

    with pytest.raises(NotThereError, match=r"no systemd runs here .*No medium found.*container"):
        installed("dispatcher")
    assert not (home / ".config").exists()


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has launchd")
def test_a_host_without_systemd_is_told_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(home))

    with pytest.raises(NotThereError, match="has no systemd"):
        installed("dispatcher")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has launchd")
def test_installing_writes_enables_and_restarts(home: Path, systemctl: Callable[[str], Path]):
    """A second call is how a changed variable gets to a service that runs."""
    asked = systemctl("exit 0")
    older = home / ".config/aria-fleet/dispatcher.env"
    older.parent.mkdir(parents=True)
    older.write_text("OLD=1\n")
    older.chmod(0o644)

    said = installed("dispatcher")

    unit = "aria-fleet-dispatcher.service"
    assert asked.read_text().splitlines() == [
        "--user show-environment",
        "--user daemon-reload",
        f"--user enable {unit}",
        f"--user restart {unit}",
    ]
    assert PASSWORD in older.read_text()
    assert PASSWORD not in (home / ".config/systemd/user" / unit).read_text()
    written = [older, home / ".config/systemd/user" / unit]
    assert [stat.S_IMODE(file.stat().st_mode) for file in written] == [0o600, 0o600]
    assert PASSWORD not in said
    assert "enable-linger" in said
    assert "FLEET_DATABASE_URL" in said  # the other server would be an embedded one


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has launchd")
def test_what_systemd_refuses_is_told(systemctl: Callable[[str], Path]):
    systemctl('case "$*" in *restart*) echo "Job failed." >&2; exit 1;; esac')

    with pytest.raises(NotThereError, match=r"restart.*Job failed\..*journalctl"):
        installed("dispatcher")


def test_the_agent_starts_a_worker_that_waits_for_its_model(home: Path):
    """launchd starts it at login, perhaps before there is a network, a fleet or a model."""
    service = service_of("mlx", SHIPPED)
    [(path, written)] = launchd.files(service, service.environment).items()
    read = plistlib.loads(written)

    assert path == home / "Library/LaunchAgents/aria-fleet.worker-mlx.plist"
    assert read["ProgramArguments"][-3:] == ["worker", "mlx", "--wait"]
    assert Path(read["ProgramArguments"][0]).is_absolute()
    assert read["EnvironmentVariables"]["FLEET_REDIS_URL"] == URL
    assert read["KeepAlive"]
    assert read["ExitTimeOut"] > FINISH_S
    assert Path(read["StandardErrorPath"]).parent == home / "Library/Logs"


@pytest.mark.skipif(sys.platform != "darwin", reason="plutil is macOS's")
def test_macos_reads_the_agent(tmp_path: Path):
    [(_, written)] = launchd.files(a_service(), {}).items()
    file = tmp_path / "agent.plist"
    file.write_bytes(written)

    subprocess.run(["plutil", "-lint", str(file)], check=True)


def test_a_worker_that_has_no_model_yet_is_told_what_it_waits_for(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    """A worker that only waits looks like one that works."""
    for name in ("HF_HOME", "FLEET_MODELS", "OLLAMA_MODELS"):
        monkeypatch.setenv(name, str(home / "nothing"))
    said = StringIO()

    role.check("mlx", SHIPPED, Console(file=said, width=400))

    assert "qwen3-mlx: " in said.getvalue()
