"""`fleet status`: who leads, who works, what waits."""

import platform
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rich.console import Console
from rich.table import Table

from config.settings import Settings, usable, without_password
from ledger import health, leadership, usage
from ledger.connect import connect
from ledger.leadership import Leader
from ledger.usage import OpenTasks, WorkerLoad
from workers import embedded, pidfile
from workers.app import DISPATCH_QUEUE
from workers.errors import NotThereError
from workers.inbox import Inbox
from workers.picture import SHOWN_S, is_there
from workers.reading import silent
from workers.screen import fleet_version, print_rows
from workers.words import duration

REDIS_LIMIT_S = 5.0


@dataclass(frozen=True)
class Status:
    """A fleet at one moment."""

    leader: Leader
    workers: list[WorkerLoad]
    tasks: OpenTasks
    not_accepted: int
    """Messages that no dispatcher has read yet."""
    dead_letters: int
    up_pid: int | None
    """The `fleet up` of this home; None: there is none."""
    embedded: dict[str, int]
    """Pids of the embedded services, by name."""
    versions: dict[str, str]

    @property
    def is_serving(self) -> bool:
        return self.leader.is_alive and any(is_there(worker) for worker in self.workers)


def status(settings: Settings) -> Status:
    """Look at the fleet that the settings name.

    Raises:
        NotThereError: its Redis or Postgres does not answer, or has never seen a fleet.
    """
    try:
        not_accepted, dead_letters, redis_version = look_into_redis(settings)
    except redis.RedisError as error:
        raise silent("Redis", settings.redis_url, error) from error
    try:
        with connect(settings.database_url, name="status") as db:
            schema, newest = health.schema(db), health.newest_schema()
            if schema is None:
                what = f"the database at {without_password(settings.database_url)} has no ledger"
                raise NotThereError(what, "make it with `fleet db migrate`, or start the fleet: `fleet up`")
            return Status(
                leader=leadership.current(db),
                workers=usage.workers(db, SHOWN_S),
                tasks=usage.open_tasks(db),
                not_accepted=not_accepted,
                dead_letters=dead_letters,
                up_pid=pidfile.holder(settings.home),
                embedded={each.name: each.pid for each in embedded.running(settings.home, settings.sockets)},
                versions={
                    "fleet": fleet_version(),
                    "schema": schema if schema == newest else f"{schema}, this fleet speaks {newest}",
                    "python": platform.python_version(),
                    "redis": redis_version,
                    "postgres": usage.server_version(db),
                },
            )
    except psycopg.OperationalError as error:
        raise silent("Postgres", settings.database_url, error) from error


def heartbeat(worker: WorkerLoad) -> str:
    """Say how long ago a recurring task for this worker alone came back through it."""
    if worker.heartbeat_at is None:
        return "none yet"
    return f"{duration((datetime.now(UTC) - worker.heartbeat_at).total_seconds())} ago"


def look_into_redis(settings: Settings) -> tuple[int, int, str]:
    """Count the messages that wait and the dead letters, and ask for Redis's version."""
    with redis.Redis.from_url(
        usable(settings.redis_url), socket_timeout=REDIS_LIMIT_S, retry=Retry(NoBackoff(), retries=0)
    ) as client:
        inbox = Inbox(client, DISPATCH_QUEUE)
        server: dict[str, Any] = client.info("server")
        return (
            sum(client.llen(name) for name in inbox.lists),
            client.llen(inbox.dead_letters),
            f"{server.get('server_name', 'redis')} {server.get('valkey_version', server['redis_version'])}",
        )


def as_json(found: Status) -> dict[str, Any]:
    return {**asdict(found), "is_serving": found.is_serving}


def show(console: Console, found: Status) -> None:
    """Print it."""
    epoch = f"epoch {found.leader.epoch}"
    leader = (
        f"{found.leader.holder}, {epoch}"
        if found.leader.is_alive
        else f"nobody (the last: {found.leader.holder}, {epoch})"
    )
    tasks, waits = found.tasks, ""
    if tasks.oldest_at:
        waits = f", the oldest since {duration((datetime.now(UTC) - tasks.oldest_at).total_seconds())}"
    print_rows(
        console,
        [
            ("Leader", leader),
            ("Tasks", f"{tasks.held} held, {tasks.queued} queued, {tasks.running} running{waits}"),
            ("Not accepted yet", f"{found.not_accepted}, and {found.dead_letters} dead letters"),
            (
                "fleet up",
                f"pid {found.up_pid}" if found.up_pid else f"not on {socket.gethostname()} in this home",
            ),
            (
                "Embedded",
                ", ".join(f"{name} (pid {pid})" for name, pid in found.embedded.items()) or "nothing",
            ),
            ("Versions", ", ".join(f"{name} {text}" for name, text in found.versions.items())),
        ],
    )
    console.print()
    if not found.workers:
        console.print("No worker is there. `fleet up` starts one for each lane that this host can serve.")
        return
    table = Table(box=None, header_style="bold")
    for column in ("worker", "host", "queues (slots)", "running", "last seen", "heartbeat"):
        table.add_column(column, overflow="fold")
    for worker in found.workers:
        queues = ", ".join(f"{queue} ({slots})" for queue, slots in worker.slots.items())
        seen = f"{duration(worker.silent_s)} ago" + ("" if is_there(worker) else ", gone")
        table.add_row(worker.name, worker.host, queues, str(worker.running), seen, heartbeat(worker))
    console.print(table)
