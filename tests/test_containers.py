"""docker-compose.yml and the Dockerfile: what can be said of them without an engine that runs them."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.catalog import load_catalog
from workers.lanes import LANES
from workers.procfile import processes

ROOT = Path(__file__).parents[1]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
OURS = {name: service for name, service in SERVICES.items() if service.get("build")}
OPTIONAL = {"FLEET_LOG_LEVEL", "REDIS_PORT", "POSTGRES_PORT", "FLOWER_PORT", "DASHBOARD_PORT"}
EXAMPLE = (ROOT / ".env.example").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def named_by_the_example() -> set[str]:
    return set(re.findall(r"^([A-Z_]+)=", EXAMPLE, re.MULTILINE))


@pytest.mark.parametrize("service", OURS)
def test_every_service_of_ours_runs_a_line_of_the_procfile(service: str):
    known = {" ".join(["fleet", *command[1:]]) for command in processes(LANES).values()}
    assert OURS[service]["command"] in known | {"fleet db migrate"}


@pytest.mark.parametrize("service", OURS)
def test_every_variable_is_a_documented_setting(service: str):
    documented = (ROOT / "docs/reference/settings.md").read_text()
    keys = {key for key in OURS[service]["environment"] if key not in documented}
    assert keys <= {"HF_HOME"}  # Hugging Face's own


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_published_beyond_this_machine(service: str):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[service].get("ports", []))


@pytest.mark.parametrize("service", SERVICES)
def test_no_container_can_gain_privileges(service: str):
    settings = SERVICES[service]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    if service != "postgres":  # its image prepares its volume as root
        assert settings["read_only"] is True
        assert settings["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("service", [name for name in OURS if name != "migrate"])
def test_every_process_that_stays_is_asked_for_its_health(service: str):
    role = service.removeprefix("worker-")
    assert OURS[service]["healthcheck"]["test"] == ["CMD", "fleet", "ping", role]


def test_every_secret_is_required_and_has_no_default():
    used = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE))
    required = set(re.findall(r"\$\{([A-Z_]+):?\?", COMPOSE))
    assert used - OPTIONAL == required == named_by_the_example()
    assert all(line.endswith("=") for line in EXAMPLE.splitlines() if line and not line.startswith("#"))


def test_only_the_paid_worker_has_the_key_that_costs_money():
    catalog = load_catalog(ROOT / "config")
    paid = {
        catalog.providers[model.provider].api_key_env
        for model in catalog.models.values()
        if model.tier == "paid" and model.provider
    }
    holders = {name for name, service in OURS.items() if paid & service["environment"].keys()}
    assert (bool(paid), holders) == (True, {"worker-paid"})


def test_redis_is_as_durable_as_the_embedded_one():
    written = " ".join(SERVICES["redis"]["command"])
    assert all(
        line in written for line in ("appendonly yes", "maxmemory-policy noeviction", "requirepass %s")
    )
    assert "--requirepass" not in written  # a command line is for everybody to read


def test_bases_are_pinned_and_the_image_does_not_run_as_root():
    bases = [*re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)]
    bases += [service["image"] for service in SERVICES.values() if not service.get("build")]
    assert all(re.search(r":\d", base) for base in bases)
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)[-1] == "fleet"


def test_what_the_image_is_made_of_exists():
    wanted = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert [name for name in wanted if not (ROOT / name).exists()] == []


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="docker-compose is not installed")
def test_compose_reads_the_file(tmp_path: Path):
    filled = tmp_path / "env"
    filled.write_text(re.sub(r"=$", "=x", EXAMPLE, flags=re.MULTILINE))
    command = ["docker-compose", "--project-directory", str(ROOT), "--file", str(ROOT / "docker-compose.yml")]
    done = subprocess.run(
        [*command, "--env-file", str(filled), "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="docker-compose is not installed")
@pytest.mark.parametrize("missing", sorted(named_by_the_example()))
def test_compose_stops_at_a_missing_secret(missing: str, tmp_path: Path):
    kept = [line for line in EXAMPLE.splitlines() if not line.startswith(f"{missing}=")]
    filled = tmp_path / "env"
    filled.write_text(re.sub(r"=$", "=x", "\n".join(kept), flags=re.MULTILINE))
    command = ["docker-compose", "--project-directory", str(ROOT), "--file", str(ROOT / "docker-compose.yml")]
    done = subprocess.run(
        [*command, "--env-file", str(filled), "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert missing in done.stderr
