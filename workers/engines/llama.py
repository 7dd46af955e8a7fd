"""GGUF models on the processor, through llama.cpp: many answers at once in one engine.

One thread owns the model. Step by step it takes in new calls, lets the model read the next tokens of
every sequence in one batch, and chooses one token for each answer: calls join and leave between steps.
The first tokens that calls share, a profile's system prompt, are computed once and copied.
"""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from config.catalog import Model
from workers.engines.answer import Answer
from workers.engines.base import Completion, Request
from workers.engines.errors import (
    BadRequestError,
    CancelledError,
    ContextTooLongError,
    DeadlineError,
    ModelUnavailableError,
)
from workers.engines.heads import Tokens
from workers.engines.llama_check import no_template, prove_model
from workers.engines.llama_context import LlamaContext
from workers.engines.llama_grammar import Grammar, grammar_of
from workers.engines.llama_logprobs import Logprobs
from workers.engines.llama_model import LlamaModel
from workers.engines.llama_sampler import NoTokenError, Row, Sampler
from workers.engines.llama_schedule import Call, Reading, Run, Schedule
from workers.engines.llama_tuning import USUAL, Tuning

KEPT_PREFIXES = 4
"""System prompts kept computed; where the cache is divided, each takes the room of a whole context."""


def load(model: Model, *, slots: int) -> "LlamaEngine":
    """Load a model of the catalog from where it is on this host.

    Raises:
        ModelUnavailableError: it is not here, broken, of an unknown kind or too large for the memory,
            or this build of llama.cpp cannot run it.
    """
    proof = prove_model(model)
    return LlamaEngine(
        model.name,
        Path(proof.path),
        context_tokens=model.context_tokens,
        slots=slots,
        tuning=proof.tuning,
        chat_template=model.chat_template,
    )


@dataclass(frozen=True)
class Loaded:
    """What the engine's thread owns."""

    model: LlamaModel
    context: LlamaContext
    schedule: Schedule


