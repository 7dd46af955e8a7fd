"""What the durable path costs: against plain Celery on the same Redis, with no ledger, in the same run.

The fleet writes every task and attempt to Postgres, with fsync on; plain Celery writes nothing but its
result. Both have an AOF Redis (everysec) and two worker processes, both run on this machine at the same
time, one measured while the other is idle.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
from redis import Redis

from benchmarks.figures import Figure, report
from config.settings import Settings, settings
from ledger.migrate import migrate
from workers import embedded

ROOT = Path(__file__).parents[1]
CATALOG = ROOT / "tests/catalogs/echo"

SLOTS = 64
"""Tasks that each fleet worker has under way: what ends while a commit waits for the disk shares the next."""

SLICE = 100
"""Tasks enqueued on one side before it is the other's turn."""

PAUSE_S = 0.05
"""Before each single task, on one side and the other in turn: a load of about nine a second on each.

That is the low load that the figures are about, and the same for both. Back to back, each side has a load of
its own: plain Celery several hundred tasks a second, with all that it needs in the processor's caches.
"""

HEAVY = ("litellm", "llama_cpp", "mlx", "psycopg")
"""What a producer must not load."""


PLAIN_WORKER = (
    "--pool=prefork",
    "-c2",
    "-Qplain",
    "--loglevel=ERROR",
    "--without-gossip",
    "--without-mingle",
)


@contextmanager
def services(config: Callable[[Path], Path] = lambda _: CATALOG) -> Generator[Settings]:
    """Start Redis and Postgres with their real durability, in a folder of their own.

    Args:
        config: gives the catalog's folder; it may make one in the folder that it is given.
    """
    home = Path(tempfile.mkdtemp(prefix="fleet-", dir="/tmp"))
    home.chmod(0o755)
    os.environ |= {"FLEET_HOME": str(home), "FLEET_CONFIG": str(config(home)), "FLEET_LOG_LEVEL": "warning"}
    settings.cache_clear()
    using = settings()
    try:
        embedded.start_redis(home, using.sockets)
        embedded.start_postgres(home, using.sockets)
        migrate(using.database_url)
        yield using
    finally:
        embedded.stop_redis(home, using.sockets)
        embedded.stop_postgres(home, using.sockets)
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(using.sockets, ignore_errors=True)


@contextmanager
def processes(*commands: tuple[str, ...]) -> Generator[list[subprocess.Popen[bytes]]]:
    """Run Python processes, each in a process group of its own, and end them."""
    running = [
        subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, start_new_session=True)
        for command in commands
    ]
    try:
        yield running
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGCONT)
            process.terminate()
        for process in running:
            process.wait(30)


def send_to_all(processes: Sequence[subprocess.Popen[bytes]], sent: signal.Signals) -> None:
    for process in processes:
        os.killpg(process.pid, sent)


def fill(
    processes: list[subprocess.Popen[bytes]], enqueues: Sequence[Callable[[int], object]], count: int
) -> list[float]:
    """Stop all processes and fill each queue, a few tasks here, a few there.

    Returns:
        Tasks enqueued in a second, for each queue.
    """
    send_to_all(processes, signal.SIGSTOP)
    spent = [0.0] * len(enqueues)
    for start in range(0, count, SLICE):
        for which, enqueue in enumerate(enqueues):
            began = time.perf_counter()
            for number in range(start, min(start + SLICE, count)):
                enqueue(number)
            spent[which] += time.perf_counter() - began
    return [count / seconds for seconds in spent]


def drain(redis: Redis, stopped: list[subprocess.Popen[bytes]], count: int) -> float:
    """Let the workers of a full queue go, and time until every result is there.

    Returns:
        Tasks done in a second.
    """
    before = results(redis)
    send_to_all(stopped, signal.SIGCONT)
    began = time.perf_counter()
    end = began + 120
    # The number of all keys costs nothing and is never lower than that of the results.
    while redis.dbsize() < before + count or results(redis) < before + count:
        if time.perf_counter() > end:
            message = f"only {results(redis) - before} of {count} tasks were done in 120 s"
            raise TimeoutError(message)
        time.sleep(0.005)
    return count / (time.perf_counter() - began)


def results(redis: Redis) -> int:
    """Count the results: every finished task leaves one."""
    return sum(1 for _ in redis.scan_iter("celery-task-meta-*", count=10_000))


def round_trips(ask: Callable[[], object], count: int) -> list[float]:
    """Time single tasks from call to result, in milliseconds."""
    times: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        ask()
        times.append((time.perf_counter() - began) * 1000)
    return times


def round_trips_in_turn(asks: Sequence[Callable[[], object]], count: int) -> list[list[float]]:
    """Time single tasks on each side in turn, with a pause before each; in milliseconds, by side."""
    times: list[list[float]] = [[] for _ in asks]
    for _ in range(count):
        for own, ask in zip(times, asks, strict=True):
            time.sleep(PAUSE_S)
            own.extend(round_trips(ask, 1))
    return times


