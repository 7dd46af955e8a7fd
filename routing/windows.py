"""The days and months in which requests and budgets are counted; both begin at midnight UTC."""

from datetime import UTC, datetime, time, timedelta

from config.budgets import Window


def window_start(window: Window, moment: datetime) -> datetime:
    """Give the midnight with which the day or month of a moment began."""
    day = moment.astimezone(UTC).date()
    return datetime.combine(day if window == "day" else day.replace(day=1), time(), UTC)


def window_end(window: Window, moment: datetime) -> datetime:
    """Give the midnight with which the day or month of a moment ends."""
    start = window_start(window, moment)
    return start + timedelta(days=1) if window == "day" else (start + timedelta(days=32)).replace(day=1)
