"""Planted keys, passwords and prompts, looked for in all that a fleet leaves behind or shows."""

import socket
import traceback
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import psutil
import psycopg
import pytest
from celery.result import AsyncResult
from psycopg import sql
from redis import Redis

from config.catalog import load_catalog
from config.settings import Settings, read_settings
from tests.dashboard.site import Site
from tests.fleet.processes import WAIT_S, Fleet
from tests.fleet.test_flower import Flower
from tests.provider import Provider
from workers.app import make_app
from workers.housekeeper import Housekeeper

if TYPE_CHECKING:
    from tests.provider.server import Call

pytestmark = pytest.mark.timeout(300)

FREE_KEY, PAID_KEY = "sk-planted-free-key-0001", "sk-planted-paid-key-0002"
REDIS_PASSWORD, DATABASE_PASSWORD = "planted-redis-password-0003", "planted-database-password-0004"
FLOWER_PASSWORD = "planted-flower-password-0005"
WRONG_PASSWORD = "planted-wrong-password-0006"

SECRETS = (FREE_KEY, PAID_KEY, REDIS_PASSWORD, DATABASE_PASSWORD, FLOWER_PASSWORD, WRONG_PASSWORD)

PROMPT = "planted-prompt-0007"
"""Of a profile whose text is not kept."""

MODELS = """
providers:
  giver: {{api_key_env: PLANTED_FREE_KEY, api_base: "{free}", quota: openrouter}}
  seller: {{api_key_env: PLANTED_PAID_KEY, api_base: "{paid}", quota: moonshot}}
models:
  small: {{tier: free, engine: cloud, provider: giver, upstream: small, context_tokens: 4096}}
  dear:
    tier: paid
    engine: cloud
    provider: seller
    upstream: dear
    context_tokens: 4096
    prices:
      - input_usd_per_mtok: 1
        output_usd_per_mtok: 2
        since: 2026-01-01
        source: made up for tests
        checked_on: 2026-01-01
"""

PROFILES = """
profiles:
  open: {model: small, temperature: 0, max_tokens: 50, prompt: Hello.}
  private: {model: small, keep_text: 0, temperature: 0, max_tokens: 50, prompt: Hello.}
  dear: {model: dear, keep_text: 0, temperature: 0, max_tokens: 50, prompt: Hello.}
routing: {primary: small}
"""

LEAST_SHOWN = 500
"""Characters: what is searched must be there."""

CONTAINS = sql.SQL("SELECT count(*) FROM {} AS row WHERE row::text LIKE %s")

TABLES: LiteralString = """
    SELECT relname FROM pg_class
     WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition
"""


async def quote_all(call: "Call") -> None:
    """Refuse a call and quote what came with it, as careless gateways do: key, prompt and all."""
    said = f"Incorrect API key provided: {call.served.key}. You asked: {call.prompt}"
    metadata = {"raw": said, "flagged_input": call.prompt, "headers": {"X-Key": call.served.key}}
    await call.refuse((400, {}, call.dialect.error(400, said, code=call.served.key, metadata=metadata)))


async def quote_in_a_stream(call: "Call") -> None:
    """Go wrong after the first words, and quote the key."""
    await call.speak(2)
    error = {"code": 502, "message": f"{call.served.key} was cut off while it asked {call.prompt}"}
    await call.event({**call.frame, "error": error})
    await call.close_stream()


@dataclass(frozen=True)
class Planted:
    """A fleet after a run, with all that it has shown so far."""

    fleet: Fleet
    errors: str
    printed: str
    """By commands."""
    in_flower: str
    in_dashboard: str
    command_lines: str
    results: set[str]
    """The keys of the answers in Redis."""


