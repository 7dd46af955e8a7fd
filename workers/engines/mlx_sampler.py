"""The choice of the next tokens, as functions over rows of MLX's log-probabilities.

One function for each setting, so that answers with the same setting are chosen together in one call; an
answer with a seed has a function of its own, whose chance nobody else uses up.

A function that raises would end all answers of a step, so what it cannot take is not given to it.
"""

from collections.abc import Callable
from functools import lru_cache

import mlx.core as mx
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, make_sampler

from workers.engines.base import Request

Sampler = Callable[[mx.array], mx.array]

KEPT_SETTINGS = 256


def sampler_for(request: Request, vocabulary_size: int) -> Sampler:
    """Give the function that chooses the tokens of an answer; always the likeliest at temperature 0."""
    if request.temperature <= 0:
        return shared(0.0, 1.0, 0, 0.0)
    top_k = request.top_k if 0 < request.top_k < vocabulary_size else 0
    top_p = request.top_p if 0 < request.top_p < 1 else 1.0
    min_p = min(max(request.min_p, 0.0), 1.0)
    if request.seed is None:
        return shared(request.temperature, top_p, top_k, min_p)
    return seeded(request.temperature, top_p, top_k, min_p, request.seed)


@lru_cache(KEPT_SETTINGS)
def shared(temperature: float, top_p: float, top_k: int, min_p: float) -> Sampler:
    return make_sampler(temperature, top_p=top_p, top_k=top_k, min_p=min_p)


def seeded(temperature: float, top_p: float, top_k: int, min_p: float, seed: int) -> Sampler:
    """Make a function that chooses as the shared ones do, by a chance of its own.

    Source: mlx-lm 0.32.2, sample_utils.py, make_sampler: top_p, min_p, top_k, then the temperature.
    """
    key = mx.random.key(seed % 2**64)

    def choose(rows: mx.array) -> mx.array:
        nonlocal key
        if top_p < 1:
            rows = apply_top_p(rows, top_p)
        if min_p > 0:
            rows = apply_min_p(rows, min_p)
        if top_k > 0:
            rows = apply_top_k(rows, top_k)
        key, now = mx.random.split(key)
        return mx.random.categorical(rows * (1 / temperature), key=now)

    return choose
