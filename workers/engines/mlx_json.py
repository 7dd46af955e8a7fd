"""Answers that fit a JSON schema: llguidance says which tokens may follow, MLX lets no other be chosen."""

import itertools
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import llguidance
import llguidance.hf
import llguidance.numpy
import mlx.core as mx
import numpy as np

from workers.engines.errors import BadRequestError

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def schema_of(response_format: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Read the schema that an answer has to fit out of OpenAI's `response_format`; None: it is free."""
    if response_format is None or response_format["type"] == "text":
        return None
    if response_format["type"] == "json_object":
        return ANY_OBJECT
    return response_format["json_schema"]["schema"]


class JsonRules:
    """A model's tokens as llguidance knows them; makes the constraint of each answer."""

    def __init__(self, name: str, tokenizer: Any, end_tokens: Sequence[int], vocabulary_size: int) -> None:  # noqa: ANN401 - a Hugging Face tokenizer
        self.name = name
        self.end_tokens = tuple(end_tokens)
        self.vocabulary_size = vocabulary_size
        self._tokens = llguidance.hf.from_tokenizer(
            tokenizer, n_vocab=vocabulary_size, eos_token=list(self.end_tokens)
        )

    def constraint(self, schema: Mapping[str, Any]) -> "Constraint":
        """Compile a schema.

        Raises:
            BadRequestError: llguidance does not know what the schema asks for.
        """
        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            json.dumps(schema),
            # Space between the parts may not go on for ever, so there is none.
            defaults={"whitespace_flexible": False},
        )
        matcher = llguidance.LLMatcher(self._tokens, grammar)
        if matcher.is_error():
            raise BadRequestError(self.name, f"its JSON schema: {matcher.get_error()}")
        return Constraint(matcher, self.end_tokens, self.vocabulary_size)


class Constraint:
    """What keeps one answer to its schema; MLX calls it at each step with the tokens so far.

    It never raises, which would end all answers of the step: after a fault it lets the answer end.
    """

    def __init__(
        self, matcher: llguidance.LLMatcher, end_tokens: Sequence[int], vocabulary_size: int
    ) -> None:
        self.fault: str | None = None
        """Why the answer is worth nothing."""
        self._matcher = matcher
        self._has_begun = False
        self._mask = llguidance.numpy.allocate_token_bitmask(1, vocabulary_size)
        self._only_end = np.zeros_like(self._mask)
        for token in end_tokens:
            self._only_end[0, token // 32] |= np.array(1 << token % 32, np.uint32).view(np.int32)

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Take in the token chosen last, and rule out those that may not follow it."""
        if self._has_begun:  # at first the last token is the prompt's
            self._take(int(tokens[-1].item()))  # pyright: ignore[reportArgumentType] - tokens are whole
        self._has_begun = True
        mask = self._only_end
        if not self._matcher.is_stopped() and not self.fault:
            llguidance.numpy.fill_next_token_bitmask(self._matcher, self._mask, 0)
            mask = self._mask
        rows = biases(logits.dtype)[mx.array(mask).view(mx.uint8)].flatten(-2)
        return logits + rows[..., : logits.shape[-1]]

    def _take(self, token: int) -> None:
        if self._matcher.is_stopped() or self.fault:
            return  # the step that was computed ahead
        if not self._matcher.consume_token(token):
            self.fault = self._matcher.get_error() or "a token was chosen that does not fit"


@cache
def biases(dtype: mx.Dtype) -> mx.array:
    """Give what the 8 bits of each byte of a mask add to 8 logits; every backend can look that up."""
    ruled_out, allowed = float("-inf"), 0.0
    rows = [bits[::-1] for bits in itertools.product((ruled_out, allowed), repeat=8)]
    return mx.array(rows, dtype=dtype)
