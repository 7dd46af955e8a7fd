"""What was spent, read from the sums, against plain SQL over the attempts."""

import random
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, LiteralString, get_args

import pytest
from psycopg.sql import SQL

from config.models import Price
from ledger import rollup
from ledger.connect import Connection
from ledger.spend import THE_END, By, PricePeriods, query_of, span, spend

NOW = datetime(2026, 11, 23, 18, 42, tzinfo=UTC)
TODAY = NOW.date()

ATTEMPT = """
    WITH made AS (
        INSERT INTO tasks (id, state, agent, priority, needs, envelope, accepted_at, finished_at)
        VALUES (gen_random_uuid(), 'succeeded', 'a', 0, '{}', '{}', %(at)s, %(at)s)
        RETURNING id
    )
    INSERT INTO attempts (task_id, number, profile, agent, model, tier, queue, epoch, passed_over,
                          reserved_usd, reserved_tokens, queued_at, worker, claimed_at, lease_until,
                          finished_at, outcome, prompt_tokens, cached_tokens, completion_tokens, cost_usd)
    SELECT id, 1, %(profile)s, %(agent)s, %(model)s, %(tier)s, 'q', 1, '[]',
           0.5, 100, %(at)s, 'w', %(at)s, %(at)s,
           %(at)s, %(outcome)s, %(prompt)s, %(cached)s, %(completion)s, %(cost)s
      FROM made
"""

PLAIN: LiteralString = """
    SELECT {key} count(*), count(*) - count(cost_usd), coalesce(sum(cost_usd), 0),
           sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens)
      FROM attempts
     WHERE finished_at >= %(since)s
       AND finished_at < %(until)s
"""

SUMS_OF_A_YEAR = """
    INSERT INTO spend_by_hour
    SELECT at, date_trunc('month', at)::date, 'social', 'default', 'model-' || model, 'free', 'succeeded',
           1, 1, 0, 0, 1, 0, 1, 0, 2, 1, 1
      FROM generate_series(timestamptz '2025-11-24', '2026-11-24', '1 hour') AS hours (at),
           generate_series(1, 5) AS models (model)
"""

IN_PLAIN_SQL: dict[str, LiteralString] = {
    "day": "(finished_at AT TIME ZONE 'UTC')::date",
    "hour": "date_trunc('hour', finished_at)",
}


def price(usd: str, since: date) -> Price:
    return Price(
        input_usd_per_mtok=Decimal(usd),
        output_usd_per_mtok=Decimal(usd),
        cached_input_usd_per_mtok=Decimal(0),
        since=since,
        source="test",
        checked_on=since,
    )


def attempt(db: Connection, at: datetime, **different: Any) -> None:
    usual: dict[str, Any] = {
        "profile": "social",
        "agent": "default",
        "model": "trinity-free",
        "tier": "free",
        "outcome": "succeeded",
        "prompt": 1000,
        "cached": 0,
        "completion": 500,
        "cost": Decimal(0),
    }
    db.execute(ATTEMPT, {"at": at, **usual, **different})


@pytest.fixture
def year(db: Connection) -> Connection:
    """Fill a ledger with attempts of a year, some of them in the sums and some not yet."""
    chance = random.Random(9)
    for number in range(400):
        if number == 300:
            rollup.recount(db)
        attempt(
            db,
            NOW - timedelta(seconds=chance.choice([3600, 86400 * 3, 86400 * 365]) * chance.random()),
            profile=chance.choice(["social", "code", None]),
            agent=chance.choice(["one", "two"]),
            model=chance.choice(["kimi", "trinity-free"]),
            tier=chance.choice(["paid", "free"]),
            outcome=chance.choice(["succeeded", "lost"]),
            prompt=chance.randrange(5000),
            cached=chance.choice([0, None]),
            cost=chance.choice([None, Decimal(chance.randrange(10**9)).scaleb(-9)]),
        )
    with db.transaction():
        db.execute(rollup.CORRECT, {"months": rollup.months(db)})
    return db


@pytest.mark.parametrize("since", [timedelta(hours=3), timedelta(days=7), timedelta(days=366)])
@pytest.mark.parametrize(
    "by", [(), *((name,) for name in get_args(By)), ("day", "tier"), ("agent", "profile")]
)
def test_spend_equals_a_plain_sum_over_the_attempts(year: Connection, since: timedelta, by: tuple[By, ...]):
    """Two figures for the same thing, and nobody believes either."""
    begin = (NOW - since).replace(minute=0, second=0)
    key = "".join(f"{IN_PLAIN_SQL.get(name, name)}, " for name in by)
    group = f"GROUP BY {key[:-2]} ORDER BY {key[:-2]}" if by else ""
    plain = year.execute(f"{PLAIN.format(key=key)} {group}", {"since": begin, "until": NOW}).fetchall()

    found = spend(year, NOW - since, by=by)

    assert [
        (
            *row.key,
            row.attempts,
            row.unpriced,
            row.cost_usd,
            row.prompt_tokens,
            row.cached_tokens,
            row.completion_tokens,
        )
        for row in found
    ] == [(*row[:-6], *(value or 0 for value in row[-6:])) for row in plain]


