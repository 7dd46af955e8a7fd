"""One brain before 50 hosts: 10,000 tasks a minute, and what each part of the fleet uses for that.

Dispatcher, Postgres (fsync on), Redis (AOF) and a calling program are real processes. The hosts are
simulated: each takes messages, claims, shows itself, renews its leases and records with the statements of a
real worker, on two connections of its own, and in between sleeps for as long as a model would take. 50 real
workers would need more memory and processors than what is measured here.
"""

import argparse
import heapq
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from threading import Event, Thread
from typing import Any
from uuid import UUID

import psutil
import psycopg
from redis import Redis

from benchmarks.figures import Figure, report
from benchmarks.pipeline import ROOT, processes, services
from config.settings import Settings
from ledger import attempts
from ledger.attempts import Finish, Key
from ledger.connect import connect
from workers import embedded
from workers.alive import LEASE_S, Alive

HOSTS = 50
SLOTS = 10
TASKS_A_MINUTE = 10_000
RUN_S = 2.0
"""What a model takes; 500 slots could run 15,000 tasks a minute."""

AGENTS = 50
PROMPT = "What happened in the night, and what is to be done about it? " * 32
ANSWER = "Nothing happened in the night, and so nothing has to be done. " * 16

QUEUE = "echo.echo"

CONNECTIONS = 250
"""Two for each host here; a real worker has three, and Postgres comes with 100 in all."""

LATENCIES = """
    SELECT extract(epoch FROM attempts.claimed_at)
               - ('x' || translate(left(tasks.id::text, 13), '-', ''))::bit(48)::bigint / 1000.0
      FROM tasks
      JOIN attempts ON attempts.task_id = tasks.id
     WHERE claimed_at BETWEEN to_timestamp(%(since)s) AND to_timestamp(%(until)s)
"""
"""From the call to the claim: an id of a task begins with its time."""

DONE = "SELECT count(*) FROM tasks WHERE state = 'succeeded'"
FINISHED = """
    SELECT count(*) FROM attempts
     WHERE finished_at BETWEEN to_timestamp(%(since)s) AND to_timestamp(%(until)s)
"""
AGAIN = "SELECT count(*) FROM attempts WHERE number > 1 OR outcome <> 'succeeded'"
CONNECTED = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
WRITTEN = "SELECT pg_database_size('fleet'), pg_current_wal_lsn() - '0/0'"


@dataclass
class Host(Thread):
    """A host with one worker, whose model sleeps."""

    using: Settings
    number: int
    stopping: Event
    running: dict[Key, Event] = field(default_factory=dict[Key, Event])
    due: list[tuple[float, Key]] = field(default_factory=list[tuple[float, Key]])

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.worker = f"host-{self.number}"

    def __hash__(self) -> int:
        return self.number

    def run(self) -> None:
        """Take what there are slots for, and record what is due."""
        url = self.using.database_url
        alive = Alive(url, self.worker, {QUEUE: SLOTS}, self.running)
        with connect(url, name=self.worker, by_key=True) as db, Redis.from_url(self.using.redis_url) as redis:
            while not self.stopping.is_set():
                self.record(db, redis)
                self.begin(db, redis)
        alive.close()

    def begin(self, db: psycopg.Connection, redis: Redis) -> None:
        """Wait for a message, as long as nothing is due; take what else is there."""
        free = SLOTS - len(self.running)
        until_due = max(0.001, self.due[0][0] - time.monotonic()) if self.due else 0.2
        if free == 0:
            time.sleep(min(until_due, 0.2))
            return
        first = redis.brpop([QUEUE], timeout=min(until_due, 0.2))
        if not first:
            return
        more = redis.rpop(QUEUE, free - 1) if free > 1 else None
        keys = [key_of(raw) for raw in (first[1], *(more or ()))]
        for key in attempts.claim(db, keys, worker=self.worker, lease_s=LEASE_S):
            self.running[key] = Event()
            heapq.heappush(self.due, (time.monotonic() + RUN_S, key))

    def record(self, db: psycopg.Connection, redis: Redis) -> None:
        """Write down what has ended, and hand out its result."""
        ended: list[Key] = []
        while self.due and self.due[0][0] <= time.monotonic():
            ended.append(heapq.heappop(self.due)[1])
        if not ended:
            return
        attempts.finish(db, [finish(key) for key in ended])
        with redis.pipeline(transaction=False) as pipe:
            for task_id, number in ended:
                pipe.set(f"celery-task-meta-{task_id}", ANSWER, ex=86_400)
                pipe.publish(f"celery-task-meta-{task_id}", ANSWER)
                del self.running[task_id, number]
            pipe.execute()


def key_of(raw: Any) -> Key:  # noqa: ANN401 - as redis-py types it
    """Read which attempt a message carries."""
    headers = json.loads(raw)["headers"]
    return UUID(headers["id"]), headers["attempt"]


def finish(key: Key) -> Finish:
    return Finish(
        *key,
        outcome="succeeded",
        next_state="succeeded",
        prompt_tokens=500,
        completion_tokens=250,
        cost_usd=Decimal(0),
        first_token_s=0.1,
        answer={"message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"},
    )


def produce(seconds: float) -> None:
    """Call `complete` at an even pace, and say how many calls were made."""
    from workers.tasks import complete  # noqa: PLC0415 - a caller of its own

    interval_s, began, made = 60 / TASKS_A_MINUTE, time.monotonic(), 0
    while made * interval_s < seconds:
        ahead_s = began + made * interval_s - time.monotonic()
        if ahead_s > 0:
            time.sleep(ahead_s)
        complete.apply_async((f"{made}: {PROMPT}",), {"profile": "social", "agent": f"agent {made % AGENTS}"})
        made += 1
    print(made)


