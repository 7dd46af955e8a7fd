"""What a task costs with a year of history behind it: the same drain, on a ledger with millions of attempts.

Two databases of one Postgres, one empty and one full, take turns. A fleet is started on one, drains, and is
stopped; then comes the other. The old attempts are those of `benchmarks.year`.
"""

import argparse
import os
import statistics
import time

import psycopg
from psycopg.sql import SQL, Identifier
from redis import Redis

from benchmarks.figures import Figure, report
from benchmarks.pipeline import drain, fill, processes, services
from benchmarks.year import MONTHS, grow
from ledger.migrate import migrate


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="300,000 old attempts, under a minute")
    quick = parser.parse_args().quick
    history, count, rounds = (300_000, 1500, 1) if quick else (5_000_000, 5000, 5)
    with services() as using, Redis.from_url(using.redis_url) as redis:
        from workers.tasks import complete  # noqa: PLC0415 - reads the settings that `services` made

        def drained(database_url: str) -> float:
            os.environ["FLEET_DATABASE_URL"] = database_url
            with processes(
                ("workers.cli", "dispatcher"),
                ("workers.cli", "worker", "echo", "--model", "echo"),
                ("workers.cli", "worker", "echo", "--model", "echo"),
            ) as fleet:
                for _ in range(50):
                    complete.delay("warm", profile="social").get(timeout=60)
                fill(fleet, [lambda n: complete.delay(f"number {n}", profile="social")], count)
                return drain(redis, fleet, count)

        began = time.perf_counter()
        full_url = using.database_url.replace("///fleet?", "///aged?")
        with psycopg.connect(using.database_url, autocommit=True) as db:
            db.execute(SQL("CREATE DATABASE {}").format(Identifier("aged")))
        migrate(full_url)
        grow(full_url, history)
        filled_s = time.perf_counter() - began
        empty_rates: list[float] = []
        full_rates: list[float] = []
        for number in range(rounds):
            pair = [(using.database_url, empty_rates), (full_url, full_rates)]
            for url, rates in pair if number % 2 == 0 else reversed(pair):
                rates.append(drained(url))
    empty, full = statistics.median(empty_rates), statistics.median(full_rates)
    report(
        f"the drain with {history:,} old attempts; {rounds} x {count} tasks, medians",
        [
            ("old attempts inserted in", f"{filled_s:.0f} s"),
            ("drain, empty ledger", f"{empty:.0f} tasks/s"),
            (f"drain, {history:,} old attempts in {MONTHS} months", f"{full:.0f} tasks/s"),
        ],
        [Figure("pipeline.history_ratio", full / empty, 0.9, "x")],
    )


if __name__ == "__main__":
    main()
