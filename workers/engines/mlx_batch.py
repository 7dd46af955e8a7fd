"""The calls that an MLX model answers at once: mlx-lm's `BatchGenerator`, with an admission of our own.

Calls join and leave between steps. The first tokens that calls share, a profile's system prompt, are
computed once and kept: whoever comes while they are being computed waits for that, and lets others pass.
"""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, StopSequences
from mlx_lm.models.cache import LRUPromptCache

from workers.engines.answer import Answer
from workers.engines.base import Completion, Request
from workers.engines.engine_thread import emit, end_if_given_up
from workers.engines.errors import UnsupportedRequestError
from workers.engines.heads import Tokens
from workers.engines.mlx_json import Constraint
from workers.engines.mlx_model import MlxModel
from workers.engines.mlx_sampler import sampler_for

PROMPTS_AT_ONCE = 8

READ_TOKENS = 256
"""How much of each prompt is read in one step: a long prompt must not stall the answers beside it."""

KEPT_HEADS = 16

HEADS_SHARE = 0.25
"""Of the memory for the key-value cache: what shared beginnings may take."""


@dataclass(eq=False)
class Call:
    """One call of `generate`, from the moment it is asked."""

    request: Request
    prompt: list[int]
    head: Tokens
    """Those first tokens of the prompt that other calls have too; empty: none."""
    on_token: Callable[[str], None]
    cancelled: Callable[[], bool]
    constraint: Constraint | None
    answer: Answer
    asked_at: float
    done: Future[Completion] = field(default_factory=Future[Completion])

    @property
    def needed_tokens(self) -> int:
        return len(self.prompt) + self.request.max_tokens


@dataclass(eq=False)
class Run:
    """A call whose answer is being made."""

    call: Call
    cached_tokens: int
    detokenizer: Any
    tokens: int = 0
    """Tokens of the answer, without the one that ends it."""
    first_token_s: float | None = None


