"""The overview: what was spent and saved, what runs, and what needs attention."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from config.models import TIERS
from config.primary import primary_prices
from dashboard.attention import concerns
from dashboard.quota import quotas
from dashboard.view import View
from ledger import leadership, recurring, usage
from ledger.connect import Connection
from ledger.spend import PricePeriods, Spend, spend
from workers.picture import SHOWN_S

HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(days=7)


class Range(NamedTuple):
    """What a chart can show."""

    name: str
    columns: int
    step: timedelta
    each: str
    """What a column stands for."""

    @property
    def grain(self) -> Literal["hour", "day"]:
        """Name what the sums are kept by that a column is made of."""
        return "hour" if self.step == HOUR else "day"

    def begin(self, now: datetime) -> datetime:
        """Tell when the first column begins, if the last one has this moment."""
        last = now.replace(minute=0, second=0, microsecond=0)
        if self.grain == "day":
            last = last.replace(hour=0) - (self.step - DAY)
        return last - (self.columns - 1) * self.step


RANGES: Mapping[str, Range] = {
    "24h": Range("24 hours", 24, HOUR, "hour"),
    "7d": Range("7 days", 7 * 24, HOUR, "hour"),
    "30d": Range("30 days", 30, DAY, "day"),
    "1y": Range("1 year", 52, WEEK, "week"),
}

FRESH_S = {"24h": 5.0, "7d": 10.0, "30d": 10.0, "1y": 60.0}
"""How old a chart may be: a year that takes long to add up changes little in a minute."""

ENDS = ("succeeded", "failed", "cancelled")
"""The last states of a task."""

MOST_TIMED = 2000
"""Answers that percentiles are taken of."""


class Period(NamedTuple):
    """What was spent in a time, beside what the paid primary would have cost."""

    name: str
    total: Spend | None
    """None: no attempt has ended in it."""

    @property
    def saved_share(self) -> Decimal | None:
        """Tell which part of the primary's cost was saved; None: its price is not known."""
        if self.total is None or not self.total.primary_usd or self.total.saved_usd is None:
            return None
        return self.total.saved_usd / self.total.primary_usd


class Chart(NamedTuple):
    """A series of columns over time."""

    names: Sequence[str]
    rows: list[tuple[datetime, list[int]]]


def routes(view: View) -> APIRouter:
    """Make the page."""
    router = APIRouter()

    @router.get("/")
    def overview(request: Request, over: str = "24h") -> HTMLResponse:
        over = over if over in RANGES else "24h"
        shown = RANGES[over]
        now, zone = datetime.now(UTC), zone_of(request.cookies.get("zone"))
        primary, recall, fresh_s = primary_prices(view.catalog), view.memory.recall, FRESH_S[over]
        values: dict[str, Any] = {
            "periods": recall(("periods", zone.key), 5.0, lambda db: periods(db, now, zone, primary)),
            "tokens": recall(("tokens", over), fresh_s, lambda db: tokens_by_tier(db, now, shown)),
            "ended": recall(("ended", over), fresh_s, lambda db: tasks_ended(db, now, shown)),
            "times": recall("times", 5.0, lambda db: usage.percentiles(db, now - DAY, MOST_TIMED)),
        }
        models = view.models()
        with view.reading() as db:
            workers = usage.workers(db, SHOWN_S)
            leader, tasks, paused = leadership.current(db), usage.open_tasks(db), recurring.paused(db)
        budgets = {name: left for each in models for name, left in each.left.items() if is_budget(name)}
        return view.page(
            request,
            "overview",
            **values,
            over=over,
            ranges=RANGES,
            shown=shown,
            zone=zone.key,
            primary=view.catalog.routing.primary,
            tasks=tasks,
            budgets=quotas(budgets),
            concerns=concerns(view.catalog, models, workers, leader, tasks, paused=paused),
        )

    return router


def is_budget(name: str) -> bool:
    return name.startswith("budget ")


def zone_of(name: str | None) -> ZoneInfo:
    """Take the reader's time zone, as the browser names it; else UTC."""
    try:
        return ZoneInfo(name or "UTC")
    except (ValueError, OSError, KeyError):
        return ZoneInfo("UTC")


def periods(db: Connection, now: datetime, zone: ZoneInfo, primary: PricePeriods) -> list[Period]:
    """Add up today, since midnight of the reader, and the last 7 and 30 days."""
    midnight = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    begins = {"Today": midnight, "7 days": now - 7 * DAY, "30 days": now - 30 * DAY}
    return [
        Period(name, next(iter(spend(db, since, primary=primary)), None)) for name, since in begins.items()
    ]


def tokens_by_tier(db: Connection, now: datetime, shown: Range) -> Chart:
    """Add up the tokens of all attempts up to now."""
    rows = spend(db, shown.begin(now), by=(shown.grain, "tier"))
    return chart(now, shown, TIERS, ((*row.key, row.tokens) for row in rows))


def tasks_ended(db: Connection, now: datetime, shown: Range) -> Chart:
    """Count the tasks that have ended up to now; each one that succeeded has one attempt that did."""
    begin = shown.begin(now)
    answered = spend(db, begin, by=(shown.grain,), only={"outcome": "succeeded"})
    unanswered = usage.unanswered(db, begin, shown.grain)
    counts = [(*row.key, "succeeded", row.attempts) for row in answered]
    return chart(now, shown, ENDS, counts + [(row.at, row.state, row.tasks) for row in unanswered])


def chart(
    now: datetime, shown: Range, names: Sequence[str], counts: Iterable[tuple[date, str, int]]
) -> Chart:
    """Add up what each column has of each name.

    Args:
        now: the moment that the last column has.
        shown: the range.
        names: what is told apart.
        counts: (hour, or day of UTC; name; how many).
    """
    begin = shown.begin(now)
    sums: Counter[tuple[int, str]] = Counter()
    for at, name, count in counts:
        moment = at if isinstance(at, datetime) else datetime(at.year, at.month, at.day, tzinfo=UTC)
        sums[(moment - begin) // shown.step, name] += count
    columns = range(shown.columns)
    return Chart(names, [(begin + n * shown.step, [sums[n, name] for name in names]) for n in columns])
