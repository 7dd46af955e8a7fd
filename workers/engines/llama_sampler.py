"""The choice of the next token out of a model's logits, in numpy.

A row has 50,000 to 250,000 logits, nearly all of them hopeless. Finding the few that count first makes
this faster than llama.cpp's own sampler chain, with the same order of steps: biases, penalties, top_k,
top_p, min_p, then temperature.

Source: llama.cpp common/sampling.cpp, the default order of samplers, read 2026-11.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.engines.base import Request

Row = NDArray[np.float32]
Tokens = NDArray[np.intp]

BLOCKS = 64
"""A row is looked at as 64 lines, so that their column maxima are few and quickly made."""

HOPELESS = 30.0
"""A logit this far under the highest has less than e**-30 of its chance."""

REPEAT_TOKENS = 64
"""How far back the repeat penalty looks; llama.cpp's default."""

GRAMMAR_TOKENS = 256
"""So many of the likeliest tokens are held against a grammar first; all of them only if none fits."""


class NoTokenError(Exception):
    """A grammar allows no token of the vocabulary to come next."""

    def __str__(self) -> str:
        return "its grammar leads to where no token can follow"


class Rules(Protocol):
    """What a grammar allows next."""

    def allows(self, tokens: Tokens) -> NDArray[np.bool_]:
        """Tell for each token whether it may come next."""
        ...

    def accept(self, token: int) -> None:
        """Take in the token that came."""
        ...


class Sampler:
    """Chooses the tokens of one answer."""

    def __init__(self, request: Request, prompt: Sequence[int] = (), rules: Rules | None = None) -> None:
        self._temperature = request.temperature
        self._top_k = request.top_k
        self._top_p = request.top_p
        self._min_p = request.min_p
        self._presence = request.presence_penalty
        self._frequency = request.frequency_penalty
        self._repeat = request.repeat_penalty
        self._bias = dict(request.logit_bias)
        self._counts: Counter[int] = Counter()
        self._recent = deque(prompt, maxlen=REPEAT_TOKENS) if self._repeat != 1 else None
        self._rules = rules
        self._chance = np.random.default_rng(request.seed)

    def choose(self, logits: Row) -> int:
        """Choose one token; always the likeliest at temperature 0. Biases and penalties change the row."""
        self._weigh(logits)
        token = self._draw(logits)
        if self._rules is not None:
            if not self._rules.allows(np.array([token]))[0]:
                token = self._draw_allowed(logits, self._rules)
            self._rules.accept(token)
        if self._presence or self._frequency:
            self._counts[token] += 1
        if self._recent is not None:
            self._recent.append(token)
        return token

    def _weigh(self, logits: Row) -> None:
        for token, bias in self._bias.items():
            if token < len(logits):
                logits[token] += bias
        if self._recent:
            seen = np.array(list(set(self._recent)))
            row = logits[seen]
            logits[seen] = np.where(row > 0, row / self._repeat, row * self._repeat)
        for token, count in self._counts.items():
            logits[token] -= self._presence + count * self._frequency

    def _draw(self, logits: Row) -> int:
        if self._temperature <= 0:
            return int(logits.argmax())
        few = likeliest(logits, self._top_k) if self._top_k else hopeful(logits, self._temperature)
        return self._draw_from(few, logits)

    def _draw_allowed(self, logits: Row, rules: Rules) -> int:
        """Choose among the tokens that the grammar allows.

        Raises:
            NoTokenError: there is none.
        """
        few = likeliest(logits, max(GRAMMAR_TOKENS, self._top_k))
        allowed = few[rules.allows(few)]
        if not len(allowed):
            every = np.arange(len(logits))
            allowed = every[rules.allows(every)]
        if not len(allowed):
            raise NoTokenError
        return self._draw_from(allowed, logits)

    def _draw_from(self, tokens: Tokens, logits: Row) -> int:
        scores = logits[tokens].astype(np.float64)
        if self._temperature <= 0:
            return int(tokens[scores.argmax()])
        order = np.argsort(-scores, kind="stable")[: self._top_k or None]
        scores = scores[order]
        shares = np.exp(scores - scores[0])
        shares /= shares.sum()
        count = int(np.searchsorted(np.cumsum(shares), self._top_p)) + 1 if self._top_p < 1 else len(order)
        if self._min_p > 0:
            count = min(count, int(np.count_nonzero(shares >= self._min_p * shares[0])))
        sums = np.cumsum(np.exp((scores[:count] - scores[0]) / self._temperature))
        at = np.searchsorted(sums, self._chance.random() * sums[-1], side="right")
        return int(tokens[order[min(int(at), len(sums) - 1)]])


def likeliest(logits: Row, count: int) -> Tokens:
    """Find at least the `count` highest logits, and few more.

    The `count`-th highest of the column maxima is a floor: at least `count` logits reach it.
    """
    width = len(logits) // BLOCKS
    if count >= width:
        return np.arange(len(logits))
    maxima = logits[: width * BLOCKS].reshape(BLOCKS, width).max(axis=0)
    floor = np.partition(maxima, width - count)[width - count]
    return np.flatnonzero(logits >= floor)


def hopeful(logits: Row, temperature: float) -> Tokens:
    """Find the logits that could be chosen in the life of this machine."""
    return np.flatnonzero(logits >= logits.max() - HOPELESS * max(temperature, 1.0))
