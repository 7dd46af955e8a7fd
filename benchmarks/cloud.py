"""What a call of a provider costs through the whole fleet: against litellm's own Router, in the same run.

The fleet enqueues, decides, claims, streams, and writes every attempt to Postgres with fsync on; the Router
keeps nothing. Both ask the same provider on this machine. Of the fleet all processes count: the caller, the
dispatcher, two workers, Redis and Postgres.
"""

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Self

import psutil
import psycopg

from benchmarks.figures import Figure, report
from benchmarks.pipeline import processes, send_to_all, services
from benchmarks.plain_router import PROMPT
from config.settings import Settings
from routing.health import FIRST_PAUSE_S, JITTER
from tests.provider import FAULTS, Provider

ROOT = Path(__file__).parents[1]
DELAY_S = 0.5
SLOTS = 100
"""In each of two workers."""
IDEAL_PER_S = 2 * SLOTS / DELAY_S
LIMIT_S = 120

MODELS = """
providers:
  fast: {{api_key_env: BENCHMARK_KEY, api_base: "http://127.0.0.1:{fast}/v1"}}
  slow: {{api_key_env: BENCHMARK_KEY, api_base: "http://127.0.0.1:{slow}/v1"}}
  flaky: {{api_base: "http://127.0.0.1:{flaky}/v1"}}
models:
  fast: {{tier: paid, engine: cloud, provider: fast, upstream: up, context_tokens: 8192, prices: [{price}]}}
  slow: {{tier: paid, engine: cloud, provider: slow, upstream: up, context_tokens: 8192, prices: [{price}]}}
  flaky: {{tier: paid, engine: cloud, provider: flaky, upstream: up, context_tokens: 8192, prices: [{price}]}}
"""
PRICE = (
    "{input_usd_per_mtok: 1, output_usd_per_mtok: 2, since: 2026-01-01, source: x, checked_on: 2026-01-01}"
)

PROFILES = """
profiles:
  fast: {model: fast, fallbacks: [], temperature: 0, max_tokens: 50, prompt: Hello.}
  slow: {model: slow, fallbacks: [], temperature: 0, max_tokens: 50, prompt: Hello.}
  flaky: {model: flaky, fallbacks: [], temperature: 0, max_tokens: 50, prompt: Hello.}
routing: {primary: fast}
"""


def write_catalog(home: Path, ports: dict[str, int]) -> Path:
    """Write a catalog with providers on these ports."""
    config = home / "config"
    config.mkdir()
    (config / "models.yaml").write_text(MODELS.format(price=PRICE, **ports))
    (config / "profiles.yaml").write_text(PROFILES)
    (config / "schedule.yaml").write_text("schedule: {}\n")
    os.environ["BENCHMARK_KEY"] = "made-up"
    return config


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def cpu_s(roots: Sequence[psutil.Process]) -> float:
    """Add up the processor time of processes and all below them, those that have ended included."""
    every = {process for root in roots for process in (root, *root.children(recursive=True))}
    used_s = 0.0
    for process in every:
        with suppress(psutil.NoSuchProcess):  # what it used is its parent's then
            used_s += sum(process.cpu_times()[:4])
    return used_s


def drain(using: Settings, profile: str, count: int, workers: Sequence[subprocess.Popen[bytes]] = ()) -> None:
    """Enqueue tasks, while these workers stand still, and wait until all are answered."""
    from workers.tasks import complete  # noqa: PLC0415 - reads the settings that `services` made

    with psycopg.connect(using.database_url, autocommit=True) as db:
        before, began = answered(db), time.perf_counter()
        send_to_all(workers, signal.SIGSTOP)
        for _ in range(count):
            complete.delay(PROMPT, profile=profile)
        send_to_all(workers, signal.SIGCONT)
        while answered(db) < before + count:
            if time.perf_counter() - began > LIMIT_S:
                message = f"only {answered(db) - before} of {count} tasks were done in {LIMIT_S} s"
                raise TimeoutError(message)
            time.sleep(0.2)


def answered(db: psycopg.Connection) -> int:
    row = db.execute("SELECT count(*) FROM tasks WHERE state = 'succeeded'").fetchone()
    return row[0] if row else 0


