"""schedule.yaml: the tasks that the fleet gives itself."""

from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, StrictBool
from pydantic.json_schema import WithJsonSchema

from config.entry import Entry, Name, Named, OwnName, Text, period
from config.periods import PERIOD


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
