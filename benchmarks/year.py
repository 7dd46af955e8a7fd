"""A ledger with a past of twelve months, as large as it is asked for: what the benchmarks of pages read.

Twelve agents with two profiles each, every profile on two of ten models of the shipped catalog; most
attempts succeed, some fail, are rejected, lost, cancelled or of unknown price. Each task has one attempt. The
last months have their texts, the rest has lost them to retention. The same count gives the same rows, but for
ids and times.

    python -m benchmarks.year postgresql:///fleet --attempts 10000000
"""

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from itertools import pairwise

from ledger import partitions, rollup
from ledger.connect import Connection, connect
from ledger.migrate import migrate

MONTHS = 12

SIDES = 2
"""Connections that fill at the same time."""

FAST = "SET synchronous_commit = off; SET session_replication_role = replica"
"""The second one: without looking up the task of every attempt; needs a superuser."""

FILL = """
    WITH kinds (agent, profile, model, tier, queue, in_usd, out_usd) AS (
        SELECT 'agent-' || agent,
               (ARRAY['social', 'code', 'creative', 'analysis', 'routing'])[1 + (agent + profile) %% 5],
               models.name, models.tier, models.queue, models.in_usd, models.out_usd
          FROM generate_series(0, 11) AS agents (agent),
               generate_series(0, 1) AS profiles (profile),
               generate_series(0, 1) AS choices (choice),
               LATERAL (SELECT *
                          FROM (VALUES (0, 'trinity-free', 'free', 'free.openrouter', 0, 0),
                                       (1, 'qwen3-coder-free', 'free', 'free.openrouter', 0, 0),
                                       (2, 'kimi-k2.6', 'paid', 'paid.moonshot', 0.95, 4),
                                       (3, 'qwen3-mlx', 'local', 'mlx.qwen3-mlx', 0, 0),
                                       (4, 'glm-free', 'free', 'free.openrouter', 0, 0),
                                       (5, 'smollm2', 'local', 'cpu.smollm2', 0, 0),
                                       (6, 'gpt-oss-free', 'free', 'free.openrouter', 0, 0),
                                       (7, 'qwen3-next-free', 'free', 'free.openrouter', 0, 0),
                                       (8, 'deepseek-free', 'free', 'free.openrouter', 0, 0),
                                       (9, 'kimi', 'paid', 'paid.moonshot', 0.56, 2.94)
                               ) AS known (place, name, tier, queue, in_usd, out_usd)
                         WHERE place = (agent * 7 + profile * 3 + choice) %% 10) AS models
    ), numbered AS MATERIALIZED (
        SELECT row_number() OVER () - 1 AS kind, * FROM kinds
    ), made AS MATERIALIZED (
        SELECT uuidv7(at - clock_timestamp()) AS id, number, at,
               100 + abs(hashint8(number)::bigint) %% 3000 AS prompt,
               20 + abs(hashint8(number + 1)::bigint) %% 900 AS completion,
               abs(hashint8(number + 2)::bigint) %% 1000 AS luck,
               numbered.*
          FROM (SELECT number,
                       %(first)s::timestamptz + %(length)s::interval * (number + 0.5) / %(count)s AS at
                  FROM generate_series(0, %(count)s - 1) AS numbers (number)) AS moments
          JOIN numbered ON kind = abs(hashint8(number + 3)::bigint) %% 48
    ), ended AS MATERIALIZED (
        SELECT *,
               CASE WHEN luck < 940 THEN 'succeeded' WHEN luck < 975 THEN 'failed'
                    WHEN luck < 985 THEN 'rejected' WHEN luck < 990 THEN 'lost'
                    ELSE 'cancelled' END AS outcome,
               at + make_interval(secs => 0.2 + number %% 40) AS claimed_at,
               at + make_interval(secs => 0.2 + number %% 40 + completion / 50.0) AS finished_at,
               at > %(with_text_from)s AS has_text
          FROM made
    ), tasks AS (
        INSERT INTO tasks (id, state, profile, agent, priority, needs, request, envelope, attempts,
                           accepted_at, finished_at, error, is_cancelled, text_removed_at)
        SELECT id, CASE WHEN outcome IN ('succeeded', 'cancelled') THEN outcome ELSE 'failed' END,
               profile, agent, 0, jsonb_build_object('prompt_tokens', prompt, 'max_tokens', 1024),
               CASE WHEN has_text
                    THEN jsonb_build_object('messages', jsonb_build_array(jsonb_build_object(
                             'role', 'user', 'content', 'What happened in step ' || number || '?'))) END,
               '{}', 1, at, finished_at,
               CASE WHEN outcome NOT IN ('succeeded', 'cancelled')
                    THEN jsonb_build_object('type', 'ProviderError', 'module', 'workers.engines.errors',
                             'args', jsonb_build_array(model, 'it says no for the ' || number || 'th time'),
                             'text', model || ' says no for the ' || number || 'th time') END,
               outcome = 'cancelled', CASE WHEN NOT has_text THEN finished_at END
          FROM ended
    )
    INSERT INTO attempts (task_id, number, profile, agent, model, tier, queue, epoch, passed_over,
                          reserved_usd, reserved_tokens, queued_at, worker, claimed_at, lease_until,
                          finished_at, outcome, prompt_tokens, cached_tokens, completion_tokens, cost_usd,
                          first_token_s, error, answer)
    SELECT id, 1, profile, agent, model, tier, queue, 1, '[["qwen3-mlx", "no live worker"]]',
           tier_usd, prompt + 1024, at, queue || '@host', claimed_at, finished_at,
           finished_at, outcome,
           CASE WHEN outcome <> 'lost' THEN prompt END, 0, CASE WHEN outcome <> 'lost' THEN completion END,
           CASE WHEN luck = 7 AND tier = 'paid' THEN NULL ELSE tier_usd END,
           0.3, CASE WHEN outcome IN ('failed', 'rejected') THEN '{"type": "ProviderError"}'::jsonb END,
           CASE WHEN has_text AND outcome = 'succeeded'
                THEN jsonb_build_object('message', jsonb_build_object(
                         'role', 'assistant', 'content', 'It is done, for the ' || number || 'th time.'),
                         'finish_reason', 'stop') END
      FROM (SELECT *, ((prompt * in_usd + completion * out_usd) / 1000000)::numeric(18,9) AS tier_usd
              FROM ended) AS priced
"""


