"""Tasks: newest first, filtered, page by page."""

from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from config.models import TIERS
from config.periods import read_period
from dashboard.view import View
from ledger import browse
from ledger.browse import Filter, Listed, Place

ROWS = 50

STATES = ("held", "queued", "running", "succeeded", "failed", "cancelled")

PERIODS = {"": "any time", "1h": "last hour", "24h": "last day", "7d": "last 7 days", "30d": "last 30 days"}

ERROR_SHOWN = 160
"""Characters of an error in the list; the task's own page has all of it."""


def routes(view: View) -> APIRouter:
    """Make the page."""
    router = APIRouter()

    @router.get("/tasks")
    def tasks(request: Request) -> HTMLResponse:
        asked = {name: value for name, value in request.query_params.items() if value}
        before = place_from(asked.pop("before", ""))
        with view.reading() as db:
            found = browse.page(db, wanted(asked, datetime.now(UTC)), before, ROWS)
        return view.page(
            request,
            "tasks",
            found=found,
            asked=asked,
            is_newest=before is None,
            here=address(asked),
            older=older(found, asked),
            states=[("", "any state"), *((state, state) for state in STATES)],
            tiers=[("", "any tier"), *((tier, tier) for tier in TIERS)],
            periods=PERIODS,
            catalog=view.catalog,
            error_shown=ERROR_SHOWN,
        )

    return router


def wanted(asked: dict[str, str], now: datetime) -> Filter:
    """Turn what a query string holds into a filter; what it cannot hold is left out."""
    period = asked.get("within")
    return Filter(
        state=one_of(asked.get("state"), STATES),
        tier=one_of(asked.get("tier"), TIERS),
        profile=asked.get("profile"),
        agent=asked.get("agent"),
        model=asked.get("model"),
        error=asked.get("error"),
        since=now - read_period(period) if period in PERIODS and period else moment(asked.get("since")),
        until=moment(asked.get("until")),
    )


def one_of(value: str | None, known: tuple[str, ...]) -> str | None:
    return value if value in known else None


def moment(value: str | None) -> datetime | None:
    """Read a time; one without a zone is UTC."""
    try:
        at = datetime.fromisoformat(value or "")
    except ValueError:
        return None
    return at.replace(tzinfo=at.tzinfo or UTC)


def place_from(value: str) -> Place | None:
    at, _, task_id = value.partition("_")
    try:
        return Place(datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(at)), UUID(task_id))
    except (ValueError, OverflowError):
        return None


def older(found: Listed, asked: dict[str, str]) -> str | None:
    """Write the address of the next page."""
    if found.older is None:
        return None
    at = (found.older.at - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
    return address({**asked, "before": f"{at}_{found.older.id}"})


def address(asked: dict[str, str]) -> str:
    return f"/tasks?{urlencode(asked)}" if asked else "/tasks"
