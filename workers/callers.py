"""Telling a caller, through Celery's results, how a task ended that no worker ran."""

from typing import Any

from celery import Celery
from celery.app.task import Context

from ledger.tasks import EndedTask
from workers.failure import in_celery_form


def tell_failed(app: Celery, ended: EndedTask, error: dict[str, Any]) -> None:
    """Store the error under the task's id, and run what Celery attached for that case."""
    exception = app.backend.exception_to_python(in_celery_form(error))
    app.backend.mark_as_failure(str(ended.id), exception, request=request_of(ended))


def tell_cancelled(app: Celery, ended: EndedTask) -> None:
    """Store that the task was revoked, and run what Celery attached for that case."""
    app.backend.mark_as_revoked(str(ended.id), "revoked", request=request_of(ended))


def request_of(ended: EndedTask) -> Context:
    """Rebuild the request that a worker would have seen."""
    return Context(
        {
            **ended.envelope["headers"],
            **ended.envelope["embed"],
            "id": str(ended.id),
            "args": [],
            "kwargs": {},
            "delivery_info": {},
        }
    )
