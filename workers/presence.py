"""What makes an ordinary Celery worker a lane worker: it opens a lane when it starts."""

from typing import Any

import structlog
from celery import Celery, bootsteps
from celery.worker.control import control_command

from config.settings import settings
from workers import lane
from workers.catalog import catalog

EVENTS_EVERY_S = 0.5

MOST_EVENTS = 1000
"""Events in one message."""

log = structlog.get_logger()


class OpenLane(bootsteps.StartStopStep):
    """Opens the lane with the worker's queues and slots, and closes it when the worker stops."""

    requires = {"celery.worker.components:Pool"}  # noqa: RUF012 - Celery's own way to declare it

    def start(self, parent: Any) -> None:  # noqa: ANN401 - Celery's WorkController
        """Open the lane; from here on the brain sends work."""
        queues = list(parent.app.amqp.queues.consume_from)
        each = max(1, parent.concurrency // max(1, len(queues)))
        lane.open_lane = lane.Lane(
            database_url=settings().database_url,
            catalog=catalog(),
            worker=parent.hostname,
            slots=dict.fromkeys(queues, each),
        )
        log.info("serving", queues=queues, slots_each=each)

    def stop(self, parent: Any) -> None:  # noqa: ANN401 - Celery's WorkController
        """Close the lane once what runs has ended: an attempt needs it to record its answer.

        Celery stops this step before the pool, because it started after it.
        """
        if lane.open_lane is not None:
            lane.open_lane.leave()
        parent.pool.stop()
        self.terminate(parent)

    def terminate(self, parent: Any) -> None:  # noqa: ANN401, ARG002 - Celery's WorkController
        """Close the lane: the brain sends no more."""
        if lane.open_lane is not None:
            lane.open_lane.close()
            lane.open_lane = None


class GatherEvents(bootsteps.StartStopStep):
    """Sends what Flower shows a few times a second, instead of three messages for every task."""

    requires = ("celery.worker.consumer.events:Events",)

    def start(self, parent: Any) -> None:  # noqa: ANN401 - Celery's Consumer
        """Gather events from here on."""
        events = parent.event_dispatcher
        events.buffer_limit = MOST_EVENTS
        events.on_send_buffered = None
        self.timer = parent.timer.call_repeatedly(EVENTS_EVERY_S, events.flush)

    def stop(self, parent: Any) -> None:  # noqa: ANN401 - Celery's Consumer
        """Send what is left."""
        self.timer.cancel()
        parent.event_dispatcher.flush()


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: object, task_id: str | list[str], **_: object) -> dict[str, str]:  # noqa: ARG001 - Celery's form
    """Leave Celery's `revoke` to the dispatcher, which cancels in the ledger.

    Celery's own would make this worker drop every later message of that id, for hours, whatever the
    ledger says of it.
    """
    return {"ok": "the dispatcher cancels it, unless a worker has begun"}


def make_lane_worker(app: Celery) -> None:
    """Let the workers of an app open a lane."""
    app.steps["consumer"].add(GatherEvents)  # pyright: ignore[reportOptionalSubscript] - as above
    app.steps["worker"].add(OpenLane)  # pyright: ignore[reportOptionalSubscript] - set by the time an app exists