class MlxBatch:
    """Calls that wait and answers that are being made; only the engine's thread touches it."""

    def __init__(self, model: MlxModel, *, slots: int, budget_bytes: int, keeps_heads: bool = True) -> None:
        """Begin with nothing to do.

        Args:
            budget_bytes: for the key-value caches of all answers, and the heads that are kept.
            keeps_heads: false: every prompt is computed from its first token on.
        """
        self.model = model
        self.slots = slots
        self.waiting: deque[Call] = deque()
        self.running: dict[int, Run] = {}
        """By mlx-lm's number of the answer."""
        heads_bytes = int(budget_bytes * HEADS_SHARE)
        self.room_tokens = (budget_bytes - heads_bytes) // max(model.kv_bytes_per_token, 1)
        """For all answers together, each with as much as the longest of them: so MLX lays them out."""
        self._heads = LRUPromptCache(KEPT_HEADS, heads_bytes) if keeps_heads else None
        self._computing: dict[Tokens, int] = {}
        """Heads that are being computed, with the answer that pays for it."""
        self._ends = StopSequences([[token] for token in sorted(model.end_tokens)])
        self._generator = BatchGenerator(
            model.weights,
            completion_batch_size=slots,
            prefill_batch_size=min(PROMPTS_AT_ONCE, slots),
            prefill_step_size=READ_TOKENS,
            stream=mx.default_stream(mx.default_device()),
        )

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.running)

    def step(self) -> None:
        """Admit, read, choose: about one token more for each answer."""
        self._drop_given_up()
        self._admit()
        if not self.running:
            return
        prompts, answers = self._generator.next()
        for each in prompts:
            if each.end_of_segment and not each.end_of_prompt:
                self._keep_head(each.uid, each.progress[0])
        for each in answers:
            self._take(each.uid, each.token, each.finish_reason)

    def forget_all(self) -> list[Call]:
        """Stop what runs; the calls that ran."""
        calls = [run.call for run in self.running.values()]
        self.running.clear()
        return calls

    def close(self) -> None:
        """Free all of it, in the thread that made it; without this the process aborts when it ends."""
        with suppress(Exception):  # what failed in a step fails here again
            mx.synchronize()
            self._generator.close()
        del self._generator, self._heads, self.model
        mx.clear_cache()
        mx.clear_streams()

    def _drop_given_up(self) -> None:
        for uid, run in tuple(self.running.items()):
            if end_if_given_up(run.call, self.model.name, run.call.request.deadline):
                self._leave(uid)
        for call in tuple(self.waiting):
            if end_if_given_up(call, self.model.name, call.request.deadline):
                self.waiting.remove(call)

    def _admit(self) -> None:
        """Start the calls that wait longest; where one lacks room, nobody passes it."""
        passed: list[Call] = []
        while self.waiting and len(self.running) < self.slots:
            call = self.waiting.popleft()
            if call.head in self._computing:
                passed.append(call)
                continue
            if not self._has_room(call):
                passed.append(call)
                break
            try:
                self._start(call)
            except Exception as error:  # noqa: BLE001 - this call cannot be taken; the others can
                call.done.set_exception(error)
        self.waiting.extendleft(reversed(passed))

    def _has_room(self, call: Call) -> bool:
        longest = max([call.needed_tokens, *(run.call.needed_tokens for run in self.running.values())])
        return not self.running or longest * (len(self.running) + 1) <= self.room_tokens

    def _start(self, call: Call) -> None:
        cache, rest = self._nearest(call)
        cached = len(call.prompt) - len(rest)
        to_compute = len(call.head) - cached if self._heads is not None else 0
        segments = [rest[:to_compute], rest[to_compute:]] if to_compute > 0 else [rest]
        (uid,) = self._generator.insert_segments(
            [segments],
            max_tokens=[call.request.max_tokens],
            caches=None if cache is None else [cache],
            all_tokens=[call.prompt[:cached]],
            samplers=[sampler_for(call.request, self.model.vocabulary_size)],
            logits_processors=[[call.constraint] if call.constraint else []],
            stop_sequences=[self._ends],
        )
        self.running[uid] = Run(call, cached, self.model.detokenizer())
        if to_compute > 0:
            self._computing[call.head] = uid

    def _nearest(self, call: Call) -> tuple[list[Any] | None, list[int]]:
        """Find the longest beginning of a prompt that is computed; with what is left to compute."""
        if self._heads is None:
            return None, call.prompt
        cache, rest = self._heads.fetch_nearest_cache(self.model.name, call.prompt)
        return (cache, rest) if rest else (None, call.prompt)  # the last token has to be read in any case

    def _keep_head(self, uid: int, read_tokens: int) -> None:
        run = self.running[uid]
        head = run.call.head
        if self._heads is None or read_tokens + run.cached_tokens != len(head):
            return
        cache, _ = self._generator.extract_cache([uid])[uid]
        self._heads.insert_cache(self.model.name, list(head), cache, cache_type="system")
        self._computing.pop(head, None)

    def _take(self, uid: int, token: int, ending: str | None) -> None:
        """Take the next token of an answer, and end the answer where it ends."""
        run = self.running[uid]
        call = run.call
        if run.first_token_s is None:
            run.first_token_s = time.monotonic() - call.asked_at
        try:
            ending = self._show(run, token, ending)
            if ending is None:
                return
        except Exception as error:  # noqa: BLE001 - this call's: its `on_token`, its text; nobody else's
            call.done.set_exception(error)
            self._leave(uid)
            return
        self._leave(uid)
        if call.constraint and call.constraint.fault:
            why = f"its JSON schema: {call.constraint.fault}"
            call.done.set_exception(UnsupportedRequestError(self.model.name, why))
            return
        call.done.set_result(
            Completion(
                text=call.answer.text,
                finish_reason=ending,
                prompt_tokens=len(call.prompt),
                completion_tokens=run.tokens,
                cached_tokens=run.cached_tokens,
                first_token_s=run.first_token_s,
            )
        )

    def _show(self, run: Run, token: int, ending: str | None) -> str | None:
        """Add a token to an answer; the reason for which the answer ends with it, if it does."""
        answer, show = run.call.answer, run.call.on_token
        if ending != "stop":
            run.tokens += 1
            if token not in self.model.silent_tokens:
                run.detokenizer.add_token(token)
        if ending:
            run.detokenizer.finalize()
        emit(answer.add(run.detokenizer.last_segment.encode()), show)
        if answer.is_stopped:
            ending = "stop"
        if ending:
            emit(answer.finish(), show)
        return ending

    def _leave(self, uid: int) -> None:
        run = self.running.pop(uid)
        if self._computing.get(run.call.head) == uid:
            del self._computing[run.call.head]
        self._generator.remove([uid])
