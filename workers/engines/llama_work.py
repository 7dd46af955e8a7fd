"""The calls that a GGUF model answers at once: what its one thread does in each step.

Step by step it takes in new calls, lets the model read the next tokens of every sequence in one batch, and
chooses one token for each answer: calls join and leave between steps. The first tokens that calls share, a
profile's system prompt, are computed once and copied.
"""

import time
from collections import deque
from dataclasses import dataclass

from workers.engines.base import Completion
from workers.engines.engine_thread import emit, end_if_given_up, fail
from workers.engines.errors import BadRequestError, ModelUnavailableError
from workers.engines.llama_context import LlamaContext
from workers.engines.llama_model import LlamaModel
from workers.engines.llama_sampler import NoTokenError, Row
from workers.engines.llama_schedule import Call, Reading, Run, Schedule


@dataclass(frozen=True)
class LlamaWork:
    """A loaded model and its calls; only the engine's thread touches it."""

    model: LlamaModel
    context: LlamaContext
    schedule: Schedule

    @property
    def waiting(self) -> deque[Call]:
        return self.schedule.waiting

    @property
    def is_idle(self) -> bool:
        return self.schedule.is_idle

    def forget_all(self) -> list[Call]:
        """Stop what runs; the calls that ran."""
        return list(self.schedule.forget_all())

    def close(self) -> None:
        """Free the model."""
        self.context.close()
        self.model.close()

    def step(self) -> None:
        """Admit, read, choose: one token more for each answer."""
        self._drop_given_up()
        self.schedule.admit()
        for readings in self.schedule.next_batches(self.context.batch.capacity):
            if not self._read(readings):
                return

    def _read(self, readings: list[Reading]) -> bool:
        """Let the model read a batch; false: it failed, and all that ran with it."""
        schedule, batch = self.schedule, self.context.batch
        batch.clear()
        for each in readings:
            batch.add(
                each.tokens,
                position=each.by.length,
                sequence=each.by.sequence,
                wants_logits=each.answers is not None,
            )
        answering = [run for each in readings if (run := each.answers)]
        status = self.context.decode()
        if status:
            self.context.forget_all()
            why = f"llama.cpp failed at a step of {batch.size} tokens with status {status}"
            fail(schedule.forget_all(), ModelUnavailableError(self.model.name, why))
            return False
        schedule.finish_readings(readings)
        if answering:
            for run, logits in zip(answering, self.context.logits(len(answering)), strict=True):
                self._answer(run, logits)
        return True

    def _answer(self, run: Run, logits: Row) -> None:
        """Choose the next token of an answer, and end the answer where it ends."""
        call = run.call
        try:
            token = choose(call, logits, self.model)
            if run.first_token_s is None:
                run.first_token_s = time.monotonic() - call.asked_at
            ending = take(run, token, self.model)
        except Exception as error:  # noqa: BLE001 - grammar or `on_token`: its caller gets the error, nobody else
            call.done.set_exception(error)
            self.schedule.leave(run)
            return
        if ending is None:
            return
        self.schedule.leave(run)
        call.done.set_result(
            Completion(
                text=call.answer.text,
                finish_reason=ending,
                prompt_tokens=len(call.prompt),
                completion_tokens=run.tokens,
                cached_tokens=run.cached_tokens,
                first_token_s=run.first_token_s,
                logprobs=call.logprobs and call.logprobs.told(call.answer.text, self.model.piece),
            )
        )

    def _drop_given_up(self) -> None:
        for run in tuple(self.schedule.running):
            if end_if_given_up(run.call, self.model.name, run.call.request.deadline):
                self.schedule.leave(run)
        for call in tuple(self.schedule.waiting):
            if end_if_given_up(call, self.model.name, call.request.deadline):
                self.schedule.waiting.remove(call)


def choose(call: Call, logits: Row, model: LlamaModel) -> int:
    """Choose a token, and note what is told of it; the end of an answer is no token of it.

    Raises:
        BadRequestError: the grammar leaves none to choose.
    """
    measured = call.logprobs.measure(logits) if call.logprobs else None
    try:
        token = call.sampler.choose(logits)
    except NoTokenError as error:
        raise BadRequestError(model.name, str(error)) from error
    if call.logprobs and measured and token not in model.end_tokens:
        call.logprobs.add(token, measured)
    return token


def take(run: Run, token: int, model: LlamaModel) -> str | None:
    """Add a token to an answer; the reason for which the answer ends with it, if it does."""
    answer, show = run.call.answer, run.call.on_token
    ending = None
    if token in model.end_tokens:
        ending = "stop"
    else:
        run.tokens += 1
        run.unread = [token]
        emit(answer.add(model.piece(token)), show)
        if answer.is_stopped:
            ending = "stop"
        elif run.tokens >= run.call.request.max_tokens:
            ending = "length"
    if ending:
        emit(answer.finish(), show)
    return ending
