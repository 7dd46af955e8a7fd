"""A llama.cpp context: the key-value cache, and how its room is given to sequences.

Only the engine's thread may touch it.
"""

import time
from dataclasses import dataclass
from typing import Any

import llama_cpp
import numpy as np
import psutil
from numpy.typing import NDArray

from workers.engines import llama_log
from workers.engines.errors import ModelUnavailableError
from workers.engines.llama_batch import Batch
from workers.engines.llama_model import LlamaModel
from workers.engines.llama_threads import ThreadCount
from workers.engines.llama_tuning import USUAL, KvType, Tuning

BATCH_TOKENS = 512
"""Tokens in one step; more gain nothing on a processor and make a step long."""

KV_SHARE = 0.5
"""Of the memory that is free once the weights are loaded: what the cache may take."""

WHOLE_SEQUENCE = TO_THE_END = -1
"""llama.cpp's word for the first position there is, and for the last."""

GB = 1_000_000_000

GGML_TYPES: dict[KvType, int] = {"f16": 1, "bf16": 30}
"""ggml's numbers of the types that a cache may hold."""


@dataclass(frozen=True)
class Layout:
    """How the key-value cache is divided among sequences."""

    is_shared: bool
    """False: each sequence has room of its own for a whole context. True: all share one room."""
    cells: int
    """Tokens that all sequences hold together."""


def choose_layout(
    *,
    context_tokens: int,
    sequences: int,
    bytes_per_token: int,
    budget_bytes: int,
    prefers_shared: bool = False,
) -> Layout | None:
    """Divide the cache where there is memory to do so and sharing is not faster, else share it.

    Divided, each answer is computed as if it were alone, and comes out the same whatever runs beside it
    (measured: 32 of 32 greedy answers equal to serial ones, against 28 where it was shared). Shared, it
    needs the memory of only one context; calls that find no room wait.

    Returns:
        None: there is not even room for one context.
    """
    wanted = context_tokens * sequences
    affordable = budget_bytes // max(bytes_per_token, 1)
    if wanted <= affordable:
        return Layout(is_shared=prefers_shared, cells=wanted)
    return Layout(is_shared=True, cells=affordable) if affordable >= context_tokens else None


class LlamaContext:
    """Sequences of tokens that a model has read, ready to be continued."""

    def __init__(
        self,
        model: LlamaModel,
        *,
        context_tokens: int,
        sequences: int,
        threads: int | None = None,
        budget_bytes: int | None = None,
        tuning: Tuning = USUAL,
    ) -> None:
        """Make room for a number of sequences.

        Raises:
            ModelUnavailableError: there is no memory for it.
        """
        if budget_bytes is None:
            budget_bytes = int(psutil.virtual_memory().available * KV_SHARE)
        layout = choose_layout(
            context_tokens=context_tokens,
            sequences=sequences,
            bytes_per_token=model.kv_bytes_per_token,
            budget_bytes=budget_bytes,
            prefers_shared=tuning.is_shared,
        )
        if layout is None:
            raise no_room(model, context_tokens)
        self.context_tokens = context_tokens
        self.shared_cells = layout.cells if layout.is_shared else None
        """Tokens that all sequences hold together; None: each has room for a whole context."""
        threads = threads or physical_cores()
        self._threads = ThreadCount(threads)
        self._pointer: Any = make_context(model, layout, sequences, threads, tuning)
        self._memory: Any = llama_cpp.llama_get_memory(self._pointer)
        self.batch = Batch(BATCH_TOKENS)
        self._vocabulary_size = model.vocabulary_size

    def decode(self) -> int:
        """Compute the batch; llama.cpp's status, 0 if it went well."""
        threads = self._threads.choose(self.batch.size)
        llama_cpp.llama_set_n_threads(self._pointer, threads, threads)
        began = time.monotonic()
        status = self.batch.decode(self._pointer)
        llama_cpp.llama_synchronize(self._pointer)
        self._threads.note(self.batch.size, time.monotonic() - began)
        return status

    def logits(self, rows: int) -> NDArray[np.float32]:
        """Give what the last step made: one row for each that was asked for, in their order.

        A view of llama.cpp's own memory: the next step overwrites it.
        """
        pointer = llama_cpp.llama_get_logits(self._pointer)
        return np.ctypeslib.as_array(pointer, shape=(rows, self._vocabulary_size))

    def copy(self, source: int, goal: int) -> None:
        """Let a sequence begin with all that another one holds."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, goal, WHOLE_SEQUENCE, TO_THE_END)

    def forget(self, sequence: int, after: int = 0) -> bool:
        """Let a sequence forget all after its first tokens.

        Returns:
            Whether it has kept those; a recurrent model can only forget all, and has done so.
        """
        if llama_cpp.llama_memory_seq_rm(self._memory, sequence, after, TO_THE_END):
            return True
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, WHOLE_SEQUENCE, TO_THE_END)
        return False

    def forget_all(self) -> None:
        """Empty every sequence."""
        llama_cpp.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        """Free the cache."""
        llama_cpp.llama_free(self._pointer)


def make_context(model: LlamaModel, layout: Layout, sequences: int, threads: int, tuning: Tuning) -> Any:  # noqa: ANN401 - a bare pointer
    """Make llama.cpp's context.

    Raises:
        ModelUnavailableError: llama.cpp could not make it, usually for want of memory.
    """
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = layout.cells
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.n_seq_max = sequences
    params.n_outputs_max = sequences  # rows of logits; the default is one for each token of a batch
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if tuning.flash_attention
        else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    params.type_k = params.type_v = GGML_TYPES[tuning.kv_type]
    params.kv_unified = layout.is_shared
    params.swa_full = True  # a sliding window forgets what a shared beginning needs
    params.no_perf = True
    llama_log.errors.clear()
    pointer = llama_cpp.llama_init_from_model(model.pointer, params)
    if not pointer:
        why = f"llama.cpp cannot make room for {layout.cells:,} tokens: {llama_log.first_error()}"
        raise ModelUnavailableError(model.name, why)
    return pointer


def no_room(model: LlamaModel, context_tokens: int) -> ModelUnavailableError:
    needed = context_tokens * model.kv_bytes_per_token / KV_SHARE / GB
    why = (
        f"its context of {context_tokens:,} tokens needs {needed:.1f} GB of free memory; "
        "lower context_tokens in models.yaml or close something"
    )
    return ModelUnavailableError(model.name, why)


def physical_cores() -> int:
    """Count the cores that this process may use; two threads on one core only wait for each other."""
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    try:
        allowed = psutil.Process().cpu_affinity()
    except AttributeError:  # macOS pins nothing
        return physical
    return min(physical, len(allowed)) if allowed else physical
