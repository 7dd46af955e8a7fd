"""Looking through tasks: every one once, newest first, and never all of them at once."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from ledger import browse
from ledger.browse import Filter, ListedTask
from ledger.connect import Connection

NOW = datetime.now(UTC).replace(microsecond=0)

FILL = """
    WITH made AS (
        INSERT INTO tasks (id, state, profile, agent, priority, needs, envelope, attempts, accepted_at,
                           finished_at, error)
        SELECT gen_random_uuid(), CASE WHEN mod(n, 7) = 0 THEN 'failed' ELSE 'succeeded' END,
               CASE WHEN mod(n, 2) = 0 THEN 'social' ELSE 'code' END, 'agent ' || mod(n, 3), 0, '{}', '{}', 2,
               at, at + interval '9 s',
               CASE WHEN mod(n, 7) = 0
                    THEN '{"type": "EngineError", "text": "It said 100%% No"}'::jsonb END
          FROM generate_series(1, %(count)s) AS numbers (n),
               LATERAL (SELECT %(now)s - n / 3 * interval '1 hour' AS at) AS moments
        RETURNING id, accepted_at, state
    )
    INSERT INTO attempts (task_id, number, agent, model, tier, queue, epoch, passed_over, reserved_usd,
                          reserved_tokens, queued_at, worker, claimed_at, lease_until, finished_at, outcome,
                          prompt_tokens, completion_tokens, cost_usd)
    SELECT id, number, 'a', CASE number WHEN 1 THEN 'trinity' ELSE 'kimi' END,
           CASE number WHEN 1 THEN 'free' ELSE 'paid' END, 'q', 1, '[]', 0,
           0, at, 'w', at, at, at + interval '1 s',
           CASE WHEN number = 2 AND state = 'succeeded' THEN 'succeeded' ELSE 'failed' END,
           10, 5, CASE number WHEN 1 THEN 0 ELSE 0.25 END
      FROM made, generate_series(1, 2) AS numbers (number),
           LATERAL (SELECT accepted_at + number * interval '1 s' AS at) AS moments
"""


def all_pages(db: Connection, wanted: Filter, rows: int = 10) -> list[ListedTask]:
    found: list[ListedTask] = []
    before = None
    while True:
        listed = browse.page(db, wanted, before, rows)
        found += listed.tasks
        before = listed.older
        if before is None:
            return found


def ids(db: Connection, where: Any) -> list[UUID]:
    query = f"SELECT id FROM tasks WHERE {where} ORDER BY accepted_at DESC, id DESC"
    return [row[0] for row in db.execute(query.encode())]


@pytest.fixture
def filled(db: Connection) -> Connection:
    """Fill a ledger with tasks of which three each were accepted at the very same moment."""
    db.execute(FILL, {"now": NOW, "count": 100})
    return db


@pytest.mark.parametrize(
    ("wanted", "where"),
    [
        (Filter(), "true"),
        (Filter(state="failed"), "state = 'failed'"),
        (Filter(profile="social", agent="agent 1"), "profile = 'social' AND agent = 'agent 1'"),
        (Filter(model="kimi", tier="paid"), "true"),
        (Filter(model="trinity"), "false"),
        (Filter(error="100% no"), "state = 'failed'"),
        (Filter(error="100_ no"), "false"),
        pytest.param(
            Filter(since=NOW - timedelta(hours=20), until=NOW - timedelta(hours=10)),
            f"accepted_at >= '{NOW - timedelta(hours=20)}' AND accepted_at < '{NOW - timedelta(hours=10)}'",
            id="a time",
        ),
    ],
)
def test_all_pages_together_have_every_task_once(filled: Connection, wanted: Filter, where: str):
    """A task between two pages is one that nobody finds."""
    expected = ids(filled, where)

    assert [task.id for task in all_pages(filled, wanted)] == expected
    assert [task.id for task in all_pages(filled, wanted, rows=1000)] == expected


def test_a_page_goes_on_where_the_last_one_ended_though_tasks_came_in_between(filled: Connection):
    """With OFFSET the list would move on under the reader, and show the same tasks twice."""
    first = browse.page(filled, Filter(), None, 10)
    filled.execute(FILL, {"now": NOW + timedelta(days=1), "count": 5})

    second = browse.page(filled, Filter(), first.older, 10)

    assert not {task.id for task in first.tasks} & {task.id for task in second.tasks}
    assert [task.id for task in first.tasks + second.tasks] == ids(filled, f"accepted_at <= '{NOW}'")[:20]


def test_a_task_has_its_last_model_and_what_all_attempts_took(filled: Connection):
    """The free model that failed first cost nothing; the tokens were used all the same."""
    task = browse.page(filled, Filter(state="succeeded"), None, 1).tasks[0]

    assert (task.model, task.tier, task.attempts) == ("kimi", "paid", 2)
    assert task.tokens == 30
    assert task.cost_usd is not None
    assert float(task.cost_usd) == 0.25


def test_a_rare_filter_looks_at_so_many_tasks_and_says_how_far_it_came(
    filled: Connection, monkeypatch: pytest.MonkeyPatch
):
    """A name that nobody uses would else read ten million tasks before it says so."""
    monkeypatch.setattr(browse, "MOST_LOOKED_AT", 30)

    listed = browse.page(filled, Filter(profile="nobody's"), None, 10)

    assert listed.tasks == []
    assert listed.looked_back_to == NOW - timedelta(hours=10)
    assert len(all_pages(filled, Filter(profile="code"))) == 50


def test_what_is_open_is_found_however_old_it_is(filled: Connection, monkeypatch: pytest.MonkeyPatch):
    """The task that waits since weeks is the one that is looked for."""
    monkeypatch.setattr(browse, "MOST_LOOKED_AT", 30)
    old = ids(filled, "true")[-1]
    filled.execute("UPDATE tasks SET state = 'held', finished_at = NULL, error = NULL WHERE id = %s", (old,))

    assert [task.id for task in browse.page(filled, Filter(state="held"), None, 10).tasks] == [old]


@pytest.mark.parametrize("query", [browse.PAGE, browse.PAGE_OF_OPEN, browse.LAST_LOOKED_AT])
def test_a_page_reads_along_indexes(filled: Connection, query: Any):
    """A page that sorts all tasks to show fifty takes seconds from the fleet, every two seconds."""
    filled.execute("SET enable_seqscan = off")
    given = {
        **vars(Filter(profile="code", error="x")),
        "before_at": NOW,
        "before_id": UUID(int=0),
        "most": 5000,
        "rows": 51,
    }

    steps = "\n".join(row[0] for row in filled.execute(f"EXPLAIN {query}".encode(), given))

    assert "Seq Scan" not in steps
    assert "tasks_by_acceptance" in steps or "tasks_open" in steps
