"""What a worker takes off its queues: what it has room for."""

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.worker import state
from redis import Redis

from workers import lane as lanes
from workers import transport
from workers.lane import Lane


@pytest.fixture
def consuming(app: Celery, lane: Lane) -> Iterator[transport.Channel]:
    """Open a channel of a lane worker that listens on two queues."""
    with app.connection_for_read() as connection:
        kombu = transport.Transport(connection)
        channel: Any = kombu.create_channel(kombu.establish_connection())
        channel._active_queues.extend(lane.slots)
        channel._update_queue_cycle()
        yield channel
        kombu.close_connection(kombu)


def waiting_for(channel: transport.Channel) -> list[str]:
    """Ask the channel what it would wait for."""
    sent: list[str] = []
    channel.client.connection = Sent(sent)
    channel._brpop_start(timeout=1)
    channel._in_poll = None
    return [name for name in sent if name in lanes.the_lane().slots]


class Sent:
    """A connection that keeps what was sent."""

    def __init__(self, sent: list[str]) -> None:
        self.sent = sent

    def send_command(self, *words: str) -> None:
        self.sent.extend(words)


def test_a_full_queue_is_not_waited_for(consuming: transport.Channel, lane: Lane):
    """What one worker has taken and cannot run, another one with free slots cannot run either."""
    lane.take("echo.echo", 2)
    state.reserved_requests.add(transport)  # something is under way

    assert sorted(waiting_for(consuming)) == sorted(lane.slots.keys() - {"echo.echo"})
    lane.take("echo.echo", -1)
    assert "echo.echo" in waiting_for(consuming)


def test_short_attempts_are_taken_ahead_and_long_ones_are_not(lane: Lane):
    """A worker that needs 2 ms must not wait for Redis after each; one that needs 5 s must not hoard."""
    lane.timed("echo.echo", 0.002)
    lane.timed("echo.parrot", 5.0)

    assert lane.places("echo.echo") > 50
    assert lane.places("echo.parrot") == lane.slots["echo.parrot"] == 2


def test_a_message_that_was_none_of_ours_is_not_counted_for_ever(lane: Lane):
    """A queue that somebody else's messages have filled up would never be read again."""
    state.reserved_requests.clear()
    lane.take("echo.echo", 2)

    assert transport.room()["echo.echo"] == 2


def test_a_worker_that_leaves_takes_nothing_more(lane: Lane):
    """kombu reads once more when it closes a channel; what came then would have to be handed back."""
    lane.leaving.set()

    assert transport.room() == {}


def test_without_a_lane_nothing_is_taken(redis: Redis):
    """A worker that is about to close its lane leaves the messages to others."""
    assert lanes.open_lane is None
    assert transport.room() == {}
    assert redis.ping()


def test_a_message_that_comes_as_the_worker_goes_is_put_back(consuming: transport.Channel, app: Celery):
    """It ended the worker with a traceback, before that had said goodbye."""
    queue = "echo.echo"
    consuming.client.connection = consuming.client.connection_pool.get_connection()
    consuming._brpop_start(timeout=5)
    consuming._active_queues.clear()
    consuming._update_queue_cycle()
    with app.connection_for_write() as connection:
        late = connection.SimpleQueue(queue)
        late.put({"late": True})

        consuming.close()

        assert late.get(timeout=5).payload == {"late": True}


def test_a_channel_has_one_client_for_as_long_as_its_connections_last(consuming: transport.Channel):
    """To make a client takes longer than the command it is made for: a tenth of a short task."""
    with consuming.conn_or_acquire() as one, consuming.conn_or_acquire() as other:
        assert one is other
    consuming._disconnect_pools()
    with consuming.conn_or_acquire() as after:
        assert after is not one
        assert after.ping()


def test_messages_that_come_one_by_one_take_one_question_each_and_many_come_together(
    consuming: transport.Channel, app: Celery, lane: Lane, redis: Redis
):
    """Asking after each whether there are more would double the questions to Redis of a quiet fleet."""
    queue = "echo.scarce"
    delivered: list[Any] = []
    consuming.connection._callbacks[queue] = delivered.append
    state.reserved_requests.add(transport)  # something is under way
    asked_before = commands(redis, "rpop")
    with app.connection_for_write() as connection:
        sending = connection.SimpleQueue(queue)
        counts: list[int] = []
        for _ in range(2):
            for number in range(3):
                sending.put({"number": number})
            consuming.client.connection = consuming.client.connection_pool.get_connection()
            consuming._brpop_start(timeout=5)
            consuming._brpop_read()
            counts.append(len(delivered))

    assert counts == [1, 6]
    assert commands(redis, "rpop") - asked_before == 1


def commands(redis: Redis, name: str) -> int:
    """Count how often Redis was asked."""
    told: Any = redis.info("commandstats")
    return told.get(f"cmdstat_{name}", {"calls": 0})["calls"]
