"""What a task costs with a year of history behind it: the same drain, on a ledger with millions of attempts.

Two databases of one Postgres, one empty and one full, take turns. A fleet is started on one, drains, and is
stopped; then comes the other. Old attempts are spread over twelve months, a row of `tasks` for each.
"""

import argparse
import os
import statistics
import time
from datetime import UTC, date, datetime
from itertools import pairwise

import psycopg
from psycopg.sql import SQL, Identifier
from redis import Redis

from benchmarks.figures import Figure, report
from benchmarks.pipeline import drain, fill, processes, services
from ledger import partitions
from ledger.connect import Connection, connect
from ledger.migrate import migrate

MONTHS = 12

FILL = """
    WITH made AS (
        INSERT INTO tasks (id, state, profile, agent, priority, needs, envelope, attempts, accepted_at,
                           finished_at, text_removed_at)
        SELECT uuidv7(at - clock_timestamp()), 'succeeded', 'social', 'default', 0,
               '{"prompt_tokens": 10, "max_tokens": 1024}', '{}', 1, at, at + interval '2 s', at
          FROM (SELECT %(first)s::timestamptz
                       + (%(next)s::timestamptz - %(first)s::timestamptz) * number / %(count)s AS at
                  FROM generate_series(0, %(count)s - 1) AS numbers (number)) AS moments
        RETURNING id, accepted_at, finished_at
    )
    INSERT INTO attempts (task_id, number, profile, agent, model, tier, queue, epoch, passed_over,
                          reserved_usd, reserved_tokens, queued_at, worker, claimed_at, lease_until,
                          finished_at, outcome, prompt_tokens, cached_tokens, completion_tokens, cost_usd,
                          first_token_s)
    SELECT id, 1, 'social', 'default', 'echo', 'local', 'echo.echo', 1, '[]',
           0, 1034, accepted_at, 'echo@host', accepted_at, finished_at,
           finished_at, 'succeeded', 10, 0, 10, 0,
           0.1
      FROM made
"""


def grow(db: Connection, count: int) -> None:
    """Insert old tasks and attempts, the newest of them an hour old."""
    db.execute("SET synchronous_commit = off")
    months = last_months(datetime.now(UTC).date())
    for first in months:
        partitions.make(db, first)
    for first, following in pairwise(months):
        end = min(partitions.midnight(following), datetime.now(UTC).replace(minute=0, second=0))
        db.execute(
            FILL, {"first": partitions.midnight(first), "next": end, "count": count // (len(months) - 1)}
        )
    db.execute("VACUUM ANALYZE tasks, attempts")
    db.execute("CHECKPOINT")


def last_months(today: date) -> list[date]:
    """List the first days of the last months, of this one and of the next."""
    months = [today.replace(day=1)]
    for _ in range(MONTHS - 1):
        before = months[0]
        months.insert(
            0, before.replace(year=before.year - (before.month == 1), month=(before.month - 2) % 12 + 1)
        )
    return [*months, partitions.following(months[-1])]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="300,000 old attempts, under a minute")
    quick = parser.parse_args().quick
    history, count, rounds = (300_000, 1500, 1) if quick else (5_000_000, 5000, 3)
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
        with connect(full_url, name="grow") as db:
            grow(db, history)
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
