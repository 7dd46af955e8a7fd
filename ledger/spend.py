"""What was spent, read from the sums of hours and days and never from the attempts; see `ledger.rollup`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal

from psycopg.sql import SQL, Composed, Identifier, Placeholder

from config.models import Price
from ledger.connect import Connection

By = Literal["profile", "model", "tier", "agent", "outcome", "day", "hour"]
Filter = Literal["profile", "model", "tier", "agent", "outcome"]

PricePeriods = Sequence[tuple[date, Price | None]]
"""(the first day, the price from then on), oldest first; None: no price is known."""

THE_END = datetime(9999, 1, 1, tzinfo=UTC)

DAY, NO_TIME = timedelta(days=1), timedelta(0)

GROUPED = SQL("""
    WITH parts AS (
        SELECT * FROM spend_by_day
         WHERE at >= %(first_day)s AND at < %(last_day)s
         UNION ALL
        SELECT * FROM spend_by_hour
         WHERE at >= %(since)s AND at < %(first_day)s
         UNION ALL
        SELECT * FROM spend_by_hour
         WHERE at >= %(last_day)s AND at < %(until)s
         UNION ALL
        SELECT * FROM spend_changes
         WHERE at >= %(since)s AND at < %(until)s
    )
    SELECT {key}
           width_bucket(at, %(first_days)s::timestamptz[]) AS period,
           sum(attempts)::bigint AS attempts,
           sum(calls)::bigint AS calls,
           coalesce(sum(attempts) FILTER (WHERE outcome = 'succeeded'), 0)::bigint AS succeeded,
           sum(unpriced)::bigint AS unpriced,
           sum(cost_usd) AS cost_usd,
           sum(prompt_tokens)::bigint AS prompt_tokens,
           sum(cached_tokens)::bigint AS cached_tokens,
           sum(completion_tokens)::bigint AS completion_tokens,
           sum(budget_usd) AS budget_usd,
           sum(budget_tokens)::bigint AS budget_tokens,
           sum(wait_ms)::float8 / 1000 AS waited_s,
           sum(run_ms)::float8 / 1000 AS ran_s,
           coalesce(sum(prompt_tokens) FILTER (WHERE outcome = 'succeeded'), 0)::bigint,
           coalesce(sum(completion_tokens) FILTER (WHERE outcome = 'succeeded'), 0)::bigint,
           coalesce(sum(cached_tokens) FILTER (WHERE outcome = 'succeeded'), 0)::bigint
      FROM parts
     WHERE {only}
     GROUP BY {names} period
    HAVING sum(attempts) <> 0
     ORDER BY {names} period
""")

TIMES = {"day": SQL("(at AT TIME ZONE %(zone)s)::date"), "hour": SQL("at")}


@dataclass(frozen=True)
class Spend:
    """What the attempts of one group used."""

    key: tuple[Any, ...]
    """Its values in the order asked for; a profile may be None, a day is a `date`, an hour a `datetime`."""
    attempts: int
    calls: int
    """Attempts that a worker began."""
    succeeded: int
    unpriced: int
    """Attempts of unknown price, which are not in `cost_usd`: unknown is not free."""
    cost_usd: Decimal
    prompt_tokens: int
    cached_tokens: int
    """Those of the prompts that were not computed again."""
    completion_tokens: int
    budget_usd: Decimal
    """What budgets count: calls of unknown cost as reserved."""
    budget_tokens: int
    waited_s: float
    """From plan to claim, all calls together."""
    ran_s: float
    """From claim to end, all calls together."""
    primary_usd: Decimal | None
    """What the answers would have cost on the paid primary; None: its price is not known."""

    @property
    def saved_usd(self) -> Decimal | None:
        """Tell what was saved against everything on the paid primary; below 0: it would have been cheaper."""
        return None if self.primary_usd is None else self.primary_usd - self.cost_usd

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


SUMS = [each.name for each in fields(Spend) if each.name not in ("key", "primary_usd")]


def spend(
    db: Connection,
    since: datetime,
    until: datetime = THE_END,
    *,
    by: Sequence[By] = (),
    only: Mapping[Filter, str | None] | None = None,
    primary: PricePeriods = (),
    zone: str = "UTC",
) -> list[Spend]:
    """Add up what the attempts used that ended in a time.

    Args:
        db: to read from.
        since: aware; hours are the grain, so it counts from the beginning of its hour, UTC.
        until: the same; its hour is not in.
        by: what makes a group.
        only: counts only what has these values.
        primary: the prices of the paid primary; `config.primary.primary_prices` makes them.
        zone: the name of the time zone whose days are meant by `day`. Only whole hours of UTC can be told
            apart.

    Returns:
        One row per group in which an attempt ended, in order of their keys (None last); without `by` one row,
        or none.
    """
    asked = {
        **span(since, until, is_by_hour="hour" in by or ("day" in by and zone != "UTC")),
        "zone": zone,
        "first_days": [datetime.combine(first, time(), UTC) for first, _ in primary],
        **(only or {}),
    }
    groups: defaultdict[tuple[Any, ...], list[Spend]] = defaultdict(list)
    for row in db.execute(query_of(by, tuple(only or ())), asked):
        key, period, sums, answered = row[: len(by)], row[len(by)], row[len(by) + 1 : -3], row[-3:]
        groups[key].append(Spend(key, *sums, primary_usd=on_primary(primary, period, *answered)))
    return [periods[0] if len(periods) == 1 else together(periods) for periods in groups.values()]


def query_of(by: Sequence[By], only: Sequence[Filter]) -> Composed:
    """Write the query that adds up by these, and counts only what has the values given for those."""
    keys = [SQL("{} AS {}, ").format(TIMES.get(name, Identifier(name)), Identifier(name)) for name in by]
    filters = [SQL("{} IS NOT DISTINCT FROM {}").format(Identifier(name), Placeholder(name)) for name in only]
    return GROUPED.format(
        key=SQL("").join(keys),
        names=SQL("").join(SQL("{}, ").format(Identifier(name)) for name in by),
        only=SQL(" AND ").join([SQL("true"), *filters]),
    )


def span(since: datetime, until: datetime, *, is_by_hour: bool) -> dict[str, datetime]:
    """Divide a time into whole days of UTC and the hours before and after them."""
    since, until = (
        moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0) for moment in (since, until)
    )
    first_day = since.replace(hour=0) + (DAY if since.hour else NO_TIME)
    last_day = until.replace(hour=0)
    if is_by_hour or first_day > last_day:
        first_day = last_day = until
    return {"since": since, "first_day": first_day, "last_day": last_day, "until": until}


def hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def on_primary(
    primary: PricePeriods, period: int, prompt_tokens: int, completion_tokens: int, cached_tokens: int
) -> Decimal | None:
    """Price answers as if the paid primary had given them; None: nobody knows what it cost then."""
    price = primary[period - 1][1] if period else None
    if price is None:
        return None
    return price.usd_of(
        prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cached_tokens=cached_tokens
    )


def together(rows: Sequence[Spend]) -> Spend:
    """Add up groups; the key is that of the first."""
    sums: dict[str, Any] = {name: sum(getattr(row, name) for row in rows) for name in SUMS}
    known = [row.primary_usd for row in rows if row.primary_usd is not None]
    return Spend(rows[0].key, **sums, primary_usd=sum(known, Decimal(0)) if len(known) == len(rows) else None)
