"""The overview: what was spent and saved, what runs, and what needs attention."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from config.models import TIERS
from config.primary import primary_prices
from dashboard.attention import concerns
from dashboard.quota import quotas
from dashboard.view import View
from ledger import leadership, usage
from ledger.connect import Connection
from ledger.spend import By, PricePeriods, Spend, spend
from workers.model_states import model_states
from workers.picture import SHOWN_S

HOUR, DAY = timedelta(hours=1), timedelta(days=1)

RANGES: Mapping[str, tuple[timedelta, By]] = {
    "24h": (DAY, "hour"),
    "7d": (7 * DAY, "hour"),
    "30d": (30 * DAY, "day"),
    "1y": (365 * DAY, "day"),
}
"""What the charts can show, and the grain of it."""

OUTCOMES = ("succeeded", "failed", "rejected", "lost", "cancelled")

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
        now, zone = datetime.now(UTC), zone_of(request.cookies.get("zone"))
        primary = primary_prices(view.catalog)
        with view.reading() as db:
            models = model_states(db, view.catalog)
            workers = usage.workers(db, SHOWN_S)
            leader, tasks = leadership.current(db), usage.open_tasks(db)
            values: dict[str, Any] = {
                "periods": periods(db, now, zone, primary),
                "tokens": chart(db, now, over, "tier", TIERS),
                "outcomes": chart(db, now, over, "outcome", OUTCOMES),
                "times": usage.percentiles(db, now - DAY, MOST_TIMED),
            }
        budgets = {name: left for each in models for name, left in each.left.items() if is_budget(name)}
        return view.page(
            request,
            "overview",
            **values,
            over=over,
            ranges=RANGES,
            grain=RANGES[over][1],
            zone=zone.key,
            primary=view.catalog.routing.primary,
            tasks=tasks,
            budgets=quotas(budgets),
            concerns=concerns(view.catalog, models, workers, leader, tasks),
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


def chart(db: Connection, now: datetime, over: str, by: By, names: Sequence[str]) -> Chart:
    """Add up tokens by tier, or attempts by outcome, for every hour or day up to now."""
    long, grain = RANGES[over]
    step = HOUR if grain == "hour" else DAY
    begin = (now - long + step).replace(minute=0, second=0, microsecond=0)
    if grain == "day":
        begin = begin.replace(hour=0)
    found: dict[tuple[datetime, str], int] = {}
    for row in spend(db, begin, by=(grain, by)):
        at, name = row.key
        moment = at if isinstance(at, datetime) else datetime(at.year, at.month, at.day, tzinfo=UTC)
        found[moment.astimezone(UTC), name] = row.tokens if by == "tier" else row.attempts
    steps = int((now - begin) / step) + 1
    moments = [begin + number * step for number in range(steps)]
    return Chart(names, [(at, [found.get((at, name), 0) for name in names]) for at in moments])