class Meter:
    """Processor time of the parts of the fleet, in seconds since `begin`."""

    def __init__(self, **parts: int) -> None:
        self.parts = {name: psutil.Process(pid) for name, pid in parts.items()}
        self.before = self.read()

    def read(self) -> dict[str, float]:
        """Add up what each part has used, with its children."""
        return {name: sum(map(used_s, [each, *each.children()])) for name, each in self.parts.items()}

    def used(self) -> dict[str, float]:
        return {name: after - self.before[name] for name, after in self.read().items()}


def used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def with_connections(using: Settings) -> None:
    """Let the embedded Postgres take as many connections as so many hosts need; that needs a new start."""
    with connect(using.database_url, name="scale") as db:
        db.execute(f"ALTER SYSTEM SET max_connections = {CONNECTIONS}".encode())
    embedded.stop_postgres(using.home, using.sockets)
    embedded.start_postgres(using.home, using.sockets)


def measure(seconds: float, warm_s: float) -> tuple[list[tuple[str, str]], list[Figure]]:
    """Run the fleet, and measure it once it is in its stride."""
    with services() as using:
        with_connections(using)
        stopping = Event()
        hosts = [Host(using, number, stopping) for number in range(HOSTS)]
        with (
            connect(using.database_url, name="scale") as db,
            Redis.from_url(using.redis_url) as redis,
            processes(("workers.cli", "dispatcher")) as (dispatcher,),
        ):
            for host in hosts:
                host.start()
            wait_until(lambda: db.execute("SELECT count(*) FROM workers").fetchone() == (HOSTS,), 30)
            caller = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.scale", "--produce", str(seconds + warm_s)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            time.sleep(warm_s)
            servers = {each.name: each.pid for each in embedded.running(using.home, using.sockets)}
            meter = Meter(dispatcher=dispatcher.pid, caller=caller.pid, hosts=os.getpid(), **servers)
            size, wal = db.execute(WRITTEN).fetchone() or (0, 0)
            began = time.time()
            time.sleep(seconds * 0.9)
            window = {"since": began, "until": time.time()}
            used_s_of = meter.used()
            size_after, wal_after = db.execute(WRITTEN).fetchone() or (0, 0)
            connected = one(db, CONNECTED)
            rss = psutil.Process(dispatcher.pid).memory_info().rss
            sent = int(caller.communicate()[0])
            wait_until(lambda: db.execute(DONE).fetchone() == (sent,), 30)
            finished = one(db, FINISHED, window)
            waits = sorted(float(row[0]) for row in db.execute(LATENCIES, window))
            again = one(db, AGAIN)
            left = redis.llen(QUEUE)
            stopping.set()
            for host in hosts:
                host.join()
    took_s = window["until"] - window["since"]
    rate = 60 * finished / took_s
    p50, p95, p99 = (1000 * waits[round(share * (len(waits) - 1))] for share in (0.5, 0.95, 0.99))
    brain_share = 100 * used_s_of["dispatcher"] / took_s
    rows = [
        ("tasks finished in a minute", f"{rate:,.0f}"),
        ("from the call to the claim, p50 / p95 / p99", f"{p50:.0f} / {p95:.0f} / {p99:.0f} ms"),
        ("tasks sent / done / tried again / left in Redis", f"{sent:,} / {sent:,} / {again} / {left}"),
        ("connections to Postgres", f"{connected}"),
        ("the dispatcher's memory", f"{rss / 1e6:.0f} MB"),
        ("the ledger grows by, for each task", f"{(size_after - size) / finished / 1000:.1f} kB"),
        ("write-ahead log, for each task", f"{float(wal_after - wal) / finished / 1000:.1f} kB"),
    ]
    rows += [
        (
            f"processor of: {name}",
            f"{100 * seconds_ / took_s:.0f} % of a core, {1000 * seconds_ / finished:.2f} ms a task",
        )
        for name, seconds_ in used_s_of.items()
    ]
    return rows, [
        Figure("scale.tasks_a_minute", rate, 0.98 * TASKS_A_MINUTE, "/min"),
        Figure("scale.p95_call_to_claim", p95, 1000, "ms", is_ceiling=True),
        Figure("scale.brain_processor", brain_share, 50, "%", is_ceiling=True),
    ]


def one(db: psycopg.Connection, query: str, values: dict[str, float] | None = None) -> int:
    row = db.execute(query.encode(), values).fetchone()
    return int(row[0]) if row else 0


def wait_until(is_so: Callable[[], bool], limit_s: float) -> None:
    """Wait for something.

    Raises:
        TimeoutError: it did not come.
    """
    until = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > until:
            message = f"not within {limit_s:.0f} s: the fleet does not keep up"
            raise TimeoutError(message)
        time.sleep(0.1)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="15 s instead of 70, under 50 s in all")
    parser.add_argument("--produce", type=float, metavar="SECONDS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.produce:
        produce(arguments.produce)
        return
    rows, figures = measure(*((15, 8) if arguments.quick else (70, 10)))
    report(f"{HOSTS} hosts with {SLOTS} slots, {TASKS_A_MINUTE:,} tasks a minute, one brain", rows, figures)


if __name__ == "__main__":
    main()
