"""A GGUF embedding model as llama.cpp runs it: tokens of several texts in, a vector for each out.

`tokenize` may be called by any thread, the rest by the engine's alone.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from workers.engines import llama_log
from workers.engines.errors import ModelUnavailableError
from workers.engines.llama_batch import Batch
from workers.engines.llama_context import physical_cores
from workers.engines.llama_model import load_weights, tokens_in
from workers.engines.llama_threads import ThreadCount

MOST_TEXTS = 64
"""In one step; llama.cpp takes 256."""


class LlamaEmbedModel:
    """The weights of an embedding model, and room to read some texts."""

    def __init__(
        self, name: str, path: Path, *, context_tokens: int, step_tokens: int, threads: int | None = None
    ) -> None:
        """Load a file.

        Args:
            context_tokens: that it reads of one text; never more than it was trained on.
            step_tokens: that it reads at once, unless one text has more.
            threads: the most that one step may use; None: one for each core.

        Raises:
            ModelUnavailableError: it is missing, broken, of an unknown kind, or there is no memory for it.
        """
        self.name = name
        self.most_texts = MOST_TEXTS
        self._weights: Any = load_weights(name, path)
        self._pointer: Any = None
        try:
            self._vocabulary: Any = llama_cpp.llama_model_get_vocab(self._weights)
            trained: int = llama_cpp.llama_model_n_ctx_train(self._weights)
            self.context_tokens = min(context_tokens, trained)
            self.dimensions: int = llama_cpp.llama_model_n_embd(self._weights)
            threads = threads or physical_cores()
            self._threads = ThreadCount(threads)
            self._batch = Batch(max(step_tokens, self.context_tokens))
            self._make_context(threads)
        except BaseException:
            self.close()
            raise

    def tokenize(self, text: str) -> list[int]:
        """Turn a text into tokens; what looks like a special token in it is only text."""
        return tokens_in(text, self._vocabulary, model=self.name, adds_special=True, reads_special=False)

    def compute(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Read texts together, which fit into a step.

        Returns:
            A vector of length 1 for each, in their order.

        Raises:
            ModelUnavailableError: llama.cpp failed.
        """
        self._batch.clear()
        for sequence, tokens in enumerate(texts):
            self._batch.add(tokens, position=0, sequence=sequence, wants_logits=True)
        memory: Any = llama_cpp.llama_get_memory(self._pointer)
        if memory:  # models that read from left to right have a cache, which holds the last step
            llama_cpp.llama_memory_clear(memory, True)
        threads = self._threads.choose(self._batch.size)
        llama_cpp.llama_set_n_threads(self._pointer, threads, threads)
        began = time.monotonic()
        status = self._batch.decode(self._pointer)
        llama_cpp.llama_synchronize(self._pointer)
        self._threads.note(self._batch.size, time.monotonic() - began)
        if status:
            why = f"llama.cpp failed at a step of {self._batch.size} tokens with status {status}"
            raise ModelUnavailableError(self.name, why)
        return [self._vector(sequence) for sequence in range(len(texts))]

    def close(self) -> None:
        """Free the model."""
        if self._pointer:
            llama_cpp.llama_free(self._pointer)
            self._pointer = None
        if self._weights:
            llama_cpp.llama_model_free(self._weights)
            self._weights = None

    def _vector(self, sequence: int) -> list[float]:
        pointer: Any = llama_cpp.llama_get_embeddings_seq(self._pointer, sequence)
        vector = np.ctypeslib.as_array(pointer, shape=(self.dimensions,)).astype(np.float64)
        length = float(np.linalg.norm(vector))
        if not np.isfinite(length) or length == 0:
            raise ModelUnavailableError(self.name, "it made a vector that has no direction")
        return (vector / length).tolist()

    def _make_context(self, threads: int) -> None:
        """Make room, and pool the tokens as the file says; by their mean, where it does not say.

        Raises:
            ModelUnavailableError: there is no memory for it, or the model ranks texts instead.
        """
        params = llama_cpp.llama_context_default_params()
        # A text is read in one step, because its tokens look at those after them, too.
        params.n_ctx = params.n_batch = params.n_ubatch = self._batch.capacity
        params.n_seq_max = MOST_TEXTS
        params.n_outputs_max = self._batch.capacity
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.embeddings = True
        params.kv_unified = True
        params.no_perf = True
        for pooling in (llama_cpp.LLAMA_POOLING_TYPE_UNSPECIFIED, llama_cpp.LLAMA_POOLING_TYPE_MEAN):
            params.pooling_type = pooling
            llama_log.errors.clear()
            self._pointer = llama_cpp.llama_init_from_model(self._weights, params)
            if not self._pointer:
                room = f"{self._batch.capacity:,} tokens"
                why = f"llama.cpp cannot make room for {room}: {llama_log.first_error()}"
                raise ModelUnavailableError(self.name, why)
            found = llama_cpp.llama_pooling_type(self._pointer)
            if found == llama_cpp.LLAMA_POOLING_TYPE_RANK:
                raise ModelUnavailableError(self.name, "it ranks texts and makes no embeddings")
            if found != llama_cpp.LLAMA_POOLING_TYPE_NONE:
                return
            llama_cpp.llama_free(self._pointer)
            self._pointer = None