@pytest.fixture(scope="module")
def planted(short_folder: Callable[[], Path]) -> Iterator[Planted]:
    """Run every kind of process on guarded servers, let tasks succeed and fail, and ask everybody."""
    home = short_folder()
    config = home / "config"
    config.mkdir()
    with ExitStack() as stack:
        free = stack.enter_context(Provider("openrouter", keys=(FREE_KEY,)))
        paid = stack.enter_context(Provider("moonshot", keys=(PAID_KEY,)))
        (config / "models.yaml").write_text(MODELS.format(free=free.url, paid=paid.url))
        (config / "profiles.yaml").write_text(PROFILES)
        (config / "schedule.yaml").write_text("schedule: {}\n")
        fleet = Fleet(home)
        stack.callback(fleet.end)
        stack.enter_context(guarded(fleet))
        flower, site = started(fleet)
        results = asked(fleet, free, paid)
        ids = [str(result.id) for result in results]
        flower.wait_for(f"task/info/{ids[0]}", lambda task: task["state"] == "SUCCESS")
        in_flower = pages_of_flower(fleet, ids)
        forget_texts(fleet)
        yield Planted(
            fleet,
            errors="\n".join(in_full(result) for result in results),
            printed=said_by_commands(fleet, ids),
            in_flower=in_flower,
            in_dashboard=pages_of_dashboard(site, ids),
            command_lines="\n".join(sorted(command_lines(fleet))),
            results={f"celery-task-meta-{task_id}" for task_id in ids},
        )


@contextmanager
def guarded(fleet: Fleet) -> Generator[None]:
    """Give the embedded servers passwords, and the fleet addresses that have them."""
    inner = fleet.settings
    with psycopg.connect(inner.database_url, autocommit=True) as db:
        password = sql.Literal(DATABASE_PASSWORD)
        db.execute(sql.SQL("CREATE ROLE keeper SUPERUSER LOGIN PASSWORD {}").format(password))
        rules = Path(str(fleet.ask("SHOW hba_file")))
        rules.write_text(f"local all keeper scram-sha-256\n{rules.read_text()}")
        db.execute("SELECT pg_reload_conf()")
    port = free_port()
    with Redis.from_url(inner.redis_url) as redis:
        for name, value in (("bind", "127.0.0.1"), ("port", port), ("requirepass", REDIS_PASSWORD)):
            redis.config_set(name, value)
    fleet.environment |= {
        "FLEET_REDIS_URL": f"redis://:{REDIS_PASSWORD}@127.0.0.1:{port}/0",
        "FLEET_DATABASE_URL": database_with(DATABASE_PASSWORD, inner),
    }
    fleet.settings = read_settings(fleet.environment)
    fleet.app = make_app(fleet.settings)
    try:
        yield
    finally:
        with Redis.from_url(fleet.settings.redis_url) as redis:
            redis.config_set("requirepass", "")
        fleet.settings = inner


def database_with(password: str, inner: Settings) -> str:
    return f"postgresql://keeper:{password}@/fleet?host={inner.sockets}/postgres"


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        return free.getsockname()[1]


def started(fleet: Fleet) -> tuple[Flower, Site]:
    """Start one process of each kind, with the keys where they belong."""
    fleet.environment |= {
        "FLEET_FLOWER_PORT": str(free_port()),
        "FLEET_FLOWER_PASSWORD": FLOWER_PASSWORD,
        "FLEET_LOG_LEVEL": "debug",
    }
    fleet.start("flower")
    fleet.start("dispatcher")
    fleet.start("beat")
    fleet.start("worker", "free", also={"PLANTED_FREE_KEY": FREE_KEY})
    fleet.start("worker", "paid", also={"PLANTED_PAID_KEY": PAID_KEY})
    site = Site(fleet)
    flower = Flower(fleet, FLOWER_PASSWORD)
    flower.wait_for("workers?refresh=true", lambda workers: len(workers) == 2)
    fleet.wait_for("SELECT count(*) FROM workers", 2)
    return flower, site


