"""Answers with what it was asked, for dry runs, tests and benchmarks: no model, no file, no network."""

import re
import threading
import time
from collections.abc import Callable

from workers.engines.answer import Answer
from workers.engines.base import Completion, Request
from workers.engines.errors import CancelledError
from workers.engines.messages import text_of

CANCEL_POLL_S = 0.01
"""How long a wait goes on before the engine asks again whether anybody still wants the answer."""


class EchoEngine:
    """An engine that repeats the last user message; a word, with the space after it, is a token."""

    def __init__(self, name: str = "echo", *, delay_s: float = 0.0, slots: int = 8) -> None:
        self.name = name
        self.slots = slots
        self._delay_s = delay_s
        self._free_slots = threading.BoundedSemaphore(slots)

    def generate(
        self,
        request: Request,
        *,
        on_token: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Completion:
        """Wait for the set delay, then repeat the last user message word by word."""
        started = time.monotonic()
        prompt = [text_of(message, model=self.name) for message in request.messages]
        words = words_of(last_user_text(request, model=self.name))
        with self._free_slots:
            self._wait(cancelled)
            first_token_s = time.monotonic() - started if words else None
            answer = Answer(request.stop)
            spoken = 0
            for word in words[: request.max_tokens]:
                if cancelled():
                    raise CancelledError(self.name)
                spoken += 1
                emit(answer.add(word.encode()), on_token)
                if answer.is_stopped:
                    break
            emit(answer.finish(), on_token)
        is_cut = spoken < len(words) and not answer.is_stopped
        return Completion(
            text=answer.text,
            finish_reason="length" if is_cut else "stop",
            prompt_tokens=sum(len(text.split()) for text in prompt),
            completion_tokens=spoken,
            first_token_s=first_token_s,
        )

    @property
    def is_closed(self) -> bool:
        return False

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _wait(self, cancelled: Callable[[], bool]) -> None:
        until = time.monotonic() + self._delay_s
        while True:
            if cancelled():
                raise CancelledError(self.name)
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, CANCEL_POLL_S))


def last_user_text(request: Request, *, model: str) -> str:
    """Find what the user said last; empty where no message is the user's."""
    for message in reversed(request.messages):
        if message["role"] == "user":
            return text_of(message, model=model)
    return ""


def words_of(text: str) -> list[str]:
    """Cut a text into words that add up to it; space before the first belongs to the first."""
    return re.findall(r"^\s*\S+\s*|\S+\s*", text)


def emit(piece: str, on_token: Callable[[str], None]) -> None:
    if piece:
        on_token(piece)
