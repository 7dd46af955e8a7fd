"""The queue `dispatch`, as the installed Celery and kombu write it, read without taking anything."""

import json
import time
import zlib
from base64 import b64encode
from collections.abc import Iterator
from threading import Thread
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import Celery
from kombu.connection import Connection as Broker
from redis import Redis, ResponseError

from ledger.connect import connect
from ledger.tasks import QueuedAttempt
from tests.workers.made import batches_in, trim
from workers.arguments import MOST_LEVELS
from workers.doorbell import Doorbell
from workers.errors import UnreadableMessageError
from workers.inbox import LARGEST_LETTER, MOST_AT_ONCE, Batch, Inbox
from workers.messages import LARGEST_MESSAGE, lane_message, lists_of, read_message
from workers.wire import Wire


@pytest.fixture
def broker_url(redis_url: str) -> str:
    return redis_url.replace("unix://", "redis+socket://")


@pytest.fixture
def caller(broker_url: str, redis: Redis) -> Celery:
    assert redis.ping()
    return Celery("caller", broker=broker_url, set_as_current=False)


@pytest.fixture
def inbox(redis: Redis) -> Inbox:
    return Inbox(redis, "dispatch")


def send(caller: Celery, prompt: str = "hello", **options: Any) -> str:
    return caller.send_task("complete", [prompt], {"profile": "social"}, queue="dispatch", **options).id


def test_what_celery_writes_is_what_we_read(caller: Celery, inbox: Inbox):
    """The wire format is kombu's; this test fails on the day that it changes."""
    link = caller.signature("user.collect")
    task_id = send(caller, link=link, priority=5, countdown=60, expires=120)

    (batch,) = batches_in(inbox)
    message = read_message(batch.messages[0])

    assert (message.id, message.task, message.args, message.kwargs) == (
        UUID(task_id), "complete", ["hello"], {"profile": "social"},
    )  # fmt: skip
    assert batch.list_name == "dispatch\x06\x163"
    assert message.priority == 5
    assert message.eta is not None
    assert message.expires is not None
    assert 55 < (message.expires - message.eta).total_seconds() < 65
    assert message.envelope["embed"]["callbacks"][0]["task"] == "user.collect"
    assert "hello" not in json.dumps(message.envelope)


def test_compressed_messages_are_read(caller: Celery, inbox: Inbox):
    """`compression="gzip"` is a Celery user's right for long prompts."""
    send(caller, "x" * 10_000, compression="gzip")

    assert read_message(batches_in(inbox)[0].messages[0]).args == ["x" * 10_000]


def test_what_we_write_is_what_kombu_reads(caller: Celery, inbox: Inbox, broker_url: str, redis: Redis):
    """The lane's worker is an ordinary Celery worker: it must see the caller's id and embed."""
    task_id = send(caller, link=caller.signature("user.collect"))
    envelope = read_message(batches_in(inbox)[0].messages[0]).envelope
    redis.lpush(
        "echo.echo", lane_message(QueuedAttempt(UUID(task_id), 2, "social", "echo", "echo.echo", envelope))
    )

    with Broker(broker_url) as broker, broker.SimpleQueue("echo.echo", queue_opts={"durable": True}) as queue:
        received = queue.get(timeout=5)
        received.ack()

    args, kwargs, embed = received.decode()
    assert (received.headers["id"], received.headers["task"], received.headers["attempt"]) == (
        task_id,
        "complete",
        2,
    )
    assert (args, kwargs) == ([], {})
    assert embed["callbacks"][0]["task"] == "user.collect"
    assert (received.headers["eta"], received.headers["expires"]) == (None, None)


def test_reading_takes_nothing(caller: Celery, inbox: Inbox, redis: Redis):
    """A dispatcher that dies after reading has lost nothing."""
    sent = [send(caller, f"number {n}") for n in range(3)]

    first, second = batches_in(inbox), batches_in(inbox)

    assert first == second
    assert [str(read_message(raw).id) for raw in first[0].messages] == sent
    assert redis.llen("dispatch") == 3


def test_trimming_removes_what_was_read_and_nothing_else(caller: Celery, inbox: Inbox):
    """Messages go on arriving while a batch is committed."""
    send(caller, "old")
    (batch,) = batches_in(inbox)
    newer = send(caller, "new")

    assert trim(inbox, batch) == 1
    assert [str(read_message(raw).id) for raw in batches_in(inbox)[0].messages] == [newer]


def test_a_paused_reader_removes_nothing_that_it_has_not_read(caller: Celery, inbox: Inbox):
    """Another brain took over meanwhile; what arrived since then is in Redis alone."""
    send(caller, "old")
    (stale,) = batches_in(inbox)
    trim(inbox, stale)
    send(caller, "not accepted yet")

    assert trim(inbox, stale) == 0
    assert len(batches_in(inbox)[0].messages) == 1


def test_a_long_list_is_read_in_batches_oldest_first(inbox: Inbox, redis: Redis):
    """100,000 waiting messages must not be read into memory at once."""
    redis.lpush("dispatch", *(f"m{n}" for n in range(MOST_AT_ONCE + 10)))

    (batch,) = batches_in(inbox)
    trim(inbox, batch)

    assert len(batch.messages) == MOST_AT_ONCE
    assert batch.messages[0] == b"m0"
    assert batches_in(inbox)[0].messages[0] == f"m{MOST_AT_ONCE}".encode()


