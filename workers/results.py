"""Celery's result backend: Redis first, then the ledger.

Redis holds results for a day and may lose them; Postgres is the truth.
"""

import logging
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from typing import Any
from uuid import UUID

from celery import states
from celery.app.task import Context
from celery.backends.redis import RedisBackend, ResultConsumer
from redis import RedisError

from config.settings import settings
from workers.wire import Command, Wire

LOOK_S = 3.0
"""How often a caller that waits looks in the ledger."""

FIRST_LOOK_S = 1.0
"""How long it waits for news from Redis before it looks for the first time."""

LOOK_RARELY_S = 60.0
"""How often it does so where the ledger cannot be reached."""

ASK_S = 2.0
"""For so long the ledger's word on a task counts: a caller may ask `ready()` in a loop."""

NEVER = float("inf")

MOST_AT_ONCE = 500
"""Results in one look."""

OUR_ERRORS = ("config.errors", "routing.errors", "workers.engines.errors", "workers.errors")
"""What a task may end with; a caller that enqueues needs none of them."""

logger = logging.getLogger(__name__)


class Wait:
    """Somebody's wait for a result."""

    def __init__(self, look_at: float) -> None:
        self.look_at = look_at
        """When to look in the ledger, by the monotonic clock."""


class WaitsForBoth(ResultConsumer):
    """Waits for results on Redis, and looks in the ledger now and then for those that Redis lost."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - Celery's own, passed on
        super().__init__(*args, **options)
        self.waits: set[Wait] = set()
        """Those that are under way; several threads may wait at once."""
        self.look_owed_at = NEVER
        """When somebody would have looked who gave up, and perhaps will be back."""
        self.turn = 0
        self.redis_has_lost = False
        """Whether the last look found what Redis had not: then it may lack the next result, too."""

    def _wait_for_pending(self, result: Any, *args: Any, **options: Any) -> Generator[None]:  # noqa: ANN401 - Celery's own
        """Wait; who often waits for a moment only never looks in the ledger."""
        wait = Wait(min(time.monotonic() + FIRST_LOOK_S, self.look_owed_at))
        self.waits.add(wait)
        try:
            yield from super()._wait_for_pending(result, *args, **options)
        except BaseException:
            self.look_owed_at = min(self.look_owed_at, wait.look_at)
            raise
        finally:
            self.waits.discard(wait)

    def on_wait_for_pending(self, result: Any, **options: Any) -> None:  # noqa: ANN401 - Celery's own
        """Look whether a result is in Redis already; most are on their way, and the ledger is far.

        Whoever asks for one result after the other, after Redis was emptied, does not wait for each.
        """
        with self.through_an_outage(), self.backend.redis_alone():
            super().on_wait_for_pending(result, **options)
        if self.redis_has_lost:
            self.look()

    def consume_from(self, task_id: str) -> None:
        """Subscribe to a result; while Redis is away, once it is back."""
        with self.through_an_outage():
            super().consume_from(task_id)

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for news, `timeout` seconds at most; Redis is waited for, too."""
        is_over = False
        with self.through_an_outage():
            if self._pubsub is None and self.subscribed_to:
                self._reconnect()  # Celery gave up on it, and would wait for nothing from here on
            super().drain_events(timeout)
            is_over = True
        if not is_over:
            time.sleep(timeout or 0)
        if any(time.monotonic() > wait.look_at for wait in tuple(self.waits)):
            self.look()

    def cancel_for(self, task_id: str) -> None:
        """Unsubscribe; a result that is forgotten while Redis is away is no matter."""
        with self.through_an_outage():
            super().cancel_for(task_id)

    @contextmanager
    def through_an_outage(self) -> Generator[None]:
        """Go on while Redis is away: whoever waits is not concerned, the ledger has the result too."""
        try:
            yield
        except (RuntimeError, *self._connection_errors) as error:
            if not self.is_about_redis(error):
                raise

    def is_about_redis(self, error: BaseException) -> bool:
        """Tell whether Redis did not come back within Celery's retries, for which that has a RuntimeError."""
        return isinstance(error, self._connection_errors) or isinstance(
            error.__cause__, self._connection_errors
        )

    def look(self) -> None:
        """Look in the ledger for the results that are waited for."""
        waited_for = list(dict.fromkeys(task_id for waiting in self._pending_results for task_id in waiting))
        if not waited_for:
            return
        start = self.turn if self.turn < len(waited_for) else 0
        self.turn = start + MOST_AT_ONCE
        found = self.backend.metas_from_ledger(waited_for[start : self.turn])
        look_at = time.monotonic() + (LOOK_RARELY_S if found is None else LOOK_S)
        self.look_owed_at = NEVER
        for wait in tuple(self.waits):
            wait.look_at = look_at
        ended = [meta for meta in found or () if meta["status"] in states.READY_STATES]
        self.redis_has_lost = bool(ended)
        for meta in ended:
            self.on_state_change(meta, None)


