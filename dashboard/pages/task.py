"""A task: its life from top to bottom, what was asked and answered, and what can be done with it."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from dashboard.pages.texts import answer_text, messages
from dashboard.view import View
from ledger import browse, usage
from ledger.usage import AttemptInFull
from workers.again import run_again
from workers.cancel import OPEN, cancel
from workers.errors import UnknownTaskError
from workers.explain import asked, course
from workers.life import cost, find_task, life

TEXT_SHOWN = 20_000
"""Characters of a prompt or an answer on the page; the whole of it is a file."""

WAIT_S = 3.0
"""How long a click waits for the dispatcher to act."""

LOOK_S = 0.05


def routes(view: View) -> APIRouter:
    """Make the page, and what its buttons do."""
    router = APIRouter(prefix="/tasks")

    def show(request: Request, task_id: str, said: str | None = None) -> HTMLResponse:
        with view.reading() as db:
            found = life(db, view.catalog, task_id)
            texts = browse.texts(db, found.task.id)
        before = found.task.accepted_at
        attempts: list[tuple[AttemptInFull, Any, Any]] = []
        for attempt in found.attempts:
            attempts.append((attempt, list(course(attempt, before)), parts(attempt, before)))
            before = attempt.finished_at or before
        return view.page(
            request,
            "task",
            found=found,
            task=found.task,
            asked=list(asked(found.task)),
            attempts=attempts,
            cost=cost(found.attempts),
            is_open=found.task.state in OPEN,
            messages=messages(texts.request),
            answer=answer_text(texts.answer),
            texts=texts,
            shown=TEXT_SHOWN,
            said=said,
        )

    @router.get("/{task_id}")
    def task(request: Request, task_id: str) -> Response:
        try:
            return show(request, task_id)
        except UnknownTaskError as error:
            is_new = "new" in request.query_params
            return view.page(request, "no_task", 200 if is_new else 404, what=str(error), is_new=is_new)

    @router.post("/{task_id}/cancel")
    def cancel_task(request: Request, task_id: str) -> Response:
        with view.reading() as db:
            done = cancel(db, view.settings, task_id, WAIT_S)
        if done.is_cancelled:
            return RedirectResponse(f"/tasks/{done.task_id}", 303)
        return show(request, str(done.task_id), f"Not cancelled: {done.text}.")

    @router.post("/{task_id}/again")
    def again(task_id: str) -> Response:
        with view.reading() as db:
            made = run_again(db, find_task(db, task_id))
            end = time.monotonic() + WAIT_S
            while usage.state(db, made) is None and time.monotonic() < end:
                time.sleep(LOOK_S)
        return RedirectResponse(f"/tasks/{made}?new", 303)

    return router


def parts(attempt: AttemptInFull, before: datetime) -> list[tuple[str, float, float]]:
    """Divide the time of an attempt for a bar: (what, begin, width), both in per cent.

    Args:
        before: when the task was accepted, or when its attempt before this one ended.
    """
    end = attempt.finished_at or datetime.now(UTC)
    marks = [("held", before), ("queued", attempt.queued_at)]
    if attempt.claimed_at:
        marks.append(("thinking" if attempt.first_token_s is not None else "running", attempt.claimed_at))
        if attempt.first_token_s is not None:
            marks.append(("running", attempt.claimed_at + timedelta(seconds=attempt.first_token_s)))
    whole = max((end - before).total_seconds(), 0.001)
    ends = [at for _, at in marks[1:]] + [end]
    return [
        (
            what,
            round(100 * (begin - before).total_seconds() / whole, 2),
            round(100 * max((stop - begin).total_seconds(), 0) / whole, 2),
        )
        for (what, begin), stop in zip(marks, ends, strict=True)
    ]
