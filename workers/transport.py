"""kombu's Redis transport for lane workers: takes what a queue has room for, and all of it at once.

kombu takes one message at a time, and counts only those that have not begun. So one of two workers took twice
what it could run while the other had nothing to do; and most of a short task's time went into taking it.

Source: kombu 5.7 (transport/redis.py, transport/virtual/base.py), celery 5.7 (worker/state.py), read 2026-11.
"""

import json
from typing import Any

from celery.worker import state
from kombu.asynchronous import get_event_loop
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as of_redis
from kombu.transport.virtual import base

from workers import lane

MOST_AT_ONCE = 64
"""Messages taken by one command."""

LOOK_AGAIN_S = 0.01
"""After an attempt: by then Celery has stored its result and counts it no more."""

LOOK_AT_FULL_ONES_S = 0.1
"""How long a worker waits for its other queues before it sees whether a full one has room again."""


def room() -> dict[str, int]:
    """Count the messages that each queue of this worker has room for, without those that have none."""
    open_lane = lane.open_lane
    if open_lane is None or open_lane.leaving.is_set():
        return {}
    if not state.reserved_requests:
        open_lane.taken.clear()  # messages that are no attempts of ours are never counted off
    open_lane.is_full = True  # before it counts: an attempt that ends meanwhile makes room that is not seen
    left = {queue: open_lane.places(queue) - open_lane.taken[queue] for queue in open_lane.slots}
    there = {queue: places for queue, places in left.items() if places > 0}
    open_lane.is_full = len(there) < len(left)
    return there


class QoS(base.QoS):
    """Says whether messages may be taken."""

    def can_consume(self) -> bool:
        """Tell whether a queue has room."""
        return bool(room())


class Channel(of_redis.Channel):
    """A channel that waits for the queues with room, and goes on taking once a message has come."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - kombu has no types
        super().__init__(*args, **kwargs)
        self.QoS = QoS
        self._kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - kombu's
        """Give the one client of the pool; kombu makes one for each command, which takes longer than that."""
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()
        return self._kept

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Wait for a message on a queue with room."""
        cycle, there = self._queue_cycle, room()
        everywhere = cycle.items
        if len(there) < len(everywhere):
            timeout = LOOK_AT_FULL_ONES_S
        cycle.items = [queue for queue in everywhere if queue in there]
        try:
            super()._brpop_start(timeout)
        finally:
            cycle.items = everywhere

    def _brpop_read(self, **options: Any) -> Any:  # noqa: ANN401
        """Deliver the message that came and, if there are others here already, those behind it."""
        delivered = super()._brpop_read(**options)
        if not self._queue_cycle.items:
            return delivered  # the worker goes: kombu has put back what came in the last moment
        queue = self._queue_cycle.items[-1]  # kombu has just put it last, because it had its turn
        is_alone = not taken(queue)
        take(queue, 1)
        # Where tasks come one by one, to ask after each whether there are more would double the questions.
        most = 0 if is_alone else min(room().get(queue, 0), MOST_AT_ONCE)
        if most > 0:
            with self.conn_or_acquire() as client:
                more: Any = client.rpop(queue, most) or ()
            take(queue, len(more))
            for raw in more:
                self.connection._deliver(json.loads(raw), queue)  # noqa: SLF001 - as kombu does
        return delivered


def taken(queue: str) -> int:
    """Count the messages of a queue that this worker has."""
    return 0 if lane.open_lane is None else lane.open_lane.taken[queue]


def take(queue: str, count: int) -> None:
    """Count messages among those that this worker has."""
    if lane.open_lane is not None:
        lane.open_lane.take(queue, count)


class Transport(of_redis.Transport):
    """The transport of a lane worker."""

    Channel = Channel


def use() -> None:
    """Let this process's connections to Redis be of this kind; a message is taken only into an open lane."""
    TRANSPORT_ALIASES["redis"] = f"{__name__}:{Transport.__name__}"


def look_again() -> None:
    """Let the event loop see, from another thread, that there is room again."""
    loop = get_event_loop()
    if loop is not None:
        loop.call_soon(loop.call_later, LOOK_AGAIN_S, lane.nothing)  # it looks for room at each turn
