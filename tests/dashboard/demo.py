"""A ledger with a month behind it, made up: for pages that have something to show."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

from ledger import partitions, rollup
from ledger.connect import Connection

TASKS = 6000

DAYS = 30

FILL = """
    WITH chance AS (
        SELECT n, md5('task ' || n)::uuid AS id, random() AS of_day, random() AS of_model, random() AS of_end,
               random() AS of_size, random() AS of_wait,
               (ARRAY['social', 'quick', 'triage', 'analysis', 'code', 'creative', 'heartbeat'])
                   [1 + floor(random() * 7)] AS profile,
               (ARRAY['newsroom', 'newsroom', 'devsecops', 'trader', 'orchestrator', 'archivist'])
                   [1 + floor(random() * 6)] AS agent
          FROM generate_series(1, %(tasks)s) AS numbers (n)
    ), kinds AS (
        SELECT *,
               %(now)s - of_day * %(days)s * interval '1 day'
                   + (sin((of_day * %(days)s + 0.2) * 2 * pi()) - 1) * interval '3 hours' AS at,
               CASE WHEN of_model < 0.24 THEN 'smollm2'
                    WHEN of_model < 0.52 THEN 'qwen3-next-free'
                    WHEN of_model < 0.74 THEN 'gpt-oss-free'
                    WHEN of_model < 0.86 THEN 'nemotron-free'
                    ELSE 'kimi-k2.6' END AS model,
               CASE WHEN of_model < 0.24 THEN 'local' WHEN of_model < 0.86 THEN 'free'
                    ELSE 'paid' END AS tier,
               CASE WHEN of_end < 0.95 THEN 'succeeded' WHEN of_end < 0.98 THEN 'failed'
                    ELSE 'cancelled' END AS state,
               CASE WHEN of_model BETWEEN 0.7 AND 0.95 THEN 2 ELSE 1 END AS attempts,
               1 + 20 * of_wait ^ 6 AS wait_s, 1 + 9 * of_size AS run_s,
               100 + round(3000 * of_size ^ 2) AS prompt_tokens,
               20 + round(600 * of_size) AS completion_tokens
          FROM chance
    ), made AS (
        INSERT INTO tasks (id, state, profile, agent, priority, needs, request, envelope, attempts,
                           accepted_at, finished_at, error, is_cancelled)
        SELECT id, state, profile, agent, 0,
               jsonb_build_object('prompt_tokens', prompt_tokens, 'max_tokens', 1024, 'patience_s', 60),
               %(request)s, '{}', attempts, at, at + (wait_s * attempts + run_s) * interval '1 s',
               CASE state WHEN 'failed' THEN %(error)s::jsonb END, state = 'cancelled'
          FROM kinds
    )
    INSERT INTO attempts (task_id, number, profile, agent, model, tier, queue, epoch, passed_over,
                          reserved_usd, reserved_tokens, queued_at, worker, claimed_at, lease_until,
                          finished_at, outcome, prompt_tokens, completion_tokens, cost_usd, first_token_s,
                          error, answer)
    SELECT id, number, profile, agent, model, tier, CASE tier WHEN 'local' THEN 'cpu.smollm2'
                                                             WHEN 'free' THEN 'free.openrouter'
                                                             ELSE 'paid.moonshot' END, 7,
           %(passed_over)s, 0.01,
           4000, at + (number * wait_s - 0.9) * interval '1 s', tier || '@mac-mini',
           at + number * wait_s * interval '1 s', at + interval '1 h',
           at + (number * wait_s + CASE WHEN number = attempts THEN run_s ELSE 0.4 END) * interval '1 s',
           outcome, CASE WHEN outcome = 'succeeded' THEN prompt_tokens END,
           CASE WHEN outcome = 'succeeded' THEN completion_tokens END,
           CASE WHEN tier = 'paid' AND outcome = 'succeeded'
                THEN prompt_tokens * 0.00000095 + completion_tokens * 0.000004 ELSE 0 END,
           CASE WHEN outcome = 'succeeded' THEN 0.3 + of_wait END,
           CASE WHEN outcome = 'failed' THEN %(error)s::jsonb END,
           CASE WHEN outcome = 'succeeded' THEN %(answer)s::jsonb END
      FROM kinds,
           generate_series(1, 2) AS numbers (number),
           LATERAL (SELECT CASE WHEN number < attempts THEN 'failed' ELSE state END AS outcome) AS ends
     WHERE number <= attempts
"""

WORKERS = """
    INSERT INTO workers (name, host, pid, slots, memory_bytes, started_at, seen_at)
    VALUES ('cpu-411@mac-mini', 'mac-mini', 411, '{"cpu.smollm2": 4}', 612000000,
            now() - interval '9 hours', now() + interval '1 hour'),
           ('free-412@mac-mini', 'mac-mini', 412, '{"free.openrouter": 20}', 184000000,
            now() - interval '9 hours', now() + interval '1 hour'),
           ('paid-413@mac-mini', 'mac-mini', 413, '{"paid.moonshot": 8}', 179000000,
            now() - interval '9 hours', now() + interval '1 hour'),
           ('cpu-97@old-laptop', 'old-laptop', 97, '{"cpu.smollm2": 2}', 540000000,
            now() - interval '3 days', now() - interval '7 minutes')
"""

LEAD = """
    UPDATE leadership
       SET epoch = 7, holder = 'dispatcher@mac-mini:402', lease_until = now() + interval '1 hour'
"""

LATEST_WITH_TWO = """
    SELECT id FROM tasks WHERE state = 'succeeded' AND attempts = 2 ORDER BY accepted_at DESC LIMIT 1
"""

REQUEST = {
    "messages": [
        {"role": "system", "content": "You write short posts for people who run their own servers."},
        {"role": "user", "content": "Write a post about today's release: tasks now wait for free models."},
    ],
    "max_tokens": 1024,
    "temperature": 0.8,
    "top_p": 1.0,
    "stop": [],
    "seed": None,
}

ANSWER = (
    "Patience pays. From today a task that is in no hurry waits for a free model, and pays only when it must."
)

PASSED_OVER = [["smollm2", "no free slot on queue cpu.smollm2"], ["glm-free", "retired"]]

ERROR = {
    "type": "RateLimitedError",
    "module": "workers.engines.errors",
    "args": [],
    "text": "openrouter answered 429: 20 requests a minute",
}


def fill(db: Connection) -> UUID:
    """Make up a month of tasks, the workers that ran them, and one who leads.

    Returns:
        The id of a task of two attempts.
    """
    now = datetime.now(UTC)
    for month in sorted({(now - timedelta(days=day)).date().replace(day=1) for day in range(DAYS + 2)}):
        partitions.make(db, month)
    db.execute("SELECT setseed(0.5)")
    answer = {"message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
    texts = {"request": REQUEST, "answer": answer, "error": ERROR, "passed_over": PASSED_OVER}
    given = {name: json.dumps(text) for name, text in texts.items()}
    db.execute(FILL, {"tasks": TASKS, "days": DAYS, "now": now, **given})
    db.execute(WORKERS)
    db.execute(LEAD)
    rollup.recount(db)
    row = db.execute(LATEST_WITH_TWO).fetchone()
    if row is None:
        raise LookupError("no task of two attempts was made up")
    return row[0]
