"""A fleet under fire: it starts everything, lets things go wrong, and waits until all is done."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copytree
from threading import Lock, Thread

import psycopg
from redis import Redis

from tests.chaos.disk import Disk
from tests.chaos.faults import Fault
from tests.chaos.journal import Journal, read_journal
from tests.chaos.wire import Network, Wire
from tests.fleet.processes import ROOT, Fleet
from workers.app import DISPATCH_QUEUE
from workers.errors import UnreadableMessageError
from workers.messages import lists_of, read_message

SLOTS = "4"

CREW: dict[str, tuple[str, ...]] = {
    "dispatcher 0": ("dispatcher",),
    "dispatcher 1": ("dispatcher",),
    "worker 0": (),
    "worker 1": (),
    "worker 2": ("moody", "parrot", "slow"),
}
"""Which models each worker serves; none: all."""

DRAIN_S = 300.0
"""How long the fleet may take to its last task, once nothing goes wrong any more: one that kills its workers
is tried three times, and each time its lease has to end."""

QUIET_S = 2.0

HEAR_OUT_S = 120.0

AOF_S = 3.0
"""What Redis acknowledged may be lost until its log is written: once a second, and at most two late."""

WATCH = """
    CREATE TABLE chaos_changes (
        what text NOT NULL, id uuid NOT NULL, number int, was text, became text,
        at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE FUNCTION chaos_task() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO chaos_changes VALUES ('state', NEW.id, NULL, OLD.state, NEW.state); RETURN NULL;
    END $$;
    CREATE FUNCTION chaos_outcome() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO chaos_changes VALUES ('outcome', NEW.task_id, NEW.number, OLD.outcome, NEW.outcome);
        RETURN NULL;
    END $$;
    CREATE FUNCTION chaos_worker() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO chaos_changes VALUES ('worker', NEW.task_id, NEW.number, OLD.worker, NEW.worker);
        RETURN NULL;
    END $$;
    CREATE TRIGGER chaos_task AFTER UPDATE ON tasks FOR EACH ROW
        WHEN (OLD.finished_at IS NOT NULL AND NEW.state IS DISTINCT FROM OLD.state)
        EXECUTE FUNCTION chaos_task();
    CREATE TRIGGER chaos_outcome AFTER UPDATE ON attempts FOR EACH ROW
        WHEN (OLD.outcome IS NOT NULL AND NEW.outcome IS DISTINCT FROM OLD.outcome)
        EXECUTE FUNCTION chaos_outcome();
    CREATE TRIGGER chaos_worker AFTER UPDATE ON attempts FOR EACH ROW
        WHEN (OLD.worker IS NOT NULL AND NEW.worker IS DISTINCT FROM OLD.worker)
        EXECUTE FUNCTION chaos_worker();
"""
"""What was final and changed nevertheless, seen by Postgres itself."""


class Storm:
    """A fleet whose servers are behind a network that can be cut, with everything that happens to it."""

    def __init__(self, home: Path, seed: int, disk: Disk | None = None) -> None:
        data = home / "data"
        copytree(ROOT / "tests/chaos/catalog", data / "config")
        self.seed = seed
        self.disk = disk
        self.fleet = Fleet(data)
        self.fleet.log = home / "fleet.log"
        self.journal_path = home / "journal.jsonl"
        self.journal = Journal(self.journal_path)
        self.network = Network()
        sockets = self.fleet.settings.sockets
        places = {"redis": sockets / "redis/redis.sock", "postgres": sockets / "postgres/.s.PGSQL.5432"}
        self.wires: dict[tuple[str, str], Wire] = {
            (group, server): self.network.wire(place)
            for group in ("dispatcher", "worker", "producer")
            for server, place in places.items()
        }
        self.crew: dict[str, subprocess.Popen[bytes]] = {}
        self.producers: list[subprocess.Popen[bytes]] = []
        self.killed: set[int] = set()
        self.ended: list[tuple[str, int, int]] = []
        """(name, pid, status) of each process that ended without being killed by a fault."""
        self.injected: Counter[str] = Counter()
        self.flushed: set[str] = set()
        """Messages that FLUSHALL took before anybody had accepted them: by design they are gone."""
        self.redis_killed_at: list[float] = []
        self.redis_lock, self.postgres_lock = Lock(), Lock()
        with psycopg.connect(self.fleet.settings.database_url) as db:
            db.execute(WATCH)

    def environment(self, group: str) -> dict[str, str]:
        """Say where a process finds the servers: behind the wires of its group."""
        redis, postgres = self.wires[group, "redis"].port, self.wires[group, "postgres"].port
        return {
            "FLEET_REDIS_URL": f"redis://127.0.0.1:{redis}/0",
            "FLEET_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{postgres}/fleet",
        }

    def start(self, name: str) -> None:
        group = name.partition(" ")[0]
        if group == "dispatcher":
            process = self.fleet.start("dispatcher", also=self.environment(group))
        else:
            process = self.fleet.start(
                str(self.journal_path),
                SLOTS,
                *CREW[name],
                module="tests.chaos.worker",
                also=self.environment(group),
            )
        self.crew[name] = process

    def begin(self, producers: int, tasks: int, seconds: float, *, is_poisonous: bool) -> None:
        """Start the fleet, and the programs that use it once it is there."""
        for name in CREW:
            self.start(name)
        workers = sum(name.startswith("worker") for name in CREW)
        self.fleet.wait_for("SELECT count(*) FROM workers", workers)
        for number in range(producers):
            command = [sys.executable, "-m", "tests.chaos.producer", f"p{number}", str(self.seed)]
            command += [str(tasks // producers), str(seconds), str(self.journal_path)]
            command += ["--poison"] * (is_poisonous and number == 0)
            with self.fleet.log.open("ab") as log:
                self.producers.append(
                    subprocess.Popen(
                        command,
                        env={**self.fleet.environment, **self.environment("producer")},
                        cwd=ROOT,
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                    )
                )

    def rage(self, faults: Sequence[Fault], tell: Callable[[str], None]) -> None:
        """Let things go wrong, each at its time; what has died is started again."""
        began = time.monotonic()
        threads: list[Thread] = []
        for fault in faults:
            self.keep_up(began + fault.at_s)
            tell(f"{fault.at_s:6.1f} s  {fault.kind}" + (f" for {fault.for_s:.1f} s" if fault.for_s else ""))
            threads.append(Thread(target=self.inject, args=(fault,)))
            threads[-1].start()
        while any(thread.is_alive() for thread in threads):
            self.keep_up(time.monotonic() + 0.2)

    def inject(self, fault: Fault) -> None:
        try:
            happens: Callable[[Fault], Generator[None]] = getattr(self, fault.kind)
            with contextmanager(happens)(fault):
                self.injected[fault.kind] += 1
                self.journal.write("fault", kind=fault.kind, for_s=fault.for_s)
                time.sleep(fault.for_s)
        except Exception as error:
            self.ended.append((f"fault {fault.kind}: {error!r}", 0, 0))
            raise

    def keep_up(self, until: float) -> None:
        """Start again what has ended, until a moment."""
        while True:
            for name, process in list(self.crew.items()):
                status = process.poll()
                if status is not None:
                    if process.pid not in self.killed:
                        self.ended.append((name, process.pid, status))
                    self.start(name)
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.1))

    def drain(self) -> bool:
        """Wait until the fleet has nothing more to do; False: it did not come to that."""
        end = time.monotonic() + DRAIN_S
        quiet_since = None
        while time.monotonic() < end:
            self.keep_up(time.monotonic() + 0.2)
            if not self.is_done():
                quiet_since = None
            elif quiet_since is None:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > QUIET_S:
                return True
        return False

    def is_done(self) -> bool:
        have_sent = sum(event["event"] == "sent_all" for event in read_journal(self.journal_path))
        if have_sent < len(self.producers):
            return False
        with Redis.from_url(self.fleet.settings.redis_url) as redis:
            if any(redis.llen(name) for name in lists_of(DISPATCH_QUEUE)):
                return False
        return self.fleet.ask("SELECT count(*) FROM tasks WHERE finished_at IS NULL") == 0

    def hear_out(self, gone: Iterable[str]) -> None:
        """Let the producers get their last results, and end.

        Args:
            gone: what nobody has accepted or will accept, so that there is nothing to wait for.
        """
        for producer in self.producers:
            if producer.stdin is not None:
                producer.stdin.write(" ".join(gone).encode())
                producer.stdin.close()
        for number, producer in enumerate(self.producers):
            try:
                status = producer.wait(HEAR_OUT_S)
            except subprocess.TimeoutExpired:
                producer.kill()
                status = producer.wait()
            if status != 0:
                self.ended.append((f"producer {number}", producer.pid, status))

    def close(self) -> None:
        for process in self.producers:
            if process.poll() is None:
                process.kill()
            process.wait()
        for process in self.fleet.started:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
        self.fleet.end()
        self.network.close()

    def pick(self, group: str, number: int) -> subprocess.Popen[bytes]:
        names = [name for name in CREW if name.startswith(group)]
        return self.crew[names[number % len(names)]]

    def leader(self, otherwise: int) -> subprocess.Popen[bytes]:
        """Find the dispatcher that leads; while Postgres cannot tell, take one of them."""
        with suppress(psycopg.Error):
            pid = int(self.fleet.ask("SELECT holder FROM leadership").rpartition(":")[2])
            for process in self.crew.values():
                if process.pid == pid:
                    return process
        return self.pick("dispatcher", otherwise)

    # One generator for each kind of fault: it begins before the yield, and ends after it.

    def kill_worker(self, fault: Fault) -> Generator[None]:
        self.kill(self.pick("worker", fault.pick))
        yield

    def kill_dispatcher(self, fault: Fault) -> Generator[None]:
        self.kill(self.leader(fault.pick))
        yield

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        self.killed.add(process.pid)
        process.kill()

    def stop_worker(self, fault: Fault) -> Generator[None]:
        yield from self.stop(self.pick("worker", fault.pick))

    def stop_dispatcher(self, fault: Fault) -> Generator[None]:
        yield from self.stop(self.leader(fault.pick))

    def stop(self, process: subprocess.Popen[bytes]) -> Generator[None]:
        process.send_signal(signal.SIGSTOP)
        yield
        process.send_signal(signal.SIGCONT)

    def kill_redis(self, _: Fault) -> Generator[None]:
        with self.redis_lock:
            pid = self.fleet.start_redis()
            self.redis_killed_at.append(time.time())
            os.kill(pid, signal.SIGKILL)
            yield
            self.fleet.start_redis()

    def kill_postgres(self, _: Fault) -> Generator[None]:
        with self.postgres_lock:
            os.kill(self.fleet.start_postgres(), signal.SIGKILL)
            yield
            self.fleet.start_postgres()

    def flushall(self, _: Fault) -> Generator[None]:
        with self.redis_lock, Redis.from_url(self.fleet.settings.redis_url) as redis:
            with redis.pipeline(transaction=True) as pipeline:
                for name in lists_of(DISPATCH_QUEUE):
                    pipeline.lrange(name, 0, -1)
                pipeline.flushall()
                found = pipeline.execute()[:-1]
            for raw in (raw for messages in found for raw in messages):
                with suppress(UnreadableMessageError):
                    self.flushed.add(str(read_message(raw).id))
            yield

    def cut_redis(self, fault: Fault) -> Generator[None]:
        yield from self.disturb("redis", fault, Wire.cut)

    def cut_postgres(self, fault: Fault) -> Generator[None]:
        yield from self.disturb("postgres", fault, Wire.cut)

    def stall_redis(self, fault: Fault) -> Generator[None]:
        yield from self.disturb("redis", fault, Wire.stall)

    def stall_postgres(self, fault: Fault) -> Generator[None]:
        yield from self.disturb("postgres", fault, Wire.stall)

    def disturb(self, server: str, fault: Fault, how: Callable[[Wire], object]) -> Generator[None]:
        """Disturb the way of one group to a server, or of all."""
        groups = random.Random(fault.pick).choice(
            [["dispatcher"], ["worker"], ["dispatcher", "worker", "producer"]]
        )
        wires = [self.wires[group, server] for group in groups]
        for wire in wires:
            self.network.call(how(wire))  # type: ignore[arg-type]
        yield
        for wire in wires:
            self.network.call(wire.mend())

    def full_disk(self, _: Fault) -> Generator[None]:
        if self.disk is None:
            message = "there is no disk that can be filled"
            raise RuntimeError(message)
        with self.redis_lock, self.postgres_lock:
            self.disk.fill()
            yield
            self.disk.free()
            self.fleet.start_redis()
            self.fleet.start_postgres()

    def is_lost_with_redis(self, began_at: float, ended_at: float, task: str) -> bool:
        """Tell whether a task that nobody accepted may be gone: its message was in what Redis lost."""
        return task in self.flushed or any(
            began_at < killed_at < ended_at + AOF_S for killed_at in self.redis_killed_at
        )
