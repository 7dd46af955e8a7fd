"""A model in a process of its own, asked through a pipe: the fleet's engine, or llama-cpp-python's `Llama`.

`python -m benchmarks.llama_peer engine FILE SLOTS` or `... llama FILE`. OpenMP's threads belong to a process;
two models in one would hold each other up.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from workers.engines.base import Completion, Request
from workers.engines.llama import LlamaEngine
from workers.engines.llama_check import prove
from workers.engines.llama_context import GGML_TYPES, physical_cores

CONTEXT_TOKENS = 1024
Answer = dict[str, Any]
Ask = Callable[..., Answer]


def main() -> None:
    """Say what the tokens are that end an answer; then answer one line of JSON with another."""
    kind, file, *slots = sys.argv[1:]
    ask, end_tokens = engine(file, int(slots[0])) if kind == "engine" else (high_level(file), [])
    print(json.dumps(end_tokens), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        conversations: Sequence[Any] = asked["conversations"]
        began = time.perf_counter()
        answer = partial(ask, max_tokens=asked["max_tokens"], is_endless=asked["is_endless"])
        with ThreadPoolExecutor(len(conversations) if asked["at_once"] else 1) as callers:
            answers = list(callers.map(answer, conversations))
        print(json.dumps({"took_s": time.perf_counter() - began, "answers": answers}), flush=True)


def engine(file: str, slots: int) -> tuple[Ask, list[int]]:
    """Load the fleet's engine."""
    tuning = prove("benchmark", Path(file)).tuning
    model = LlamaEngine("benchmark", Path(file), context_tokens=CONTEXT_TOKENS, slots=slots, tuning=tuning)
    end_tokens = sorted(model._loaded.model.end_tokens)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - answers of full length
    endless = dict.fromkeys(end_tokens, -100.0)

    def ask(messages: list[Any], max_tokens: int, *, is_endless: bool) -> Answer:
        bias = endless if is_endless else {}
        request = Request(messages, max_tokens=max_tokens, temperature=0.0, logit_bias=bias)
        completion: Completion = model.generate(request, on_token=lambda _: None, cancelled=lambda: False)
        return {
            "text": completion.text,
            "tokens": completion.completion_tokens,
            "first_token_s": completion.first_token_s,
            "prompt_tokens": completion.prompt_tokens,
        }

    return ask, end_tokens


def high_level(file: str) -> Ask:
    """Load llama-cpp-python's own class, with the threads and the cache of ours."""
    from llama_cpp import Llama  # noqa: PLC0415

    cores, tuning = physical_cores(), prove("benchmark", Path(file)).tuning
    numbers = GGML_TYPES[tuning.kv_type]
    model = Llama(
        file,
        n_ctx=CONTEXT_TOKENS,
        n_threads=cores,
        n_threads_batch=cores,
        flash_attn=tuning.flash_attention,
        type_k=numbers,
        type_v=numbers,
        verbose=False,
    )

    def ask(messages: list[Any], max_tokens: int, *, is_endless: bool) -> Answer:
        if is_endless:
            raise ValueError("Llama is asked for answers that end by themselves")
        answer: Any = model.create_chat_completion(messages, max_tokens=max_tokens, temperature=0.0)
        text, tokens = answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]
        return {"text": text, "tokens": tokens}

    return ask


if __name__ == "__main__":
    main()