def a_message(*, content_type: str = "application/json", body: str = "[[], {}, {}]", **headers: str) -> bytes:
    return json.dumps(
        {
            "headers": {"task": "complete", "id": str(uuid4()), **headers},
            "properties": {},
            "body": body,
            "content-type": content_type,
        }
    ).encode()


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"rubble", "JSONDecodeError"),
        (b"[]", "TypeError"),
        (b"{}", "no headers"),
        (a_message(content_type="application/x-python-serialize"), "application/json"),
        (a_message(body="{}"), "args, kwargs and embed"),
        (a_message(task="shell"), "expected one of complete"),
        (a_message(id="7"), "UUID"),
    ],
)
def test_an_unreadable_message_says_why(raw: bytes, why: str):
    """The reason is all that the person who looks into the dead letters has."""
    with pytest.raises(UnreadableMessageError, match=why):
        read_message(raw)


def nested(levels: int) -> str:
    return f'[["hello"], {{"metadata": {"[" * levels}{"]" * levels}}}, {{}}]'


def bomb() -> bytes:
    """Write a small message that unpacks to more than a message may have."""
    packed = zlib.compress(b'[["' + b"x" * LARGEST_MESSAGE + b'"], {}, {}]')
    message = json.loads(a_message(body=b64encode(packed).decode(), compression="application/x-gzip"))
    return json.dumps({**message, "properties": {"body_encoding": "base64"}}).encode()


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"[" * 100_000, "nested deeper"),
        (b"[" * 900 + b"]" * 900, "nested deeper"),
        (a_message(body=nested(900)), "nested deeper"),
        (a_message(body=nested(100_000)), "nested deeper"),
        (b" " * (LARGEST_MESSAGE + 1), "larger than"),
        (bomb(), "JSONDecodeError"),
    ],
    ids=["deep", "deep-closed", "deep-body", "very-deep-body", "large", "bomb"],
)
def test_a_message_that_would_take_the_dispatcher_down_is_unreadable(raw: bytes, why: str):
    """It stays in Redis until it is read: every dispatcher that starts would die of it, one after another."""
    with pytest.raises(UnreadableMessageError, match=why):
        read_message(raw)


def test_arguments_may_be_nested_as_deep_as_a_caller_is_allowed():
    """What `complete` accepts must not be buried on its way."""
    assert read_message(a_message(body=nested(MOST_LEVELS))).args == ["hello"]


def test_of_a_large_message_that_cannot_be_read_the_beginning_is_kept(inbox: Inbox, redis: Redis):
    """Ten thousand letters have to fit into Redis, whatever was sent."""
    inbox.bury(b"x" * (LARGEST_LETTER + 1), "too large")

    letter = json.loads(str(redis.lindex(inbox.dead_letters, 0), "utf-8"))  # type: ignore[arg-type]

    assert letter["message"] == "x" * LARGEST_LETTER


@pytest.fixture
def doorbell(redis: Redis, db_url: str) -> Iterator[Doorbell]:
    with connect(db_url, name="test") as listener:
        bell = Doorbell(redis, Inbox(redis, "dispatch"), listener)
        yield bell
        bell.close()


@pytest.mark.parametrize("name", lists_of("dispatch"))
def test_a_message_on_any_list_wakes_the_brain_and_stays_there(doorbell: Doorbell, redis: Redis, name: str):
    """A task with a priority must not wait for the next tick."""
    Thread(target=lambda: (time.sleep(0.1), redis.lpush(name, b"m"))).start()
    began = time.monotonic()

    assert doorbell.wait(5).batches == [Batch(name, (b"m",))]

    assert 0.05 < time.monotonic() - began < 2
    assert redis.lrange(name, 0, -1) == [b"m"]


def test_news_from_the_ledger_wakes_the_brain(doorbell: Doorbell, db_url: str):
    """A slot that became free is the moment for the next task."""
    task_id = uuid4()

    def notify() -> None:
        with connect(db_url, name="worker") as db:
            db.execute("SELECT pg_notify('fleet', %s)", [f"{task_id}:1"])

    Thread(target=notify).start()

    assert doorbell.wait(5) == ([f"{task_id}:1"], [])


def test_the_brain_sleeps_when_nothing_happens(doorbell: Doorbell):
    """A loop that wakes for nothing costs a laptop its battery."""
    began = time.monotonic()

    assert doorbell.wait(0.3) == ([], [])
    assert time.monotonic() - began >= 0.29


def test_who_wakes_has_the_messages_of_all_lists_in_order_of_priority(doorbell: Doorbell, redis: Redis):
    """Reading them is the first thing to do; the lists of later priorities must not come first."""
    names = lists_of("dispatch")
    doorbell.wait(0)  # from here on it listens
    for name in reversed(names):
        redis.lpush(name, b"older", b"newer")
    time.sleep(0.2)

    assert doorbell.wait(5).batches == [Batch(name, (b"older", b"newer")) for name in names]


def test_what_stays_on_a_list_rings_again(doorbell: Doorbell, redis: Redis):
    """More than one batch has arrived, or the ledger was away when the first one was read."""
    redis.lpush("dispatch", *(f"m{n}" for n in range(MOST_AT_ONCE + 1)))

    first, second = doorbell.wait(5).batches, doorbell.wait(5).batches

    assert [len(batch.messages) for batch in first] == [MOST_AT_ONCE]
    assert second == first


def test_a_command_that_redis_refuses_is_an_error(redis: Redis):
    """A publication that failed must not pass for one that succeeded."""
    redis.set("text", "not a list")
    wire = Wire(redis)
    wire.send([("PING",), ("LPUSH", "text", "m")])

    with pytest.raises(ResponseError):
        wire.receive(2)
    wire.close()
