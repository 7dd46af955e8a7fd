"""What was asked and answered: on the page of a task, and whole, as files."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from dashboard.text import VISIBLE
from dashboard.view import View
from ledger import browse
from ledger.browse import Texts


def routes(view: View) -> APIRouter:
    """Make the files."""
    router = APIRouter(prefix="/tasks")

    @router.get("/{task_id}/{name}.txt")
    def text_file(task_id: UUID, name: str) -> Response:
        with view.reading() as db:
            texts = browse.texts(db, task_id)
        whole = {"prompt": prompt_text(texts), "answer": answer_text(texts.answer)}.get(name)
        if whole is None:
            return PlainTextResponse("There is no such text.", 404)
        return PlainTextResponse(
            whole.translate(VISIBLE),
            headers={
                "Content-Disposition": f'attachment; filename="{name}-{task_id}.txt"',
                "Content-Security-Policy": "default-src 'none'; sandbox",
            },
        )

    return router


def messages(request: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """List (role, text) of what was asked."""
    asked: list[dict[str, Any]] = (request or {}).get("messages", [])
    return [(str(message.get("role")), content_text(message)) for message in asked]


def content_text(message: Mapping[str, Any]) -> str:
    """Write the content of a message; what is not a text is written as JSON."""
    content = message.get("content")
    if content is None:
        content = message.get("tool_calls", "")
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=1)


def prompt_text(texts: Texts) -> str | None:
    if texts.request is None:
        return None
    return "\n\n".join(f"[{role}]\n{text}" for role, text in messages(texts.request))


def answer_text(answer: Mapping[str, Any] | None) -> str | None:
    return None if answer is None else content_text(answer["message"])
