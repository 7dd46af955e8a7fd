"""What a worker's host says of the local models, told with the worker's signs of life.

A model that is not loaded yet and cannot be loaded now takes no tasks: its files were removed, or the
memory is gone, also with what other models of this worker would give up. A model that is loaded stays.
"""

from threading import Thread

import structlog

from workers.availability import availabilities
from workers.lane import Lane

LOOK_S = 30.0
"""How often the host is looked at."""

READY = "ready"

log = structlog.get_logger()


class HostModels:
    """A thread that looks at the host for as long as a lane is open."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.thread = Thread(target=self.run, name="host-models", daemon=True)
        self.thread.start()

    def run(self) -> None:
        """Go on until the lane closes."""
        while True:
            if not self.lane.residents.is_loading:  # what a load takes just now is not missing
                try:
                    self.look()
                except Exception as error:  # noqa: BLE001 - a disk that fails; the worker goes on as it was
                    log.warning("host_not_seen", error=type(error).__name__)
            if self.lane.closing.wait(LOOK_S):
                return

    def look(self) -> None:
        """Look once, and tell the lane's presence."""
        models = self.lane.catalog.models
        loaded = [name for name, engine in tuple(self.lane.engines.items()) if not engine.is_closed]
        said = availabilities(models.values(), loaded, self.lane.residents.taken_bytes)
        lacking = {models[name].queue for name, state in said.items() if state != READY}
        self.lane.alive.models = said
        self.lane.alive.slots = {queue: n for queue, n in self.lane.slots.items() if queue not in lacking}
