"""Which way of running llama.cpp is the fastest on this processor: a short trial with the model itself.

Flash attention, the numbers in the key-value cache and how it is divided: what is best differs from processor
to processor and from model to model. Runs in the child process of `workers.engines.llama_check`.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace

from workers.engines.errors import ModelUnavailableError
from workers.engines.llama_context import LlamaContext
from workers.engines.llama_model import LlamaModel
from workers.engines.llama_tuning import USUAL, Tuning

ANSWERS = 8
"""Made at once in the trial."""

CONTEXT_TOKENS = 256
PROMPT_TOKENS = 64
STEPS = 4

STEPS_PER_PROMPT = 8
"""How many steps of ANSWERS come for each prompt that is read: answers of 64 tokens."""

TRIAL_S = 8.0
"""No new round begins after this time. One is always made; with 8 billion parameters it may take a minute."""

MOST_ROUNDS = 5

MARGIN = 0.95
"""Another way must take less than this share of the usual one's time: a smaller gain may be chance."""

SHARED_MARGIN = 0.85
"""So with a shared cache, in which answers are no longer the same whatever runs beside them."""

CACHES = (Tuning(), Tuning(flash_attention=True), Tuning(flash_attention=True, kv_type="bf16"))


def find_tuning(model: LlamaModel) -> Tuning:
    """Try the ways of computing attention, then those of dividing the cache."""
    best = fastest(model, CACHES)
    return fastest(model, (best, replace(best, is_shared=True)), SHARED_MARGIN)


def fastest(model: LlamaModel, ways: Sequence[Tuning], margin: float = MARGIN) -> Tuning:
    """Find the fastest of some ways; the first one, unless another is clearly faster."""
    took_s: dict[Tuning, float] = {}
    began = time.monotonic()
    with ExitStack() as stack:
        contexts = {way: stack.enter_context(closing(made)) for way, made in usable(model, ways)}
        for _ in range(MOST_ROUNDS):
            for way, context in contexts.items():  # in turns, so that all meet the same disturbances
                took_s[way] = min(round_s(model, context), took_s.get(way, float("inf")))
            if time.monotonic() - began > TRIAL_S:
                break
    usual = ways[0]
    best = min(took_s, key=lambda way: took_s[way], default=usual)
    return best if usual not in took_s or took_s[best] < margin * took_s[usual] else usual


def usable(model: LlamaModel, ways: Sequence[Tuning]) -> Iterator[tuple[Tuning, LlamaContext]]:
    """Make a context for each way; llama.cpp cannot run every model in every way."""
    for way in ways:
        try:
            yield way, LlamaContext(model, context_tokens=CONTEXT_TOKENS, sequences=ANSWERS, tuning=way)
        except ModelUnavailableError:
            if way == USUAL:
                raise


def round_s(model: LlamaModel, context: LlamaContext) -> float:
    """Time what the work of some answers takes: a prompt, then steps of all of them.

    Raises:
        ModelUnavailableError: a step fails.
    """
    context.forget_all()
    began = time.perf_counter()
    read(model, context, [0] * PROMPT_TOKENS, 0, (0,))
    prompt_s = time.perf_counter() - began
    for sequence in range(1, ANSWERS):
        context.copy(0, sequence)
    began = time.perf_counter()
    for step in range(STEPS):
        read(model, context, [0], PROMPT_TOKENS + step, range(ANSWERS))
    return prompt_s + STEPS_PER_PROMPT * (time.perf_counter() - began) / STEPS


def read(
    model: LlamaModel, context: LlamaContext, tokens: Sequence[int], position: int, sequences: Sequence[int]
) -> None:
    context.batch.clear()
    for sequence in sequences:
        context.batch.add(tokens, position=position, sequence=sequence, wants_logits=True)
    status = context.decode()
    if status:
        raise ModelUnavailableError(model.name, f"llama.cpp failed at a step with status {status}")
