"""The wheel and the source package, as somebody gets them who has no clone."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = ROOT / ".cache/uv/bin/uv"

LARGEST_PRODUCER_MB = 60
"""What a program that only enqueues has to install, Python itself apart."""

LIMIT_S = 90

NOT_SHIPPED = {".ci", ".dockerignore", ".pre-commit-config.yaml"}
"""What serves the repository, not the program."""

ENQUEUE = """
import sys
from celery import Celery
from config.errors import ConfigError
from workers import complete, stream
assert callable(complete.delay) and callable(stream)
try:
    complete.delay("Hello.", profile="no-such")
except ConfigError as error:
    print(error)
heavy = {"litellm", "llama_cpp", "mlx", "fastapi", "alembic", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""

pytestmark = pytest.mark.timeout(300)  # packages are copied and byte-compiled


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build both; the wheel is made out of the source package, as an index would."""
    folder = tmp_path_factory.mktemp("dist")
    run([UV, "build", "--quiet", "--build-constraints", "requirements.lock", "-o", folder], ROOT)
    return {"wheel": next(folder.glob("*.whl")), "source": next(folder.glob("*.tar.gz"))}


def run(command: list[object], cwd: Path, **also: str) -> str:
    """Run a command of somebody who has no clone."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=somebodys(also),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def somebodys(own: Mapping[str, str]) -> dict[str, str]:
    """Give the variables of this process without those that belong to a clone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLEET_", "PYTHON"))}
    return {**kept, **own}


def environment_with(folder: Path, what: str) -> Path:
    """Make an environment with a package; the folder of its commands."""
    run([UV, "venv", "--quiet", "--python", sys.executable, folder / "venv"], folder)
    python = folder / "venv/bin/python"
    run([UV, "pip", "install", "--quiet", "--python", python, "-c", ROOT / "requirements.lock", what], folder)
    return folder / "venv/bin"


def test_the_source_package_has_all_that_is_needed_to_test_and_build_it(packages: dict[str, Path]):
    """Whoever packages it for a distribution has nothing else."""
    listed = run(["git", "ls-files"], ROOT).splitlines() if (ROOT / ".git").exists() else []
    tracked = {name for name in listed if name.partition("/")[0] not in NOT_SHIPPED}
    with tarfile.open(packages["source"]) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}

    assert tracked <= shipped


def test_the_wheel_has_the_program_and_nothing_else(packages: dict[str, Path]):
    """Tests and benchmarks in it would lie beside the user's own in site-packages."""
    with zipfile.ZipFile(packages["wheel"]) as archive:
        names = set(archive.namelist())

    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "config",
        "dashboard",
        "ledger",
        "routing",
        "workers",
    }
    assert {"workers/Procfile", "config/models.yaml", "dashboard/static/fleet.css"} <= names


def test_a_producer_installs_little_and_can_enqueue(packages: dict[str, Path], tmp_path: Path):
    """It is part of somebody's agent: a web server or an engine in it would be in the way."""
    commands = environment_with(tmp_path, str(packages["wheel"]))

    said = run([commands / "python", "-c", ENQUEUE], tmp_path)
    version = run([commands / "fleet", "--version"], tmp_path)

    assert "no profile is named 'no-such'" in said
    assert "0.1.0" in version
    size_mb = sum(file.stat().st_size for file in (tmp_path / "venv/lib").rglob("*") if file.is_file()) / 1e6
    print(f"a producer's packages: {size_mb:.0f} MB")
    assert size_mb < LARGEST_PRODUCER_MB


def test_an_installed_fleet_answers(packages: dict[str, Path], short_folder: Callable[[], Path]):
    """What works in a clone may miss a file or a package elsewhere."""
    folder = short_folder()
    commands = environment_with(folder, f"{packages['wheel']}[host,cloud,dashboard]")
    shutil.copytree(ROOT / "tests/catalogs/echo", folder / "config")
    own = {
        "FLEET_HOME": str(folder / "home"),
        "FLEET_CONFIG": str(folder / "config"),
        "FLEET_FLOWER_PORT": str(free_port()),
        "FLEET_DASHBOARD_PORT": str(free_port()),
    }

    with fleet_up(commands, folder, own):
        asked = [commands / "fleet", "complete", "Is anybody there?", "--profile", "quick"]
        answer = run([*asked], folder, **own)
        status = run([commands / "fleet", "status"], folder, **own)

    assert "Is anybody there?" in answer
    assert "echo" in status


@contextmanager
def fleet_up(commands: Path, folder: Path, own: dict[str, str]) -> Generator[None]:
    log = folder / "up.log"
    with log.open("w") as said:
        up = subprocess.Popen(
            [str(commands / "fleet"), "up"], cwd=folder, env=somebodys(own), stdout=said, stderr=said
        )
    try:
        end = time.monotonic() + LIMIT_S
        while "worker" not in log.read_text() and time.monotonic() < end:
            assert up.poll() is None, log.read_text()
            time.sleep(0.2)
        yield
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(LIMIT_S)


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return found.getsockname()[1]
