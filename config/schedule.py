"""schedule.yaml: the tasks that the fleet gives itself."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, StrictBool
from pydantic.json_schema import WithJsonSchema

from config.entry import MEANING_OF_PATTERN, PERIOD, Entry, Name, Named, OwnName, Text, fault, quoted

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def period(value: object) -> timedelta:
    """Read `15m`: a whole number of seconds, minutes, hours or days."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not re.fullmatch(PERIOD, value):
        raise fault(f"expected {MEANING_OF_PATTERN[PERIOD]}, got {quoted(value)}")
    try:
        return timedelta(seconds=int(value[:-1]) * SECONDS[value[-1]])
    except OverflowError:
        raise fault(f"expected a period that ends, got {quoted(value)}") from None


class RecurringTask(Entry):
    """A task that the fleet gives itself, again and again."""

    name: OwnName
    description: Text | None = None
    every: Annotated[
        timedelta,
        BeforeValidator(period),
        WithJsonSchema({"type": "string", "pattern": PERIOD, "examples": ["15m"]}),
    ]
    profile: Name
    prompt: Text | None = None
    """None: the profile's own."""
    enabled: StrictBool = True


class ScheduleFile(Entry):
    """schedule.yaml: heartbeats and other recurring tasks."""

    schedule: Annotated[dict[Name, RecurringTask], Named] = Field(default_factory=dict)
