"""Periods as people write them: `15m`, `30d`."""

import re
from datetime import timedelta

PERIOD = r"^[1-9][0-9]*[smhd]$"

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def read_period(text: str) -> timedelta:
    """Read a whole number of seconds, minutes, hours or days.

    Raises:
        ValueError: it is none.
        OverflowError: it does not end within a million years or so.
    """
    if not re.fullmatch(PERIOD, text):
        message = f"expected a number and s, m, h or d, such as 15m, got {text!r}"
        raise ValueError(message)
    return timedelta(seconds=int(text[:-1]) * SECONDS[text[-1]])


def write_period(period: timedelta) -> str:
    """Write whole seconds as `read_period` reads them, in the largest unit that fits."""
    seconds = int(period.total_seconds())
    unit = max((unit for unit in SECONDS if seconds % SECONDS[unit] == 0), key=lambda unit: SECONDS[unit])
    return f"{seconds // SECONDS[unit]}{unit}"
