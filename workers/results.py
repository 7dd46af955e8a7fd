"""Celery's result backend: Redis first, then the ledger.

Redis holds results for a day and may lose them; Postgres is the truth.
"""

import logging
from typing import Any
from uuid import UUID

from celery import states
from celery.app.task import Context
from celery.backends.redis import RedisBackend

from config.settings import settings

logger = logging.getLogger(__name__)


class LedgerBackedRedis(RedisBackend):
    """Redis results, completed from the ledger where Redis knows nothing."""

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002 - Celery's
        """Tell what is known of a task; for those who ask, not for Celery before it stores a result."""
        meta: dict[str, Any] = super().get_task_meta(task_id, cache)
        if meta["status"] != states.PENDING:
            return meta
        return self.meta_from_ledger(task_id) or meta

    def _store_result(
        self,
        task_id: str,
        result: object,
        state: str,
        traceback: str | None = None,
        request: Context | None = None,
        **_: object,
    ) -> object:
        """Store a result without looking first whether there is one: an attempt ends once."""
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = task_id
        self._set_with_state(self.get_key_for_task(task_id), self.encode(meta), state)
        return result

    def _set(self, key: str, value: str | bytes, expires: int | None = None) -> None:
        """Write a result and tell who waits, without MULTI: the one who is told has the value in hand."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.set(key, value, ex=expires or self.expires or None)
            pipe.publish(key, value)
            pipe.execute()

    def meta_from_ledger(self, task_id: str) -> dict[str, Any] | None:
        """Look a task up in the ledger.

        Returns:
            Celery's result meta; None where the ledger does not know the task either, or cannot be
            reached from here: an agent's host needs Redis alone.
        """
        import psycopg  # noqa: PLC0415 - a caller whose results are all in Redis never loads it

        from ledger.connect import connect  # noqa: PLC0415
        from ledger.tasks import fates  # noqa: PLC0415

        try:
            key = UUID(task_id)
        except ValueError:
            return None
        try:
            with connect(settings().database_url, name="results", by_key=True) as db:
                found = fates(db, [key])
        except psycopg.Error as error:
            logger.debug("the ledger cannot be reached: %s", type(error).__name__)
            return None
        return self.meta_from_decoded(meta_of(found[0])) if found else None


def meta_of(fate: Any) -> dict[str, Any]:  # noqa: ANN401 - a Fate; its module loads psycopg
    """Turn a task's fate into Celery's result meta, before exceptions are rebuilt."""
    from workers.completion import completion  # noqa: PLC0415
    from workers.errors import TextRemovedError  # noqa: PLC0415
    from workers.failure import in_celery_form, stored  # noqa: PLC0415

    meta: dict[str, Any] = {"task_id": str(fate.id), "result": None, "traceback": None, "children": []}
    if fate.state in ("succeeded", "failed") and (fate.is_text_removed or is_without_attempts(fate)):
        return {
            **meta,
            "status": states.FAILURE,
            "result": in_celery_form(stored(TextRemovedError(str(fate.id), fate.state))),
            "date_done": fate.finished_at.isoformat(),
        }
    if fate.state == "succeeded" and fate.answer is None:
        # Its profile keeps no text, and the worker is about to store the result.
        return {**meta, "status": states.STARTED}
    if fate.state == "succeeded":
        return {
            **meta,
            "status": states.SUCCESS,
            "result": completion(fate),
            "date_done": fate.finished_at.isoformat(),
        }
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


def is_without_attempts(fate: Any) -> bool:  # noqa: ANN401
    """Tell whether the answer went with its attempt, which was older than attempts are kept."""
    return fate.state == "succeeded" and fate.model is None