def grow(database_url: str, count: int) -> None:
    """Insert about `count` old tasks and attempts into a migrated ledger, the newest of them an hour old."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    months = last_months(now.date())
    with connect(database_url, name="grow") as db:
        for first in months:
            partitions.make(db, first)
    spans = [
        (partitions.midnight(first), min(partitions.midnight(following), now))
        for first, following in pairwise(months)
    ]
    length = sum((end - begin).total_seconds() for begin, end in spans)

    def fill(mine: Sequence[tuple[datetime, datetime]]) -> None:
        with connect(database_url, name="grow") as db:
            db.execute(FAST)
            for begin, end in mine:
                share = max(1, round(count * (end - begin).total_seconds() / length))
                told = {"first": begin, "length": end - begin, "count": share, "with_text_from": months[-2]}
                db.execute(FILL, told)

    with ThreadPoolExecutor(SIDES) as pool:
        list(pool.map(fill, [spans[side::SIDES] for side in range(SIDES)]))
    with connect(database_url, name="grow") as db:
        settle(db)


def settle(db: Connection) -> None:
    """Leave the ledger as one that has always been used: summed up, with statistics, all of it on disk."""
    rollup.recount(db)
    db.execute("VACUUM ANALYZE")
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
    """Fill a database that is named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("database_url")
    parser.add_argument("--attempts", type=int, default=10_000_000)
    asked = parser.parse_args()
    migrate(asked.database_url)
    began = time.perf_counter()
    grow(asked.database_url, asked.attempts)
    print(f"{asked.attempts:,} attempts in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
