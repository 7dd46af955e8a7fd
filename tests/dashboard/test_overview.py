"""What the overview adds up is what the attempts say, and what it warns of is so."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from config.catalog import load_catalog
from config.primary import primary_prices
from config.settings import SHIPPED_CONFIG
from dashboard.attention import concerns
from dashboard.pages.overview import ENDS, RANGES, TIERS, periods, tasks_ended, tokens_by_tier, zone_of
from ledger import leadership, usage
from ledger.connect import Connection
from tests.dashboard import demo
from workers.model_states import model_states
from workers.picture import SHOWN_S

TOKENS = """
    SELECT coalesce(sum(prompt_tokens + completion_tokens), 0)
      FROM attempts
     WHERE finished_at >= %(since)s
       AND tier = %(tier)s
"""

ENDED = "SELECT count(*) FROM tasks WHERE finished_at >= %(since)s AND state = %(state)s"

COST = "SELECT sum(cost_usd) FROM attempts WHERE finished_at >= date_trunc('hour', %(since)s, 'UTC')"


@pytest.fixture
def month(db: Connection) -> Connection:
    """Give a month of tasks."""
    demo.fill(db)
    return db


def one(db: Connection, query: str, **given: object) -> Decimal:
    row = db.execute(query.encode(), given).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("over", RANGES)
def test_the_columns_of_a_chart_add_up_to_the_ledger(month: Connection, over: str):
    """A column at the edge that is left out, or counted twice, is a day that nobody can explain."""
    now = datetime.now(UTC)

    tokens = tokens_by_tier(month, now, RANGES[over])
    ended = tasks_ended(month, now, RANGES[over])

    since = tokens.rows[0][0]
    assert len(tokens.rows) == RANGES[over].columns
    assert tokens.rows[-1][0] <= now < tokens.rows[-1][0] + RANGES[over].step
    for number, tier in enumerate(TIERS):
        drawn = sum(values[number] for _, values in tokens.rows)
        assert drawn == one(month, TOKENS, since=since, tier=tier), tier
    for number, state in enumerate(ENDS):
        drawn = sum(values[number] for _, values in ended.rows)
        assert drawn == one(month, ENDED, since=since, state=state), state
    assert all(any(column) for column in zip(*(values for _, values in ended.rows), strict=True))


def test_what_was_spent_is_what_the_attempts_cost_to_the_last_digit(month: Connection):
    """A sum that is a cent off is one that nobody trusts."""
    now, zone = datetime.now(UTC), ZoneInfo("America/New_York")
    prices = primary_prices(load_catalog(SHIPPED_CONFIG))

    today, week, days_30 = periods(month, now, zone, prices)

    midnight = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    begins = ((today, midnight), (week, now - timedelta(days=7)), (days_30, now - timedelta(days=30)))
    for period, since in begins:
        if period.total is not None:
            assert period.total.cost_usd == one(month, COST, since=since), period.name
            assert period.total.saved_usd == (period.total.primary_usd or 0) - period.total.cost_usd


def test_what_needs_attention_is_said_worst_first(month: Connection):
    """A worker that died at night is the first thing to see in the morning."""
    catalog = load_catalog(SHIPPED_CONFIG)

    found = concerns(
        catalog,
        model_states(month, catalog),
        usage.workers(month, SHOWN_S),
        leadership.current(month),
        usage.open_tasks(month),
        paused={"heartbeat": "its last 5 runs failed", "gone": "no entry of this name is left"},
    )

    texts = [each.text for each in found]
    assert found[0].level == "bad"
    assert "cpu-97@old-laptop was last seen 7 min ago" in texts[0]
    assert any(text.startswith("kimi is retired, kimi-k2.6 answers instead") for text in texts)
    assert [text for text in texts if "Schedule" in text] == [
        "Schedule heartbeat is paused: its last 5 runs failed"
    ]
    month.execute("UPDATE leadership SET lease_until = now() - interval '1 min'")
    without = concerns(catalog, [], [], leadership.current(month), usage.open_tasks(month), paused={})
    assert [each.text.partition(",")[0] for each in without] == [
        "No dispatcher leads",
        "No worker is there",
    ]


@pytest.mark.parametrize("name", ["", "Nowhere/Nothing", "../../etc/passwd", "\x00", "x" * 5000, None])
def test_a_zone_that_is_none_is_utc(name: str | None):
    """It comes in a cookie, which anybody can write."""
    assert zone_of(name).key == "UTC"
