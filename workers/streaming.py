"""The text of an answer as it comes, for the caller: `stream`.

Whoever reads says so by making the task's Redis stream; a worker writes only into a stream that is there.
What is not in it, because it came too late or went too soon, comes with the result.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from celery import states
from celery.exceptions import TimeoutError as NoAnswerYet
from celery.result import AsyncResult
from redis import Redis, RedisError

from workers.app import app
from workers.call import completion_text
from workers.errors import StreamRestartedError
from workers.results import FIRST_LOOK_S, LOOK_RARELY_S, LOOK_S, LedgerBackedRedis

KEPT_S = 60
"""How long a stream stays in Redis after somebody read it or wrote into it."""

SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.05, 0.5
"""How long a reader waits for text before it looks whether the task has ended."""

OPENED: dict[Any, Any] = {"opened": "1"}
"""The first entry of a stream; the others are an attempt's text and the place where it belongs."""

Entry = Mapping[str, str]


def key_of(task_id: object) -> str:
    """Name the Redis stream of a task."""
    return f"fleet.stream.{task_id}"


def stream(result: AsyncResult | str, timeout: float | None = None) -> Iterator[str]:
    """Iterate over the text of an answer while it is being made; from its start, also for who comes late.

    The pieces add up to the content of the completion. Where an attempt fails after some of its text was
    given out, that text is void: the iterator says so by an error, and `stream` may be called again. A task
    that waits is waited for.

    Args:
        result: of `complete.delay`, or its id.
        timeout: seconds to the end of the answer; None: as long as it takes.

    Raises:
        StreamRestartedError: the text so far is void, and another attempt is made.
        TimeoutError: Celery's; the task goes on.
        Exception: what `get()` raises, where the task failed or was cancelled.
    """
    until = float("inf") if timeout is None else time.monotonic() + timeout
    pending: Any = the_fleets(result)
    heard, news = Heard(str(pending.id)), News(str(pending.id), pending.backend)
    wait_s = 0.0
    while not heard.is_whole:
        came = news.wait(min(wait_s, until - time.monotonic()))
        text = heard.take(came)
        if text:
            yield text
            wait_s = SHORTEST_WAIT_S
        elif news.has_ended():
            break
        else:
            wait_s = min(max(wait_s * 1.5, SHORTEST_WAIT_S), LONGEST_WAIT_S)
        if time.monotonic() >= until and not heard.is_whole:
            message = "the answer has not come to its end"
            raise NoAnswerYet(message)
    left_s = None if timeout is None else max(0.0, until - time.monotonic())
    rest = heard.rest_of(pending.get(timeout=left_s))
    if rest:
        yield rest


def the_fleets(result: AsyncResult | str) -> AsyncResult:
    """Give a result that looks into the ledger, too, whichever app it is from."""
    if isinstance(result, str):
        return app.AsyncResult(result)
    return result if isinstance(result.backend, LedgerBackedRedis) else app.AsyncResult(str(result.id))


class Heard:
    """What of an answer was given out, and of which attempt it is."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.attempt = 0
        self.position = 0
        """Characters that were given out."""
        self.is_whole = False
        """The attempt has ended, and the task with it."""

    def take(self, entries: Iterable[Entry]) -> str:
        """Take what came together, in order; the result is the text that it adds.

        An entry may come twice, or from a worker that was given up long ago. One that comes too soon is left
        out: what is before it was lost, and the result has both.

        Raises:
            StreamRestartedError: what was given out is void.
        """
        begun_at, added = self.position, list[str]()
        for entry in entries:
            number = int(entry.get("attempt", 0))
            if number < self.attempt or "opened" in entry:
                continue
            if number > self.attempt:
                self.begin(number, is_shown=begun_at > 0)
                added.clear()
            at, text = int(entry["at"]), entry["text"]
            if at <= self.position < at + len(text):
                added.append(text[self.position - at :])
                self.position = at + len(text)
            if entry.get("end") == "void":
                self.begin(number + 1, is_shown=begun_at > 0)
                added.clear()
            elif entry.get("end"):
                self.is_whole = True
        return "".join(added)

    def begin(self, attempt: int, *, is_shown: bool) -> None:
        """Begin with another attempt."""
        if is_shown:
            raise StreamRestartedError(self.task_id, attempt)
        self.attempt, self.position, self.is_whole = attempt, 0, False

    def rest_of(self, answer: Mapping[str, Any]) -> str:
        """Give what is left of the answer, now that it is there.

        Raises:
            StreamRestartedError: what was given out is of another attempt.
        """
        attempt: int = answer["fleet"]["attempts"]
        if attempt != self.attempt:
            self.begin(attempt, is_shown=self.position > 0)
        return completion_text(answer)[self.position :]


class News:
    """A task's stream and result in Redis, and in the ledger where Redis knows nothing."""

    def __init__(self, task_id: str, backend: LedgerBackedRedis) -> None:
        self.task_id = task_id
        self.stream, self.result = key_of(task_id), backend.get_key_for_task(task_id)
        self.backend = backend
        self.redis: Redis = backend.client
        self.last: bytes | str = "0"
        """The last entry that was read."""
        self.is_in_redis = False
        self.look_at = time.monotonic() + FIRST_LOOK_S

    def wait(self, wait_s: float) -> list[Entry]:
        """Read what is new in the stream, or wait for it; make it, if it is not there.

        While Redis is away, nothing is new.
        """
        try:
            with self.redis.pipeline(transaction=False) as pipe:
                pipe.xread({self.stream: self.last}, block=max(1, int(wait_s * 1000)))
                pipe.exists(self.result)
                pipe.expire(self.stream, KEPT_S)
                came, is_there, is_open = pipe.execute()
            self.is_in_redis = bool(is_there)
            if not is_open and not is_there:
                self.open()
        except RedisError:
            time.sleep(max(wait_s, 0))
            return []
        entries: list[tuple[bytes, Mapping[bytes, bytes]]] = [
            entry for _, read in came or () for entry in read
        ]
        if entries:
            self.last = entries[-1][0]
        return [{name.decode(): value.decode() for name, value in entry.items()} for _, entry in entries]

    def open(self) -> None:
        """Let the worker know that somebody reads."""
        self.last = "0"
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.xadd(self.stream, OPENED)
            pipe.expire(self.stream, KEPT_S)
            pipe.execute()

    def has_ended(self) -> bool:
        """Tell whether there is a result, in Redis or, every few seconds, in the ledger."""
        if self.is_in_redis or time.monotonic() < self.look_at:
            return self.is_in_redis
        found = self.backend.metas_from_ledger([self.task_id])
        self.look_at = time.monotonic() + (LOOK_RARELY_S if found is None else LOOK_S)
        return any(meta["status"] in states.READY_STATES for meta in found or ())