def test_a_time_that_ends_leaves_out_what_came_later(year: Connection):
    """The bill of a month that is over must not change."""
    since, until = NOW - timedelta(days=100), NOW - timedelta(days=2, hours=5)

    parts = [*spend(year, since, until), *spend(year, until)]

    assert sum(part.cost_usd for part in parts) == spend(year, since)[0].cost_usd
    assert spend(year, NOW + timedelta(days=1)) == []


def test_only_what_is_asked_for_counts(year: Connection):
    """A page of one agent, or of the tasks without a profile."""
    by_profile = {row.key[0]: row.cost_usd for row in spend(year, NOW - timedelta(days=366), by=["profile"])}

    for profile, cost in by_profile.items():
        (found,) = spend(year, NOW - timedelta(days=366), only={"profile": profile})
        assert found.cost_usd == cost


def test_days_are_those_of_the_zone(db: Connection):
    """Somebody in Auckland has had breakfast when the day begins in UTC."""
    attempt(db, datetime(2026, 11, 22, 12, tzinfo=UTC))
    rollup.recount(db)

    (found,) = spend(db, NOW - timedelta(days=7), by=["day"], zone="Pacific/Auckland")

    assert found.key == (date(2026, 11, 23),)


PRIMARY: PricePeriods = [
    (date.min, None),
    (date(2026, 11, 1), price("1", date(2026, 11, 1))),
    (date(2026, 11, 20), price("2", date(2026, 11, 20))),
]


def test_what_was_saved_is_measured_at_the_price_of_the_day(db: Connection):
    """A price that was raised last week does not make last month's savings larger."""
    attempt(db, datetime(2026, 11, 19, 23, tzinfo=UTC))
    attempt(db, datetime(2026, 11, 20, 0, tzinfo=UTC), cached=400)
    attempt(db, datetime(2026, 11, 20, 1, tzinfo=UTC), model="kimi", tier="paid", cost=Decimal("0.001"))
    attempt(db, datetime(2026, 11, 20, 1, tzinfo=UTC), outcome="failed", cost=Decimal("0.0005"))
    rollup.recount(db)

    (found,) = spend(db, datetime(2026, 11, 10, tzinfo=UTC), primary=PRIMARY)

    assert found.primary_usd == Decimal("0.0015") + Decimal("0.0022") + Decimal("0.003"), "answers only"
    assert found.saved_usd == Decimal("0.0067") - Decimal("0.0015")


def test_without_a_price_of_the_primary_nobody_knows_what_was_saved(db: Connection):
    """Before its first price the primary was not free."""
    attempt(db, datetime(2026, 10, 31, 23, tzinfo=UTC))
    attempt(db, datetime(2026, 11, 19, 23, tzinfo=UTC))
    rollup.recount(db)

    (both,) = spend(db, datetime(2026, 10, 1, tzinfo=UTC), primary=PRIMARY)
    (known,) = spend(db, datetime(2026, 11, 1, tzinfo=UTC), primary=PRIMARY)
    (unasked,) = spend(db, datetime(2026, 11, 1, tzinfo=UTC))

    assert (both.saved_usd, known.saved_usd, unasked.saved_usd) == (None, Decimal("0.0015"), None)


@pytest.mark.parametrize("since", [timedelta(days=7), timedelta(days=365)])
@pytest.mark.parametrize("by", [(), ("hour", "tier"), ("profile", "model", "tier", "agent", "day")])
def test_no_attempt_is_read(year: Connection, since: timedelta, by: tuple[By, ...]):
    """The page that read log rows is the one that hung."""
    rollup.fold(year)
    year.execute("VACUUM ANALYZE")
    asked = {**span(NOW - since, THE_END, is_by_hour="hour" in by), "zone": "UTC", "first_days": []}
    steps = [row[0] for row in year.execute(SQL("EXPLAIN ") + query_of(by, ()), asked)]

    read = {found for step in steps for found in re.findall(r" on (\w+)", step)}

    assert read == {"spend_by_hour", "spend_by_day", "spend_changes"}


def test_a_short_time_is_found_by_an_index(db: Connection):
    """Today is a page of the sums of years."""
    db.execute(SUMS_OF_A_YEAR)
    db.execute("VACUUM ANALYZE spend_by_hour")
    asked = {**span(NOW - timedelta(days=1), THE_END, is_by_hour=True), "zone": "UTC", "first_days": []}

    steps = "\n".join(row[0] for row in db.execute(SQL("EXPLAIN ") + query_of(("hour",), ()), asked))

    assert "Seq Scan on spend_by_hour" not in steps
    assert "spend_of_an_hour" in steps
