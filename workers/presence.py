"""What makes an ordinary Celery worker a lane worker: it opens a lane, and drains it at the end."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from threading import Thread
from types import FrameType
from typing import Any

import structlog
from celery import Celery, bootsteps
from celery.app.task import Context
from celery.exceptions import Ignore
from celery.worker import state as worker_state
from celery.worker.consumer import Consumer
from celery.worker.control import control_command

from config.settings import settings
from ledger.attempts import Key
from workers import lane, transport
from workers.attempt import attempt_key
from workers.catalog import catalog
from workers.host_models import HostModels
from workers.lane import BREAK_OFF_S, Lane

EVENTS_EVERY_S = 0.5

MOST_EVENTS = 1000
"""Events in one message."""

FIRST_PAUSE_S = 0.5
"""After this time a lost Redis is asked for again; each time so much later."""

LONGEST_PAUSE_S = 3.0

RETRY_PATIENTLY = {
    "max_retries": 1_000_000,
    "interval_start": FIRST_PAUSE_S,
    "interval_step": FIRST_PAUSE_S,
    "interval_max": LONGEST_PAUSE_S,
}
"""What follows a task that has ended (its result, the rest of its chain, its chord) waits for Redis as long
as the worker lives; a number, because Celery reads none as its default of a few."""

FINISH_S = 45.0
"""How long what runs may take to its end once the worker is told to stop. `fleet down` kills after 60."""

log = structlog.get_logger()


class OpenLane(bootsteps.StartStopStep):
    """Opens the lane with the worker's queues and slots, and closes it when the worker stops."""

    requires = {"celery.worker.components:Pool"}  # noqa: RUF012 - Celery's own way to declare it

    def start(self, parent: Any) -> None:  # noqa: ANN401 - Celery's WorkController
        """Open the lane; from here on the brain sends work."""
        queues = list(parent.app.amqp.queues.consume_from)
        # On its own queue, named like itself, a worker of local models runs what is for it alone.
        own = [queue for queue in queues if queue == parent.hostname]
        shared = [queue for queue in queues if queue not in own]
        each = max(1, (parent.concurrency - len(own)) // max(1, len(shared)))
        lane.open_lane = lane.Lane(
            database_url=settings().database_url,
            redis_url=settings().redis_url,
            catalog=catalog(),
            worker=parent.hostname,
            slots=dict.fromkeys(shared, each) | dict.fromkeys(own, 1),
            on_room=transport.look_again,
        )
        HostModels(lane.open_lane)
        stopping = Stopping(lane.open_lane)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stopping)
        log.info("serving", queues=shared, slots_each=each)

    def stop(self, parent: Any) -> None:  # noqa: ANN401 - Celery's WorkController
        """Close the lane once what runs has ended, or was broken off: an attempt needs it to record that.

        Celery stops this step before the pool, because it started after it.
        """
        closing = lane.open_lane
        if closing is not None:
            closing.leave()
            for key in received(worker_state.reserved_requests):
                if key not in closing.running:
                    closing.give_back(key, is_begun=False)
            if not closing.drain(FINISH_S):
                log.error("not_stopped", attempts=len(closing.running), why="an engine does not let go")
                closing.alive.close()
                os._exit(1)
        self.terminate(parent)
        if not stopped_within(parent.pool, BREAK_OFF_S):
            log.error("not_sent", why="Redis is away: results are in the ledger alone, and chains end here")
            os._exit(1)

    def terminate(self, parent: Any) -> None:  # noqa: ANN401, ARG002 - Celery's WorkController
        """Close the lane: the brain sends no more."""
        if lane.open_lane is not None:
            lane.open_lane.close()
            lane.open_lane = None


def stopped_within(pool: Any, limit_s: float) -> bool:  # noqa: ANN401 - Celery's pool of threads
    """Stop a pool; tell whether it did in time: its threads may wait for Redis."""
    stopping = Thread(target=pool.stop, daemon=True)
    stopping.start()
    stopping.join(limit_s)
    return not stopping.is_alive()


class Stopping:
    """What SIGTERM and SIGINT do: the first lets what runs come to its end, the second breaks it off."""

    def __init__(self, stopped: Lane) -> None:
        self.lane = stopped
        self.is_told = False

    def __call__(self, *_: int | FrameType | None) -> None:
        """Tell Celery and the lane; the lane in a thread, because who is interrupted may hold its locks."""
        self.lane.is_hurried, self.is_told = self.is_told, True
        worker_state.should_stop = os.EX_OK
        Thread(target=self.lane.leave).start()


def received(requests: Iterable[Any]) -> list[Key]:
    """List the attempts of messages that came to this worker."""
    keys: list[Key] = []
    for request in list(requests):
        with suppress(Ignore):
            keys.append(attempt_key(Context(request.request_dict)))
    return keys


class SteadyConsumer(Consumer):
    """Celery's consumer, which asks for a lost Redis every few seconds for as long as it is away.

    Celery's own asks after 2, 4, 6 ... 30 seconds: after an outage of a minute a worker would stand still
    for another half, and after an hour it gives up.
    """

    def ensure_connected(self, conn: Any) -> Any:  # noqa: ANN401 - kombu's Connection
        """Connect, or wait for Redis until the worker is told to stop."""
        self.first_connection_attempt = False
        return conn.ensure_connection(
            say_lost,
            interval_start=FIRST_PAUSE_S,
            interval_step=FIRST_PAUSE_S,
            interval_max=LONGEST_PAUSE_S,
            callback=worker_state.maybe_shutdown,
        )


def say_lost(error: Exception, pause_s: float) -> None:
    log.warning("redis_lost", error=type(error).__name__, again_in_s=pause_s)


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
    return {"ok": "the dispatcher cancels it, and a worker that runs it looks for that"}


def make_lane_worker(app: Celery) -> None:
    """Let the workers of an app open a lane."""
    transport.use()
    app.conf.task_publish_retry_policy = RETRY_PATIENTLY
    app.conf.result_backend_transport_options = {"retry_policy": RETRY_PATIENTLY}
    app.conf.worker_consumer = f"{__name__}:{SteadyConsumer.__name__}"
    app.steps["consumer"].add(GatherEvents)  # pyright: ignore[reportOptionalSubscript] - as above
    app.steps["worker"].add(OpenLane)  # pyright: ignore[reportOptionalSubscript] - set by the time an app exists
