"""The wire: what Celery and kombu write into Redis, read and written without them.

Source: kombu 5.7 (transport/redis.py, transport/virtual/base.py) and celery 5.7 (app/amqp.py,
    as_task_v2), read 2026-11; a contract test pins both.
"""

import base64
import json
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from ledger.tasks import QueuedAttempt
from workers.arguments import MOST_LEVELS
from workers.errors import UnreadableMessageError
from workers.values import is_nested_deeper

PRIORITY_SEPARATOR = "\x06\x16"
"""kombu puts a message of priority N > 0 on a list of its own, named queue + separator + N."""

PRIORITY_STEPS = (0, 3, 6, 9)

TASKS = ("complete", "embed", "similar")

ATTEMPT_HEADER = "attempt"

MOST_LEVELS_AROUND = 2 * MOST_LEVELS
"""The arguments may have MOST_LEVELS, and stand in some more."""

LARGEST_MESSAGE = 64_000_000
"""Bytes, also of the body after decompression: a small message must not become a large one."""


@dataclass(frozen=True)
class Message:
    """One call of a task, as a caller sent it."""

    id: UUID
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    priority: int
    eta: datetime | None
    expires: datetime | None
    envelope: dict[str, Any]
    """`headers` and `embed`, to be sent along with the attempt."""
    size_bytes: int
    """Of the body, with what follows in a chain."""


def lists_of(queue: str) -> tuple[str, ...]:
    """Name the Redis lists of a queue, in order of priority."""
    return tuple(queue if step == 0 else f"{queue}{PRIORITY_SEPARATOR}{step}" for step in PRIORITY_STEPS)


def read_message(raw: bytes) -> Message:
    """Read what `delay`, `apply_async` or `send_task` wrote.

    Raises:
        UnreadableMessageError: it is not a task message in JSON, has no valid id, or is too large or nested
            too deep for anybody to read.
    """
    try:
        outer = checked_json(raw)
        headers = dict(outer["headers"])
        body = body_of(outer)
        args, kwargs, embed = read_body(body)
        return Message(
            id=UUID(headers["id"]),
            task=known_task(headers["task"]),
            args=list(args),
            kwargs=dict(kwargs),
            priority=max(0, min(9, int(outer["properties"].get("priority") or 0))),
            eta=moment(headers.get("eta")),
            expires=moment(headers.get("expires")),
            envelope={"headers": without_prompt(headers), "embed": dict(embed or {})},
            size_bytes=len(body),
        )
    except UnreadableMessageError:
        raise
    except KeyError as error:
        raise UnreadableMessageError(f"it has no {error.args[0]}") from error
    except (ValueError, TypeError, AttributeError, zlib.error) as error:
        raise UnreadableMessageError(f"{type(error).__name__}: {error}") from error


def without_prompt(headers: dict[str, Any]) -> dict[str, Any]:
    """Drop what Celery shows of the arguments: from a caller that is not ours it has the prompt in it."""
    return {name: value for name, value in headers.items() if name not in ("argsrepr", "kwargsrepr")}


def checked_json(text: bytes) -> Any:  # noqa: ANN401 - whatever it is
    """Read JSON that is neither too large nor nested too deep."""
    if len(text) > LARGEST_MESSAGE:
        raise UnreadableMessageError(f"it is larger than {LARGEST_MESSAGE:,} bytes")
    try:
        found = json.loads(text)
        if not is_nested_deeper(MOST_LEVELS_AROUND, text, found):
            return found
    except RecursionError:
        pass
    raise UnreadableMessageError(f"it is nested deeper than {MOST_LEVELS_AROUND} levels")


def body_of(outer: dict[str, Any]) -> bytes:
    content_type = outer.get("content-type")
    if content_type != "application/json":
        raise UnreadableMessageError(f"its content type is {content_type!r}, expected application/json")
    body = outer["body"].encode(errors="surrogatepass")
    if outer["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body)
    compression = outer["headers"].get("compression")
    if compression is not None:
        if compression != "application/x-gzip":
            raise UnreadableMessageError(f"it is compressed by {compression!r}, expected gzip or nothing")
        body = zlib.decompressobj().decompress(body, LARGEST_MESSAGE)
    return body


def read_body(body: bytes) -> list[Any]:
    decoded = checked_json(body)
    if not isinstance(decoded, list) or len(decoded) != 3:
        raise UnreadableMessageError("its body is not a list of args, kwargs and embed")
    return decoded


def known_task(name: str) -> str:
    if name not in TASKS:
        raise UnreadableMessageError(f"its task is {name!r}, expected one of {', '.join(TASKS)}")
    return name


def moment(text: str | None) -> datetime | None:
    """Read an ISO 8601 time; one without a zone is UTC, as Celery has it."""
    if not text:
        return None
    value = datetime.fromisoformat(text)
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def lane_message(attempt: QueuedAttempt) -> bytes:
    """Write the message that sends an attempt to its lane.

    It has the caller's id and all that Celery attached to the caller's message, so that results,
    chains, chords and links follow one task; the prompt stays in Postgres.
    """
    envelope = attempt.envelope
    shown = repr({"profile": attempt.profile, "model": attempt.model})
    headers = {
        **envelope["headers"],
        "eta": None,
        "expires": None,
        "compression": None,
        "argsrepr": "()",
        "kwargsrepr": shown,
        ATTEMPT_HEADER: attempt.number,
    }
    body = json.dumps([[], {}, envelope["embed"]]).encode()
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": {
                "correlation_id": str(attempt.task_id),
                "reply_to": "",
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": attempt.queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid4()),
            },
        }
    ).encode()