class Peer:
    """litellm's Router, in a process of its own."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, "-m", "benchmarks.plain_router", url]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def calls_per_cpu_s(self, calls: int, how: str) -> float:
        """Make calls; the first ones cost more."""
        writing, reading = self.process.stdin, self.process.stdout
        if writing is None or reading is None:
            raise BrokenPipeError
        writing.write(f"{calls} {how}\n")
        writing.flush()
        while not (line := reading.readline().strip()).replace(".", "").isdecimal():
            if self.process.poll() is not None:
                raise ChildProcessError(line)
        return float(line)


def steady_rate(using: Settings) -> float:
    """Read how many a second were answered, between the first and the last tenth."""
    query = """
        SELECT finished_at FROM attempts WHERE model = 'slow' AND outcome = 'succeeded' ORDER BY finished_at
    """
    with psycopg.connect(using.database_url) as db:
        ends = [row[0] for row in db.execute(query)]
    middle = ends[len(ends) // 10 : -len(ends) // 10]
    return (len(middle) - 1) / (middle[-1] - middle[0]).total_seconds()


def recovery_s(provider: Provider) -> float:
    """Break a provider until its circuit opens, mend it, and time until it serves again."""
    from workers.tasks import complete  # noqa: PLC0415 - as above

    complete.delay(PROMPT, profile="flaky").get(timeout=LIMIT_S)
    provider.always(FAULTS["unavailable"])
    waiting = [complete.delay(PROMPT, profile="flaky") for _ in range(4)]
    before, end = 1, time.monotonic() + LIMIT_S
    while len(provider.books.served) < before + 3 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.2)
    provider.always(None)
    mended, served = time.monotonic(), len(provider.books.served)
    while len(provider.books.served) == served and time.monotonic() < end:
        time.sleep(0.01)
    took_s = provider.books.served[-1].at - mended
    for each in waiting:
        each.forget()
    return took_s


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer calls, under 50 s")
    quick = parser.parse_args().quick
    calls, rounds, flood = (150, 2, 1200) if quick else (1000, 5, 12000)
    ports = {"fast": free_port(), "slow": free_port()}
    with ExitStack() as stack:
        providers = stack.enter_context(
            processes(
                ("tests.provider", str(ports["fast"]), "0"),
                ("tests.provider", str(ports["slow"]), str(DELAY_S)),
            )
        )
        peer = stack.enter_context(Peer(f"http://127.0.0.1:{ports['fast']}/v1"))
        flaky = stack.enter_context(Provider("openai"))
        config = partial(write_catalog, ports={**ports, "flaky": flaky.port})
        using = stack.enter_context(services(config))
        fleet = stack.enter_context(
            processes(
                ("workers.cli", "dispatcher"),
                ("workers.cli", "worker", "paid", "--slots", str(SLOTS)),
                ("workers.cli", "worker", "paid", "--slots", str(SLOTS)),
            )
        )
        # All that this process has started but the providers and the peer: the fleet, Redis and Postgres.
        others = [psutil.Process(each.pid) for each in (*providers, peer.process)]
        drain(using, "fast", 50)
        peer.calls_per_cpu_s(20, "whole")
        peer.calls_per_cpu_s(20, "streamed")
        found: dict[str, list[float]] = {"fleet": [], "whole": [], "streamed": []}
        for _ in range(rounds):
            before = cpu_s([psutil.Process()]) - cpu_s(others)
            drain(using, "fast", calls)
            found["fleet"].append(calls / (cpu_s([psutil.Process()]) - cpu_s(others) - before))
            found["whole"].append(peer.calls_per_cpu_s(calls // 2, "whole"))
            found["streamed"].append(peer.calls_per_cpu_s(calls // 5, "streamed"))
        ours, whole, streamed = (statistics.median(each) for each in found.values())
        parts = {"workers": fleet[1:3], "dispatcher": fleet[:1], "provider": providers[1:]}
        watched = {name: [psutil.Process(each.pid) for each in part] for name, part in parts.items()}
        used = {name: -cpu_s(part) for name, part in watched.items()}
        drain(using, "slow", flood, fleet[1:3])
        used = {name: used[name] + cpu_s(part) for name, part in watched.items()}
        rate = steady_rate(using)
        recovered_s = recovery_s(flaky)
    interval_s = FIRST_PAUSE_S * (1 + JITTER)
    report(
        f"calls of a provider; {rounds} x {calls} answered at once, then {flood} in {DELAY_S:g} s each",
        [
            ("fleet, all its processes", f"{ours:.0f} calls per CPU-second"),
            ("litellm's Router", f"{whole:.0f} calls per CPU-second"),
            ("litellm's Router, streaming", f"{streamed:.0f} calls per CPU-second"),
            ("200 in flight, two workers", f"{rate:.0f}/s of {IDEAL_PER_S:.0f}/s"),
            *(
                (f"processor time of a call then, {name}", f"{s / flood * 1000:.2f} ms")
                for name, s in used.items()
            ),
            ("from recovery to the first call", f"{recovered_s:.1f} s"),
        ],
        [
            Figure("cloud.calls_per_cpu_s_vs_router", ours / whole, 1.0, "x"),
            Figure("cloud.rate_vs_ideal", rate / IDEAL_PER_S, 0.8, "x"),
            Figure("cloud.recovery_vs_probe_interval", recovered_s / interval_s, 1.0, "x", is_ceiling=True),
        ],
    )


if __name__ == "__main__":
    main()
