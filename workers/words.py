"""Times, spans and money, as commands print them."""

from datetime import UTC, datetime
from decimal import Decimal

from workers.completion import plain


def duration(seconds: float) -> str:
    """Write a time span in its largest unit: 12 s, 3 min, 2 h."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def span(begin: datetime, end: datetime) -> str:
    """Write how long something took: to the hundredth below ten seconds."""
    seconds = (end - begin).total_seconds()
    return f"{max(seconds, 0):.2f} s" if seconds < 10 else duration(seconds)


def moment(at: datetime) -> str:
    """Write a time to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def dollars(usd: Decimal | None) -> str:
    """Write money; unknown is not free."""
    return "unknown" if usd is None else f"${plain(usd)}"
