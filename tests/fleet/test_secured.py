"""A fleet whose servers have TLS, and whose hosts have the users of docs/how-to/secure-the-servers.md."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from config.settings import read_settings
from ledger import roles
from ledger.migrate import migrate
from tests.docs.pages import ROOT, blocks
from tests.fleet.conftest import process, wait_for
from tests.fleet.processes import run_fleet, run_python
from tests.tls import certificate, terminator
from workers import embedded
from workers.embedded.redis import Redis as EmbeddedRedis

PAGE = ROOT / "docs/how-to/secure-the-servers.md"

START_LIMIT_S = 30

PASSWORD = "planted"

ADMIN = "user admin on nopass ~* &* +@all\n"
"""Of the test alone: it reads what was refused."""

CALLS = """
import sys, time
from celery import chain, chord, group
from workers import complete, embed, stream

def text(answer):
    return answer["choices"][0]["message"]["content"]

assert text(complete.delay("one", profile="social").get(timeout=30)) == "one"
assert text(complete.apply_async(("high",), {"profile": "social"}, priority=3).get(timeout=30)) == "high"
assert "".join(stream(complete.delay("two words", model="slow"), timeout=30)) == "two words"
assert chain(complete.s("three", profile="social"), complete.s(profile="social")).delay().get(timeout=30)
several = group(complete.s("a", profile="social"), complete.s("b", profile="social")).apply_async()
assert [text(answer) for answer in several.get(timeout=30)] == ["a", "b"]
several.save()
several.forget()
assert chord([complete.s("c", profile="social")], complete.s(profile="social")).apply_async().get(timeout=30)
assert embed.delay(["x"], model="vectors").get(timeout=30)["data"]
late = complete.apply_async(("late",), {"profile": "social"}, countdown=600)
late.revoke()
try:
    late.get(timeout=30)
except Exception as error:
    assert type(error).__name__ == "TaskRevokedError", error
else:
    raise AssertionError("it was not revoked")
