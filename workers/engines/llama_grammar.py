"""What an answer must be, as a grammar: llama.cpp's, one for each sequence.

A grammar is only asked about tokens that could be chosen, not about the whole vocabulary at each step.
"""

import ctypes
import json
from collections.abc import Mapping
from typing import Any, Self

import llama_cpp
import numpy as np
from llama_cpp.llama_grammar import json_schema_to_gbnf
from numpy.typing import NDArray

from workers.engines.base import Request
from workers.engines.errors import BadRequestError, UnsupportedRequestError
from workers.engines.llama_model import LlamaModel
from workers.engines.llama_sampler import Tokens

CANDIDATE = np.dtype([("token", np.int32), ("logit", np.float32), ("chance", np.float32)])
"""A `llama_token_data`."""

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class Grammar:
    """The rules of one answer, and how far the answer has come in them; free it with `close`."""

    def __init__(self, model: LlamaModel, gbnf: str) -> None:
        """Read the rules.

        Raises:
            BadRequestError: they are not GBNF, or not of a kind that llama.cpp can follow.
        """
        self._pointer: Any = llama_cpp.llama_sampler_init_grammar(model.vocabulary, gbnf.encode(), b"root")
        if not self._pointer:
            why = "its grammar is not GBNF with a rule `root` that can be followed from left to right"
            raise BadRequestError(model.name, why)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def allows(self, tokens: Tokens) -> NDArray[np.bool_]:
        """Tell for each token whether it may come next."""
        candidates = np.zeros(len(tokens), CANDIDATE)
        candidates["token"] = tokens
        array: Any = llama_cpp.llama_token_data_array()
        array.data = ctypes.cast(candidates.ctypes.data, llama_cpp.llama_token_data_p)
        array.size, array.selected, array.sorted = len(tokens), -1, False
        reference: Any = ctypes.byref(array)
        llama_cpp.llama_sampler_apply(self._pointer, reference)
        return np.isfinite(candidates["logit"])

    def accept(self, token: int) -> None:
        """Take in the token that came; it must be one that is allowed, or llama.cpp ends the process."""
        llama_cpp.llama_sampler_accept(self._pointer, token)

    def close(self) -> None:
        """Free it."""
        if self._pointer:
            llama_cpp.llama_sampler_free(self._pointer)
            self._pointer = None


def grammar_of(request: Request, model: LlamaModel) -> Grammar | None:
    """Make the grammar that a request asks for; None: its answer may be anything.

    Raises:
        BadRequestError: the grammar cannot be read.
        UnsupportedRequestError: the schema has a part that cannot be made into a grammar.
    """
    if request.grammar is not None:
        return Grammar(model, request.grammar)
    form = request.response_format
    if form is None or form["type"] == "text":
        return None
    schema = form["json_schema"]["schema"] if form["type"] == "json_schema" else ANY_OBJECT
    try:
        gbnf = json_schema_to_gbnf(json.dumps(schema))
    except Exception as error:
        why = f"its JSON schema has a part that llama.cpp cannot follow: {error}"
        raise UnsupportedRequestError(model.name, why) from error
    return Grammar(model, gbnf)