class LedgerBackedRedis(RedisBackend):
    """Redis results, completed from the ledger where Redis knows nothing."""

    ResultConsumer = WaitsForBoth

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - Celery's own, passed on
        self.heard: dict[str, tuple[float, dict[str, Any] | None]] = {}
        """By task: until when the ledger's word counts, and what it was."""
        self.own = threading.local()
        """What each thread has to itself: whether it asks Redis alone, and a connection for its results."""
        super().__init__(*args, **options)

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002 - Celery's
        """Tell what is known of a task; for those who ask, not for Celery before it stores a result."""
        meta: dict[str, Any] = super().get_task_meta(task_id, cache)
        if meta["status"] != states.PENDING:
            self.heard.pop(task_id, None)
            return meta
        if getattr(self.own, "redis_alone", False):
            return meta
        return self.meta_from_ledger(task_id) or meta

    @contextmanager
    def redis_alone(self) -> Generator[None]:
        """Let this thread's questions be answered by Redis alone."""
        self.own.redis_alone = True
        try:
            yield
        finally:
            self.own.redis_alone = False

    def meta_from_ledger(self, task_id: str) -> dict[str, Any] | None:
        """Tell what the ledger has said of a task lately; None: it does not know it."""
        now = time.monotonic()
        until, meta = self.heard.get(task_id, (0.0, None))
        if now > until:
            meta = next(iter(self.metas_from_ledger([task_id]) or ()), None)
            self.heard = {asked: said for asked, said in self.heard.items() if said[0] > now}
            self.heard[task_id] = (now + ASK_S, meta)
        return meta

    def _store_result(
        self,
        task_id: str,
        result: object,
        state: str,
        traceback: str | None = None,
        request: Context | None = None,
        **_: object,
    ) -> object:
        """Store a result without looking first whether there is one: an attempt ends once.

        While Redis is away it stays in the ledger alone. Celery would take the error for the task's own, and
        store that once Redis is back.
        """
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = task_id
        try:
            self._set_with_state(self.get_key_for_task(task_id), self.encode(meta), state)
        except (RedisError, *self.connection_errors) as error:
            logger.warning("the result of %s is in the ledger alone: %s", task_id, type(error).__name__)
        return result

    def on_chord_part_return(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - Celery's own
        """Count a part of a chord as done; Celery counts a part once, however often it is told."""
        self.ensure(partial(super().on_chord_part_return, **options), arguments)

    def exception_to_python(self, exc: Any) -> Any:  # noqa: ANN401 - Celery's own
        """Rebuild an error; Celery knows only the classes of modules that somebody has imported."""
        if isinstance(exc, Mapping) and exc.get("exc_module") in OUR_ERRORS:
            import_module(exc["exc_module"])
        return super().exception_to_python(exc)

    def _set(self, key: str, value: str | bytes, expires: int | None = None) -> None:
        """Write a result and tell who waits, without MULTI: the one who is told has the value in hand.

        A thread keeps its connection: where many threads work, to borrow one takes longer than to use it.
        """
        lasts_s = expires or self.expires
        lasting = ("EX", int(lasts_s)) if lasts_s else ()
        commands: list[Command] = [("SET", key, value, *lasting), ("PUBLISH", key, value)]
        kept: Wire | None = getattr(self.own, "wire", None)
        if kept is not None:
            with suppress(RedisError):
                kept.ask(commands)
                return
            self.own.wire = None
            kept.close()  # maybe Redis was started anew since the last result
        self.own.wire = Wire(self.client)
        self.own.wire.ask(commands)

    def metas_from_ledger(self, task_ids: Iterable[str]) -> list[dict[str, Any]] | None:
        """Look tasks up in the ledger.

        Returns:
            Celery's result meta of those that it knows; None where it cannot be reached from here: an
            agent's host needs Redis alone.
        """
        import psycopg  # noqa: PLC0415 - a caller whose results come soon never loads it

        from ledger.connect import connect  # noqa: PLC0415
        from ledger.embeddings import computed  # noqa: PLC0415
        from ledger.tasks import fates  # noqa: PLC0415

        try:
            with connect(settings().database_url, name="results", by_key=True) as db:
                found = fates(db, [key for key in map(uuid_of, task_ids) if key is not None])
                metas = [meta_of(fate, partial(computed, db)) for fate in found]
        except psycopg.Error as error:
            logger.debug("the ledger cannot be reached: %s", type(error).__name__)
            return None
        return [self.meta_from_decoded(meta) for meta in metas]


def uuid_of(task_id: str) -> UUID | None:
    """Read an id; None: it is that of somebody else's task."""
    try:
        return UUID(task_id)
    except ValueError:
        return None


def meta_of(fate: Any, computed: Any) -> dict[str, Any]:  # noqa: ANN401 - a Fate; its module loads psycopg
    """Turn a task's fate into Celery's result meta, before exceptions are rebuilt.

    Args:
        fate: of a task.
        computed: reads vectors; see `workers.completion.Computed`.
    """
    from workers.failure import in_celery_form  # noqa: PLC0415

    meta: dict[str, Any] = {"task_id": str(fate.id), "result": None, "traceback": None, "children": []}
    if fate.state in ("succeeded", "failed") and (fate.is_text_removed or is_without_attempts(fate)):
        return text_removed(fate, meta)
    if fate.state == "succeeded" and fate.answer is None:
        # Its profile keeps no text, and the worker is about to store the result.
        return {**meta, "status": states.STARTED}
    if fate.state == "succeeded":
        return success(fate, computed, meta)
    if fate.state == "failed":
        return {
            **meta,
            "status": states.FAILURE,
            "result": in_celery_form(fate.error),
            "date_done": fate.finished_at.isoformat(),
        }
    if fate.state == "cancelled":
        cancelled = {
            "exc_type": "TaskRevokedError",
            "exc_message": ["revoked"],
            "exc_module": "celery.exceptions",
        }
        return {
            **meta,
            "status": states.REVOKED,
            "result": cancelled,
            "date_done": fate.finished_at.isoformat(),
        }
    return {**meta, "status": states.STARTED if fate.state == "running" else states.PENDING}


def success(fate: Any, computed: Any, meta: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Give the response, as far as all that it is made of is still there."""
    from workers.completion import response  # noqa: PLC0415

    try:
        result = response(fate, computed)
    except KeyError:  # somebody has removed its vectors
        return text_removed(fate, meta)
    return {
        **meta,
        "status": states.SUCCESS,
        "result": result,
        "date_done": fate.finished_at.isoformat(),
    }


def text_removed(fate: Any, meta: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Say that what the result is made of is kept no more."""
    from workers.errors import TextRemovedError  # noqa: PLC0415
    from workers.failure import in_celery_form, stored  # noqa: PLC0415

    return {
        **meta,
        "status": states.FAILURE,
        "result": in_celery_form(stored(TextRemovedError(str(fate.id), fate.state))),
        "date_done": fate.finished_at.isoformat(),
    }


def is_without_attempts(fate: Any) -> bool:  # noqa: ANN401
    """Tell whether the answer went with its attempt, which was older than attempts are kept."""
    return fate.state == "succeeded" and fate.model is None
