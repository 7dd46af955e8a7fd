"""The tokens of one step, for several sequences at once: a `llama_batch` over numpy arrays."""

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np

INT32 = ctypes.POINTER(ctypes.c_int32)


class Batch:
    """Filled with tokens, decoded, cleared, again and again."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._sequence_counts = np.ones(capacity, np.int32)
        self._wanted = np.zeros(capacity, np.int8)
        first = self._sequences.ctypes.data
        self._sequence_pointers = (INT32 * capacity)(
            *(ctypes.cast(first + 4 * row, INT32) for row in range(capacity))
        )
        self._native = self._point_to_arrays()

    @property
    def free(self) -> int:
        """How many more tokens there is room for."""
        return self.capacity - self.size

    def clear(self) -> None:
        """Empty it for the next step."""
        self.size = 0

    def add(self, tokens: Sequence[int], *, position: int, sequence: int, wants_logits: bool) -> None:
        """Add the next tokens of a sequence.

        Args:
            position: of the first of them in its sequence.
            wants_logits: whether the last of them is to be followed by a choice.
        """
        start, end = self.size, self.size + len(tokens)
        self._tokens[start:end] = tokens
        self._positions[start:end] = range(position, position + len(tokens))
        self._sequences[start:end] = sequence
        self._wanted[start:end] = 0
        self._wanted[end - 1] = wants_logits
        self.size = end

    def decode(self, context: Any) -> int:  # noqa: ANN401 - ctypes has no type for a bare pointer
        """Compute the step; llama.cpp's status, 0 if it went well.

        llama.cpp wants at least one row of logits, so the last row's are made where nobody asked.
        """
        if not self._wanted[: self.size].any():
            self._wanted[self.size - 1] = 1
        self._native.n_tokens = self.size
        return llama_cpp.llama_decode(context, self._native)

    def _point_to_arrays(self) -> Any:  # noqa: ANN401 - llama_cpp types pointers as arrays
        native: Any = llama_cpp.llama_batch()
        native.token = self._tokens.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token))
        native.embd = None
        native.pos = self._positions.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_pos))
        native.n_seq_id = self._sequence_counts.ctypes.data_as(INT32)
        native.seq_id = ctypes.cast(self._sequence_pointers, type(native.seq_id))
        native.logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        return native