class LlamaEngine:
    """One GGUF model; `generate` may be called from any number of threads."""

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        context_tokens: int,
        slots: int = 8,
        prefixes: int = KEPT_PREFIXES,
        threads: int | None = None,
        kv_budget_bytes: int | None = None,
        tuning: Tuning = USUAL,
        chat_template: str | None = None,
    ) -> None:
        """Load a model.

        Args:
            context_tokens: for one prompt with its answer; never more than the model was trained on.
            prefixes: how many shared beginnings are kept computed.
            threads: the most that one step may use; None: one for each core.
            kv_budget_bytes: memory for the key-value cache; None: half of what is free.
            tuning: what is the fastest on this processor.
            chat_template: in Jinja; None: the file's own.

        Raises:
            ModelUnavailableError: the file is missing, broken or of an unknown kind, or there is no
                memory for it.
        """
        self.name = name
        self.slots = slots
        self._arrived: list[Call] = []
        self._rendering = 0
        """Callers that use the vocabulary now: it must not be freed under their hands."""
        self._changed = threading.Condition()
        self._is_closed = False
        loaded: Future[Loaded] = Future()

        def make() -> Loaded:
            model = LlamaModel(name, path, chat_template)
            try:
                check_template(model, path)
                context = LlamaContext(
                    model,
                    context_tokens=min(context_tokens, model.trained_context_tokens),
                    sequences=slots + prefixes,
                    threads=threads,
                    budget_bytes=kv_budget_bytes,
                    tuning=tuning,
                )
            except BaseException:
                model.close()
                raise
            schedule = Schedule(context, slots=slots, prefixes=prefixes, shared_cells=context.shared_cells)
            return Loaded(model, context, schedule)

        # OpenMP's threads belong to the thread that called llama.cpp first, and more teams of them than
        # there are cores make each step several times slower: so one thread loads, decodes and frees.
        self._thread = threading.Thread(
            target=self._live, args=(loaded, make), name=f"llama-{name}", daemon=True
        )
        self._thread.start()
        self._loaded = loaded.result()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def context_tokens(self) -> int:
        """Room for one prompt with its answer."""
        return self._loaded.context.context_tokens

    def generate(
        self,
        request: Request,
        *,
        on_token: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Completion:
        """Answer a request. `on_token` and `cancelled` run in the engine's thread: they must be quick.

        Raises:
            BadRequestError: the model's chat template refuses the conversation, or the grammar is none.
            UnsupportedRequestError: the JSON schema cannot be made into a grammar.
            ContextTooLongError: it does not fit; found before any work is done.
            CancelledError: `cancelled` said so.
            DeadlineError: the request's deadline passed.
            ModelUnavailableError: the engine was closed, or llama.cpp failed.
        """
        asked_at = time.monotonic()
        prompt, head, grammar = self._prepare(request)
        with grammar or nullcontext():
            call = Call(
                request,
                prompt,
                head,
                on_token,
                cancelled,
                Sampler(request, prompt, grammar),
                Answer(request.stop),
                asked_at,
                None if request.top_logprobs is None else Logprobs(request.top_logprobs),
            )
            with self._changed:
                self._check_open()
                self._arrived.append(call)
                self._changed.notify_all()
            return call.done.result()

    def close(self) -> None:
        """Free the model; calls that still run fail."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _prepare(self, request: Request) -> tuple[list[int], Tokens, Grammar | None]:
        """Turn a conversation into tokens; with those at its beginning that others share, and its grammar."""
        with self._changed:
            self._check_open()
            self._rendering += 1
        try:
            prompt = self._loaded.model.render(request.messages)
            needed = len(prompt) + request.max_tokens
            if needed > self.context_tokens:
                raise ContextTooLongError(self.name, needed, self.context_tokens)
            head = self._loaded.model.heads.of(request.messages, prompt)
            return prompt, head, grammar_of(request, self._loaded.model)
        finally:
            with self._changed:
                self._rendering -= 1
                self._changed.notify_all()

    def _check_open(self) -> None:
        if self._is_closed:
            raise self._closed_error()

    def _closed_error(self) -> ModelUnavailableError:
        return ModelUnavailableError(self.name, "the engine was closed")

    # What follows runs in the engine's thread.

    def _live(self, loaded: Future[Loaded], make: Callable[[], Loaded]) -> None:
        try:
            own = make()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for it
            loaded.set_exception(error)
            return
        loaded.set_result(own)
        try:
            while self._wait_for_calls(own.schedule):
                self._step(own)
        finally:  # also after an error of our own: nobody may wait for an answer that never comes
            with self._changed:
                self._is_closed = True
                self._changed.wait_for(lambda: not self._rendering)
            calls = [*own.schedule.forget_all(), *own.schedule.waiting, *self._arrived]
            fail(calls, self._closed_error())
            own.context.close()
            own.model.close()

    def _wait_for_calls(self, schedule: Schedule) -> bool:
        """Take in the calls that arrived, after a sleep if there is nothing to do; false: to be closed."""
        with self._changed:
            while schedule.is_idle and not (self._arrived or self._is_closed):
                self._changed.wait()
            schedule.waiting.extend(self._arrived)
            self._arrived.clear()
            return not self._is_closed

    def _step(self, own: Loaded) -> None:
        """Admit, read, choose: one token more for each answer."""
        self._drop_cancelled(own.schedule)
        own.schedule.admit()
        for readings in own.schedule.next_batches(own.context.batch.capacity):
            if not self._read(own, readings):
                return

    def _read(self, own: Loaded, readings: list[Reading]) -> bool:
        """Let the model read a batch; false: it failed, and all that ran with it."""
        schedule, batch = own.schedule, own.context.batch
        batch.clear()
        for each in readings:
            batch.add(
                each.tokens,
                position=each.by.length,
                sequence=each.by.sequence,
                wants_logits=each.answers is not None,
            )
        answering = [run for each in readings if (run := each.answers)]
        status = own.context.decode()
        if status:
            own.context.forget_all()
            why = f"llama.cpp failed at a step of {batch.size} tokens with status {status}"
            fail(schedule.forget_all(), ModelUnavailableError(self.name, why))
            return False
        schedule.finish_readings(readings)
        if answering:
            for run, logits in zip(answering, own.context.logits(len(answering)), strict=True):
                self._answer(own, run, logits)
        return True

    def _answer(self, own: Loaded, run: Run, logits: Row) -> None:
        """Choose the next token of an answer, and end the answer where it ends."""
        call = run.call
        try:
            token = choose(call, logits, own.model)
            if run.first_token_s is None:
                run.first_token_s = time.monotonic() - call.asked_at
            ending = take(run, token, own.model)
        except Exception as error:  # noqa: BLE001 - grammar or `on_token`: its caller gets the error, nobody else
            call.done.set_exception(error)
            own.schedule.leave(run)
            return
        if ending is None:
            return
        own.schedule.leave(run)
        call.done.set_result(
            Completion(
                text=call.answer.text,
                finish_reason=ending,
                prompt_tokens=len(call.prompt),
                completion_tokens=run.tokens,
                cached_tokens=run.cached_tokens,
                first_token_s=run.first_token_s,
                logprobs=call.logprobs and call.logprobs.told(call.answer.text, own.model.piece),
            )
        )

    def _drop_cancelled(self, schedule: Schedule) -> None:
        now = datetime.now(UTC)
        for run in tuple(schedule.running):
            if self._end_if_cancelled(run.call, now):
                schedule.leave(run)
        for call in tuple(schedule.waiting):
            if self._end_if_cancelled(call, now):
                schedule.waiting.remove(call)

    def _end_if_cancelled(self, call: Call, now: datetime) -> bool:
        deadline = call.request.deadline
        try:
            if call.cancelled():
                call.done.set_exception(CancelledError(self.name))
            elif deadline is not None and deadline <= now:
                call.done.set_exception(DeadlineError(self.name))
            else:
                return False
        except Exception as error:  # noqa: BLE001 - the caller's own function failed: it is the caller's error
            call.done.set_exception(error)
        return True


def check_template(model: LlamaModel, path: Path) -> None:
    """Refuse a model that no conversation can be written for."""
    if not model.has_template:
        raise no_template(model.name, path)


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


def emit(piece: str, show: Callable[[str], Any]) -> None:
    if piece:
        show(piece)


def fail(calls: Iterable[Call], error: Exception) -> None:
    for call in calls:
        call.done.set_exception(error)