def asked(fleet: Fleet, free: Provider, paid: Provider) -> list[AsyncResult]:
    """Let tasks succeed and fail, with providers that quote what they were sent."""
    results = [fleet.send(PROMPT, profile="private"), fleet.send(PROMPT, profile="dear")]
    for result in results:
        result.get(timeout=WAIT_S)
    free.faults["small"] = quote_all
    paid.once(quote_in_a_stream)  # that one is tried again
    failing = [fleet.send(PROMPT, profile="private"), fleet.send(PROMPT, profile="dear")]
    failing.append(fleet.send(PROMPT, profile="private", temperature=[PROMPT]))
    for result in failing:
        result.get(timeout=WAIT_S, propagate=False)
    return results + failing


def in_full(result: AsyncResult) -> str:
    """Write an error as a program that does not expect it would print it; nothing of a good answer."""
    try:
        result.get(timeout=WAIT_S)
    except Exception as error:  # noqa: BLE001 - whatever it is
        return f"{result.traceback}{''.join(traceback.format_exception(error))}{error!r}{vars(error)}"
    return ""


def forget_texts(fleet: Fleet) -> None:
    """Do what the dispatcher does some two minutes after a task has ended."""
    with psycopg.connect(fleet.settings.database_url) as db:
        db.execute("UPDATE tasks SET finished_at = finished_at - interval '10 minutes'")
    Housekeeper(fleet.settings, load_catalog(fleet.settings.config)).make_a_round()
    # What cannot be read as a call has no profile, and no text but that of its error.
    left = fleet.ask("SELECT count(*) FROM tasks WHERE text_removed_at IS NULL AND profile IS NOT NULL")
    assert left == 0


def pages_of_flower(fleet: Fleet, ids: Sequence[str]) -> str:
    """Read Flower's API and its pages; in the forms of both, workers and tasks one by one too."""
    at = f"http://127.0.0.1:{fleet.environment['FLEET_FLOWER_PORT']}"
    key = b64encode(f"fleet:{FLOWER_PASSWORD}".encode()).decode()
    workers = fleet.ask("SELECT array_agg(name) FROM workers")
    paths = ["workers", "tasks", "broker", "api/workers?refresh=true", "api/tasks", "api/queues/length"]
    paths += [f"worker/{name}" for name in workers] + [f"task/{each}" for each in ids]
    paths += [f"api/task/info/{each}" for each in ids]
    return "\n".join(read(f"{at}/{path}", Authorization=f"Basic {key}") for path in paths)


def pages_of_dashboard(site: Site, ids: Sequence[str]) -> str:
    paths = ["/", "/tasks", "/models", "/workers", "/schedules", "/agents", "/metrics"]
    paths += [f"/tasks/{each}" for each in ids]
    return "\n".join(read(site.url + path) for path in paths)


