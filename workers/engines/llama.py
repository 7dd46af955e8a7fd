"""GGUF models on the processor, through llama.cpp: many answers at once in one engine.

One thread owns the model; see `engine_thread`. What it does in a step is in `llama_work`.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from config.catalog import Model
from workers.engines.answer import Answer
from workers.engines.base import Completion, Request
from workers.engines.engine_thread import EngineThread
from workers.engines.errors import ContextTooLongError
from workers.engines.llama_check import no_template, prove_model
from workers.engines.llama_context import LlamaContext
from workers.engines.llama_grammar import grammar_of
from workers.engines.llama_logprobs import Logprobs
from workers.engines.llama_model import LlamaModel
from workers.engines.llama_sampler import Sampler
from workers.engines.llama_schedule import Call, Schedule
from workers.engines.llama_tuning import USUAL, Tuning
from workers.engines.llama_work import LlamaWork

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

        def make() -> LlamaWork:
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
            return LlamaWork(model, context, schedule)

        # OpenMP's threads belong to the thread that called llama.cpp first, and more teams of them than
        # there are cores make each step several times slower: so one thread loads, decodes and frees.
        self._thread = EngineThread(name, make)
        self._loaded = self._thread.work

    @property
    def is_closed(self) -> bool:
        return self._thread.is_closed

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
        with ExitStack() as held:
            with self._thread.visit() as work:
                prompt = work.model.render(request.messages)
                needed = len(prompt) + request.max_tokens
                if needed > self.context_tokens:
                    raise ContextTooLongError(self.name, needed, self.context_tokens)
                grammar = grammar_of(request, work.model)
                if grammar is not None:
                    held.enter_context(grammar)
                call = Call(
                    request,
                    prompt,
                    work.model.heads.of(request.messages, prompt),
                    on_token,
                    cancelled,
                    Sampler(request, prompt, grammar),
                    Answer(request.stop),
                    asked_at,
                    None if request.top_logprobs is None else Logprobs(request.top_logprobs),
                )
                self._thread.begin(call)
            return call.done.result()

    def close(self) -> None:
        """Free the model; calls that still run fail."""
        self._thread.close()


def check_template(model: LlamaModel, path: Path) -> None:
    """Refuse a model that no conversation can be written for."""
    if not model.has_template:
        raise no_template(model.name, path)
