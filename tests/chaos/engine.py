"""An engine that does what the prompt says, and keeps a journal of its calls.

A prompt is words. Those that it knows: `nap:SECONDS`, and, for the first attempt of a task only, `overload`,
`limited`, `empty` and `die`; for every attempt, `bug`, `refuse` and `poison`. It answers with the prompt.
"""

import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import current_task

from config.models import Model
from tests.chaos.journal import Journal
from workers.engines.base import Completion, Request
from workers.engines.echo import EchoEngine, last_user_text
from workers.engines.errors import BadRequestError, CancelledError, OverloadedError, RateLimitedError
from workers.messages import ATTEMPT_HEADER

POLL_S = 0.01

LIMITED_S = 2


class ChaosEngine:
    """Echo, with the faults of real engines."""

    def __init__(self, model: Model, journal: Journal, slots: int) -> None:
        self.model = model
        self.journal = journal
        self.slots = slots
        self.echo = EchoEngine(model.name, slots=slots)

    def generate(
        self,
        request: Request,
        *,
        on_token: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Completion:
        """Answer, or do what the prompt says instead.

        Its provider charges for the whole answer as the call begins.
        """
        words = last_user_text(request, model=self.model.name).split()
        key = running_attempt()
        answer = self.echo.generate(request, on_token=on_token, cancelled=lambda: False)
        failure = failure_of(self.model.name, words, is_first=key["attempt"] == 1)
        is_charged = failure is None
        self.journal.write(
            "call",
            **key,
            model=self.model.name,
            prompt_tokens=answer.prompt_tokens * is_charged,
            completion_tokens=answer.completion_tokens * is_charged,
        )
        self.wait(float(self.model.upstream or 0) + nap_s(words), cancelled)
        if "poison" in words or ("die" in words and key["attempt"] == 1):
            self.journal.write("death", **key)
            os.kill(os.getpid(), signal.SIGKILL)
        if failure is not None:
            raise failure
        if "empty" in words and key["attempt"] == 1:
            return Completion("", "stop", answer.prompt_tokens, answer.completion_tokens)
        return answer

    @property
    def is_closed(self) -> bool:
        return False

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def wait(self, for_s: float, cancelled: Callable[[], bool]) -> None:
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            if cancelled():
                raise CancelledError(self.model.name)
            time.sleep(POLL_S)


def running_attempt() -> dict[str, Any]:
    """Tell which attempt this thread runs, from the message that brought it."""
    request: Any = current_task.request
    return {"task": request.id, "attempt": request.headers[ATTEMPT_HEADER], "worker": request.hostname}


def nap_s(words: list[str]) -> float:
    return sum(float(word.removeprefix("nap:")) for word in words if word.startswith("nap:"))


def failure_of(model: str, words: list[str], *, is_first: bool) -> Exception | None:
    if "bug" in words:
        return RuntimeError("a bug, as the prompt asked")
    if "refuse" in words:
        return BadRequestError(model, "as the prompt asked")
    if "overload" in words and is_first:
        return OverloadedError(model, "as the prompt asked")
    if "limited" in words and is_first:
        return RateLimitedError(model, "", datetime.now(UTC) + timedelta(seconds=LIMITED_S))
    return None