"""


@dataclass(frozen=True)
class Secured:
    """The environments of the hosts, and what the test itself may see."""

    hub: dict[str, str]
    worker: dict[str, str]
    caller: dict[str, str]
    admin: Redis

    def as_user(self, name: str) -> Redis:
        options: Any = self.admin.connection_pool.connection_kwargs
        return Redis(unix_socket_path=options["path"], username=name, password=PASSWORD)


def users() -> str:
    """Read the file of users off the page, with the passwords of the test."""
    [file] = [block.text for block in blocks(PAGE) if block.text.startswith("user default")]
    for name in ("HUB", "WORKER", "CALLER"):
        file = file.replace(f"{name}_PASSWORD", PASSWORD)
    return file


@pytest.fixture(scope="module")
def secured(short_folder: Callable[[], Path], environment: dict[str, str]) -> Iterator[Secured]:
    """Run a dispatcher, beat and Flower on the hub, and a worker elsewhere."""
    folder = short_folder()
    shown = certificate(folder)
    acl = folder / "users.acl"
    acl.write_text(users() + ADMIN)
    path = folder / "redis.sock"
    own = read_settings({"FLEET_HOME": str(folder)})
    with ExitStack() as stack:
        server = stack.enter_context(
            subprocess.Popen(
                [
                    *(EmbeddedRedis(folder, folder).binary(), "--port", "0", "--unixsocket", path),
                    *("--dir", folder, "--save", "", "--aclfile", acl),
                ],
                stdout=subprocess.DEVNULL,
            )
        )
        stack.callback(server.terminate)
        admin = stack.enter_context(Redis(unix_socket_path=str(path), username="admin"))
        wait_until_there(admin)
        owner = embedded.start_postgres(folder, own.sockets, durable=False).url
        stack.callback(embedded.stop_postgres, folder, own.sockets)
        migrate(owner)
        with psycopg.connect(owner, autocommit=True) as db:
            roles.make(db)
            db.execute("CREATE ROLE worker_1 LOGIN IN ROLE fleet_worker")
        redis_port = stack.enter_context(terminator(shown, path))
        port = stack.enter_context(
            terminator(shown, own.sockets / "postgres/.s.PGSQL.5432", is_postgres=True)
        )
        trusted = quote(str(shown.file))

        def host(user: str, database_url: str) -> dict[str, str]:
            redis_url = f"rediss://{user}:{PASSWORD}@localhost:{redis_port}/0?ssl_ca_certs={trusted}"
            return {**environment, "FLEET_REDIS_URL": redis_url, "FLEET_DATABASE_URL": database_url}

        made = Secured(
            host("hub", owner),
            host(
                "worker",
                f"postgresql://worker_1@localhost:{port}/fleet?sslmode=verify-full&sslrootcert={trusted}",
            ),
            host("caller", "postgresql://127.0.0.1:1/none"),
            admin,
        )
        flower = {**made.hub, "FLEET_FLOWER_PORT": "5971", "FLEET_FLOWER_PASSWORD": PASSWORD}
        for using, arguments in (
            (made.hub, ("dispatcher",)),
            (made.hub, ("beat",)),
            (flower, ("flower",)),
            (made.worker, ("worker", "echo")),
        ):
            stack.enter_context(process(using, "workers.cli", *arguments))
        wait_for(read_settings(made.hub), "SELECT count(*) FROM workers", 1, timeout_s=90)
        yield made


def wait_until_there(client: Redis) -> None:
    end = time.monotonic() + START_LIMIT_S
    while True:
        try:
            client.ping()
        except (RedisConnectionError, OSError):
            assert time.monotonic() < end
            time.sleep(0.05)
        else:
            return


def refused(admin: Redis) -> list[tuple[str, str, str]]:
    """List what users were refused: (user, why, what)."""
    return [(str(each["username"]), str(each["reason"]), str(each["object"])) for each in admin.acl_log()]


def test_everything_of_a_caller_goes_through(secured: Secured):
    """Chains, groups, chords, streams, priorities, cancelling: with TLS and these rights."""
    secured.admin.acl_log_reset()

    called = run_python(secured.caller, "-c", CALLS, timeout_s=100)

    assert refused(secured.admin) == []
    assert called.returncode == 0, called.stderr


FORBIDDEN = {
    "caller": [
        "KEYS *",
        "SCAN 0",
        "RANDOMKEY",
        "LRANGE dispatch 0 -1",
        "RPOP dispatch",
        "DEL dispatch",
        "LPUSH echo.echo x",
        "GET fleet.anything",
        "PSUBSCRIBE celery-task-meta-*",
        "SUBSCRIBE /0.celeryev/x",
        "EVAL return 0",
        "MONITOR",
        "FLUSHALL",
        "CONFIG GET *",
        "CLIENT LIST",
        "ACL LIST",
    ],
    "worker": [
        "KEYS *",
        "SCAN 0",
        "LRANGE dispatch 0 -1",
        "RPOP dispatch",
        "BRPOP dispatch 1",
        "DEL dispatch",
        "LRANGE echo.echo 0 -1",
        "GET fleet.anything",
        "PSUBSCRIBE celery-task-meta-*",
        "SUBSCRIBE celery-task-meta-x",
        "PSUBSCRIBE *",
        "PUBLISH /0.celery.pidbox x",
        "EVAL return 0",
        "MONITOR",
        "FLUSHDB",
        "CONFIG SET maxmemory 1",
        "CLIENT KILL TYPE normal",
        "SHUTDOWN",
    ],
    "hub": ["FLUSHALL", "KEYS *", "CONFIG SET maxmemory 1", "ACL SETUSER x", "SHUTDOWN", "MONITOR"],
}


@pytest.mark.parametrize(
    ("name", "command"), [(name, command) for name, commands in FORBIDDEN.items() for command in commands]
)
def test_a_user_is_refused_what_is_not_its_own(name: str, command: str, secured: Secured):
    """Whoever has a host has its password, and redis-cli."""
    with secured.as_user(name) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command.split())


def test_redis_lets_nobody_in_without_a_name(secured: Secured):
    """The user that every client is by default is off."""
    options: Any = secured.admin.connection_pool.connection_kwargs
    with Redis(unix_socket_path=options["path"]) as client, pytest.raises(AuthenticationError):
        client.ping()


def test_a_script_of_a_worker_may_do_no_more_than_the_worker(secured: Secured):
    """EVALSHA is needed for chords; it must not be a way round."""
    with secured.as_user("worker") as client:
        mark = client.script_load("return redis.call('LRANGE', 'dispatch', 0, -1)")
        with pytest.raises(ResponseError, match=r"(?i)permission|ACL"):
            client.evalsha(mark, 1, "celery-task-meta-x")


def test_the_doctor_of_a_workers_host_says_that_all_is_well(secured: Secured):
    """It asks what a worker may not ask, too, and must take the refusal for what it is."""
    ran = run_fleet(secured.worker, "doctor", "--json", timeout_s=60)

    found = {each["check"]: each for each in json.loads(ran.stdout)["findings"]}
    assert "what a worker does, and no more" in found["postgres.role"]["found"]
    assert (found["redis.reachable"]["level"], found["postgres.reachable"]["level"]) == ("ok", "ok")
    assert found["redis.settings"]["level"] == "note"
    assert found["fleet.dispatcher"]["level"] == "ok"
    assert "echo-" in found["fleet.workers"]["found"]
    assert PASSWORD not in ran.stdout


def test_flower_sees_the_worker(secured: Secured):
    """It asks workers by Celery's control messages, and hears their events."""
    secured.admin.acl_log_reset()

    inspect = "from workers.app import app; print(app.control.inspect(timeout=5).ping())"
    asked = run_python(secured.hub, "-c", inspect, timeout_s=60)

    assert asked.returncode == 0, asked.stderr
    assert "pong" in asked.stdout
    assert refused(secured.admin) == []
