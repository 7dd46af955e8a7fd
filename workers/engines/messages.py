"""The text of chat messages, for models that read nothing but text."""

from collections.abc import Sequence
from typing import Any

from workers.engines.base import Message
from workers.engines.errors import BadRequestError


def text_of(message: Message, *, model: str) -> str:
    """Read a message's text; several text parts become one text.

    Raises:
        BadRequestError: a part is not text, e.g. an image.
    """
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    parts: Sequence[dict[str, Any]] = content
    for part in parts:
        if part.get("type") != "text":
            raise BadRequestError(model, f"it reads text only, not {part.get('type')!r}")
    return "".join(str(part["text"]) for part in parts)


def as_text(messages: Sequence[Message], *, model: str) -> list[dict[str, Any]]:
    """Write messages the way chat templates of text models expect them.

    `developer` is OpenAI's newer name of `system`; templates know only the older one.

    Raises:
        BadRequestError: a part of a message is not text.
    """
    return [
        {
            **message,
            "role": "system" if message["role"] == "developer" else message["role"],
            "content": text_of(message, model=model),
        }
        for message in messages
    ]
