"""The plans of the statements that run all day, made while the tables are empty and when they are large."""

import re
from collections.abc import Iterator
from itertools import count
from typing import Any, cast

import pytest

from ledger import attempts, fold, queues, retention, tasks, unfinished
from ledger.connect import Connection, connect

BY_KEY = {
    "queue": tasks.QUEUE,
    "fail": tasks.FAIL,
    "cancel": tasks.CANCEL,
    "cancel attempts": tasks.CANCEL_ATTEMPTS,
    "held of": tasks.HELD_OF,
    "fates": tasks.FATE,
    "claim": attempts.CLAIM,
    "spent": attempts.SPENT,
    "renew": attempts.RENEW,
    "finish": attempts.FINISH,
    "finish late": attempts.FINISH_LATE,
    "finished": attempts.FINISHED,
    "called off": attempts.CALLED_OFF,
    "release": unfinished.RELEASE,
    "hand back": unfinished.HAND_BACK,
    "texts of": retention.DUE,
    "remove texts": retention.EMPTY_TASKS,
    "remove answers": retention.EMPTY_ATTEMPTS,
}
"""They find their rows by the keys that they are given."""

LATELY = {"recent calls": fold.RECENT_CALLS, "calls since": fold.CALLS_SINCE}
"""They read what ended since a moment."""

OPEN = {
    "accept": tasks.ACCEPT,
    "profiles with text": retention.PROFILES,
    "held": tasks.HELD,
    "unclaimed": tasks.UNCLAIMED,
    "claimed": attempts.CLAIMED,
    "still open": fold.OPEN,
    "any expired": unfinished.ANY_EXPIRED,
    "lose": unfinished.LOSE,
    "queues": queues.QUEUES,
}
"""They read nothing, or all that is open: an index has just that. `profiles` reads an entry of its index."""

OF_WHAT_IS_OPEN = re.compile(r"tasks_open|tasks_with_text|attempts\w*_task_id_number_idx")

FINISHED = """
    WITH made AS (
        INSERT INTO tasks (id, state, agent, priority, needs, envelope, attempts, accepted_at, finished_at)
        SELECT gen_random_uuid(), 'succeeded', 'default', 0, '{}', '{}', 1, at, at
          FROM generate_series(now() - interval '4000 minutes', now(), '1 minute') AS past (at)
        RETURNING id, accepted_at
    )
    INSERT INTO attempts (task_id, number, agent, model, tier, queue, epoch, passed_over, reserved_usd,
                          reserved_tokens, queued_at, worker, claimed_at, lease_until, finished_at, outcome,
                          prompt_tokens, completion_tokens)
    SELECT id, 1, 'default', 'echo', 'local', 'echo.echo', 1, '[]', 0,
           0, accepted_at, 'w', accepted_at, accepted_at, accepted_at, 'succeeded',
           1, 1
      FROM made
"""


@pytest.fixture(params=["empty", "large"])
def db(request: pytest.FixtureRequest, db_url: str) -> Iterator[Connection]:
    with connect(db_url, name="test", by_key=True) as connection:
        if request.param == "large":
            connection.execute(FINISHED)
            connection.execute("VACUUM ANALYZE tasks, attempts")
        yield connection


@pytest.mark.parametrize("name", [*BY_KEY, *LATELY, *OPEN])
def test_what_a_statement_costs_does_not_grow_with_the_past(db: Connection, name: str):
    """One that reads a whole table, or all that waits, gets slower with every task."""
    scans = [node for node in plan(db, {**BY_KEY, **LATELY, **OPEN}[name]) if "Scan" in node["Node Type"]]
    of_tables = [node for node in scans if node.get("Relation Name", "").startswith(("tasks", "attempts"))]
    by_index = [node for node in scans if node.get("Index Name", "").startswith(("tasks", "attempts"))]

    assert bool(by_index) == (name != "accept")
    assert not [node for node in of_tables if node["Node Type"] == "Seq Scan"]
    whole = [node["Index Name"] for node in by_index if "Index Cond" not in node]
    assert not [index for index in whole if name not in OPEN or not OF_WHAT_IS_OPEN.fullmatch(index)]


def plan(db: Connection, statement: str) -> list[dict[str, Any]]:
    """List the nodes of a statement's generic plan, in which no partition is ruled out yet."""
    numbers = count(1)
    names = {name: f"${next(numbers)}" for name in dict.fromkeys(re.findall(r"%\((\w+)\)s", statement))}
    numbered = re.sub(r"%\((\w+)\)s", lambda found: names[found[1]], statement)
    rows = db.execute(cast("Any", f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {numbered}")).fetchall()
    return nodes(rows[0][0][0]["Plan"])


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """List a plan's nodes, itself first."""
    return [plan, *(node for part in plan.get("Plans", []) for node in nodes(part))]