def read(url: str, **headers: str) -> str:
    """Get a page, also one that says what is wrong."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return f"{url} {error.code} {error.read().decode()}"


def said_by_commands(fleet: Fleet, ids: Sequence[str]) -> str:
    """Run commands with the right addresses, with wrong passwords, and with one that is not escaped."""
    inner, right = fleet.settings, dict(fleet.environment)
    redis = fleet.environment["FLEET_REDIS_URL"]
    commands = [("status",), ("doctor",), ("models",), ("spend",), ("explain", ids[-1])]
    wrong = [
        {"FLEET_DATABASE_URL": database_with(WRONG_PASSWORD, inner)},
        {"FLEET_REDIS_URL": redis.replace(REDIS_PASSWORD, WRONG_PASSWORD)},
        {"FLEET_DATABASE_URL": f"postgresql://keeper:{WRONG_PASSWORD}/more@127.0.0.1/fleet"},
        {"FLEET_REDIS_URL": f"redis://:{WRONG_PASSWORD}/more@127.0.0.1/0"},
    ]
    told = [fleet.run(*command) for command in commands]
    for each in wrong:
        fleet.environment |= each
        told += [fleet.run(*command) for command in (*commands[:2], ("complete", "x", "--profile", "open"))]
        fleet.environment = dict(right)
    assert [each.returncode for each in told[: len(commands)]] != [1] * len(commands)
    return "\n".join(f"{each.stdout}{each.stderr}" for each in told)


def command_lines(fleet: Fleet) -> Iterator[str]:
    """List what everybody on this machine can read with `ps`, of the processes and of their children."""
    home = str(fleet.environment["FLEET_HOME"])
    servers = ("valkey-server", "postgres")  # they write their own command lines
    mine = {process.pid for process in fleet.started}
    for process in psutil.process_iter(["pid", "name", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        is_server = str(process.info["name"]).startswith(servers)
        if is_server or process.pid in mine or home in line or mine & {each.pid for each in parents(process)}:
            yield line


def parents(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.parents()
    return []


def test_no_secret_is_in_a_file(planted: Planted):
    """Logs at their most talkative, and what the servers keep: files are copied, sent around, backed up."""
    home = Path(planted.fleet.environment["FLEET_HOME"])
    logs = {path.name for path in home.glob("*.log")}
    files = [path for path in home.rglob("*") if path.is_file()]

    assert {"fleet.log", "redis.log", "postgres.log"} <= logs
    assert "failed" in planted.fleet.log.read_text()
    assert [str(path) for path in files if found_in(path.read_bytes().decode(errors="replace"))] == []


def test_no_prompt_is_in_a_log(planted: Planted):
    """What is kept for no longer than it needs must not be kept for ever by whoever collects logs."""
    home = Path(planted.fleet.environment["FLEET_HOME"])

    assert [path.name for path in home.glob("*.log") if PROMPT in path.read_text(errors="replace")] == []


@pytest.mark.parametrize("where", ["errors", "printed", "in_flower", "in_dashboard", "command_lines"])
def test_nobody_is_shown_a_secret_or_a_prompt(planted: Planted, where: str):
    """An error is pasted into an issue, a page is shared, and `ps` is for everybody on the machine."""
    shown = getattr(planted, where)

    assert len(shown) > LEAST_SHOWN
    assert found_in(shown) == []
    assert PROMPT not in shown


def test_the_command_lines_are_those_of_the_fleet(planted: Planted):
    """A list that misses the workers would find nothing either."""
    for program in ("dispatcher", "worker free", "worker paid", "flower", "valkey-server", "postgres"):
        assert program in planted.command_lines


def test_the_ledger_has_no_secret_and_no_prompt_of_which_it_keeps_none(planted: Planted):
    """Every column of every table, read as text."""
    with psycopg.connect(planted.fleet.settings.database_url) as db:
        tables = [str(name) for (name,) in db.execute(TABLES)]
        leaks = [
            (table, secret)
            for table in tables
            for secret in (*SECRETS, PROMPT)
            if db.execute(CONTAINS.format(sql.Identifier(table)), (f"%{secret}%",)).fetchone() != (0,)
        ]
        attempts = db.execute("SELECT count(*) FROM attempts WHERE error IS NOT NULL").fetchone()

    assert {"tasks", "attempts", "workers", "accounts"} <= set(tables)
    assert attempts
    assert attempts[0] >= 2
    assert leaks == []


def test_redis_has_no_secret_and_the_prompt_in_results_alone(planted: Planted):
    """An answer may repeat its prompt; it is for its caller, for a day."""
    with Redis.from_url(planted.fleet.settings.redis_url, decode_responses=True) as redis:
        values = {str(key): whole(redis, str(key)) for key in redis.scan_iter(count=1000)}

    assert planted.results <= set(values)
    assert [key for key, value in values.items() if found_in(value)] == []
    assert {key for key, value in values.items() if PROMPT in value} <= planted.results


def whole(redis: Redis, key: str) -> str:
    """Read a value of any type."""
    client: Any = redis
    kind = client.type(key)
    readers: dict[str, Callable[[], object]] = {
        "string": lambda: client.get(key),
        "list": lambda: client.lrange(key, 0, -1),
        "hash": lambda: client.hgetall(key),
        "set": lambda: client.smembers(key),
        "zset": lambda: client.zrange(key, 0, -1),
        "stream": lambda: client.xrange(key),
    }
    return repr(readers[kind]())


def found_in(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]