def percentiles(times: list[float]) -> tuple[float, float]:
    """Give the 50th and the 99th."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return cuts[49], cuts[98]


def import_time(statement: str) -> float:
    """Time a fresh interpreter that runs one statement, in milliseconds; the best of three."""
    times: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True, cwd=ROOT)
        times.append((time.perf_counter() - began) * 1000)
    return min(times)


def loaded_by_a_producer() -> list[str]:
    """Name the heavy modules that a producer loads; there should be none."""
    code = (
        "import sys; from workers import complete; complete.name; complete.s('x', profile='social');"
        f"print(*[m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.split()


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under 50 s")
    quick = parser.parse_args().quick
    count, rounds, trips = (1500, 1, 100) if quick else (5000, 3, 300)
    import_rounds = 3 if quick else 7
    imports = [
        (import_time("import celery"), import_time("from workers import complete"))
        for _ in range(import_rounds)
    ]
    import_celery, import_fleet = (statistics.median(column) for column in zip(*imports, strict=True))
    heavy = loaded_by_a_producer()
    with services() as using, Redis.from_url(using.redis_url) as redis:
        from benchmarks.plain_app import echo  # noqa: PLC0415 - reads the settings that `services` made
        from workers.tasks import complete  # noqa: PLC0415

        with processes(
            ("workers.cli", "dispatcher"),
            ("workers.cli", "worker", "echo", "--model", "echo", f"--slots={SLOTS}"),
            ("workers.cli", "worker", "echo", "--model", "echo", f"--slots={SLOTS}"),
            ("celery", "-A", "benchmarks.plain_app", "worker", *PLAIN_WORKER),
        ) as (*fleet, plain):
            for _ in range(20):
                complete.delay("warm", profile="social").get(timeout=60)
                echo.delay("warm").get(timeout=60)
            asks = (
                lambda: complete.delay("hello", profile="social").get(timeout=60),
                lambda: echo.delay("hello").get(timeout=60),
            )
            fleet_ms, plain_ms = round_trips_in_turn(asks, trips)
            hurried = tuple[list[float], list[float]](([], []))
            for _ in range(5):
                for times, ask in zip(hurried, asks, strict=True):
                    times.extend(round_trips(ask, trips // 5))
            enqueue_fleet = partial(complete.delay, profile="social")
            rates: list[tuple[float, ...]] = []
            for _ in range(rounds):
                filled = fill(
                    [*fleet, plain],
                    [lambda n: enqueue_fleet(f"number {n}"), lambda n: echo.delay(f"number {n}")],
                    count,
                )
                plainly = drain(redis, [plain], count)
                send_to_all([plain], signal.SIGSTOP)
                rates.append((*filled, drain(redis, fleet, count), plainly))
            check_ledger(using, 20 + 2 * trips + rounds * count)
    (fleet_p50, fleet_p99), (plain_p50, plain_p99) = (percentiles(times) for times in (fleet_ms, plain_ms))
    fleet_hurried, plain_hurried = (statistics.median(times) for times in hurried)
    enqueued, plainly_enqueued, drained, plainly_drained = (
        statistics.median(column) for column in zip(*rates, strict=True)
    )
    report(
        f"the durable path against plain Celery; {rounds} x {count} tasks, medians",
        [
            ("import celery", f"{import_celery:.0f} ms"),
            ("from workers import complete", f"{import_fleet:.0f} ms"),
            ("heavy modules in a producer", ", ".join(heavy) or "none"),
            ("round trip p50 and p99, plain Celery", f"{plain_p50:.1f} ms, {plain_p99:.1f} ms"),
            ("round trip p50 and p99, fleet", f"{fleet_p50:.1f} ms, {fleet_p99:.1f} ms"),
            ("back to back p50, plain Celery", f"{plain_hurried:.1f} ms"),
            ("back to back p50, fleet", f"{fleet_hurried:.1f} ms, {fleet_hurried / plain_hurried:.2f} x"),
            ("enqueue, plain Celery", f"{plainly_enqueued:.0f} tasks/s"),
            ("enqueue, fleet", f"{enqueued:.0f} tasks/s"),
            ("drain, plain Celery prefork -c 2", f"{plainly_drained:.0f} tasks/s"),
            ("drain, fleet, all rows in Postgres", f"{drained:.0f} tasks/s"),
        ],
        [
            Figure("pipeline.import_vs_celery", import_fleet / import_celery, 1.5, "x", is_ceiling=True),
            Figure("pipeline.round_trip_vs_celery", fleet_p50 / plain_p50, 2, "x", is_ceiling=True),
            Figure("pipeline.round_trip_p99_vs_celery", fleet_p99 / plain_p99, 3, "x", is_ceiling=True),
            Figure("pipeline.enqueue_vs_celery", enqueued / plainly_enqueued, 0.9, "x"),
            Figure("pipeline.drain_vs_celery", drained / plainly_drained, 1, "x"),
        ],
    )


def check_ledger(using: Settings, expected: int) -> None:
    """Make sure that every task that was timed is in the ledger."""
    with psycopg.connect(using.database_url) as db:
        row = db.execute("SELECT count(*) FROM tasks WHERE state = 'succeeded'").fetchone()
    if row != (expected,):
        message = f"the ledger has {row} tasks that succeeded, expected {expected}"
        raise AssertionError(message)


if __name__ == "__main__":
    main()
