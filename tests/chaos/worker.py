"""`python -m tests.chaos.worker JOURNAL SLOTS [MODEL ...]`: `fleet worker echo`, with the suite's engine."""

import sys
from pathlib import Path
from typing import Any

from celery import bootsteps

from config.settings import settings
from tests.chaos.engine import ChaosEngine
from tests.chaos.journal import Journal
from workers.app import app
from workers.catalog import catalog
from workers.lane import the_lane
from workers.lanes import run_worker
from workers.logs import log_to_stderr
from workers.presence import OpenLane


class BringEngines(bootsteps.StartStopStep):
    """Gives the lane its engines, before the first message comes: what is loaded is not loaded again."""

    requires = (OpenLane,)

    def start(self, parent: object) -> None:
        lane = the_lane()
        journal = Journal(Path(sys.argv[1]))
        for model in catalog().models.values():
            lane.engines[model.name] = ChaosEngine(model, journal, lane.slots.get(model.queue, 1))


if __name__ == "__main__":
    steps: Any = app.steps
    steps["worker"].add(BringEngines)
    log_to_stderr(settings().log_level)
    run_worker("echo", slots=int(sys.argv[2]), only=sys.argv[3:])
