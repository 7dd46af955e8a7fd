"""What a caller gets: a response of OpenAI's API with one extra key, `fleet`."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ledger.embeddings import Vector
from ledger.tasks import Fate

Computed = Callable[[str, Collection[bytes]], Mapping[bytes, Vector]]
"""Reads vectors: those of a model, by hash."""


def response(fate: Fate, computed: Computed) -> dict[str, Any]:
    """Make the response of a task that succeeded; the same from Redis and from the ledger.

    Raises:
        KeyError: it is about vectors that somebody has removed.
    """
    answer = fate.answer or {}
    if "hashes" in answer:
        return embeddings(fate, answer, computed)
    return matches(fate, answer) if "matches" in answer else completion(fate)


def embeddings(fate: Fate, answer: Mapping[str, Any], computed: Computed) -> dict[str, Any]:
    """Make the response of `embed`."""
    hashes = [bytes.fromhex(key) for key in answer["hashes"]]
    vectors = computed(fate.model or "", set(hashes))
    data = [
        {"object": "embedding", "index": index, "embedding": vectors[key].numbers}
        for index, key in enumerate(hashes)
    ]
    return a_list(fate, answer, data)


def matches(fate: Fate, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Make the response of `similar`."""
    return a_list(fate, answer, [{"index": index, **each} for index, each in enumerate(answer["matches"])])


def a_list(fate: Fate, answer: Mapping[str, Any], data: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": data,
        "model": fate.model,
        "usage": {
            "prompt_tokens": fate.prompt_tokens or 0,
            "total_tokens": fate.prompt_tokens or 0,
            "prompt_tokens_details": {"cached_tokens": fate.cached_tokens or 0},
        },
        "fleet": {**fleet(fate), "cached": answer["cached"]},
    }


def completion(fate: Fate) -> dict[str, Any]:
    """Make the chat.completion of a task that succeeded; the same from Redis and from the ledger."""
    answer = fate.answer or {"message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
    prompt_tokens, completion_tokens = fate.prompt_tokens or 0, fate.completion_tokens or 0
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    if fate.cached_tokens:
        usage["prompt_tokens_details"] = {"cached_tokens": fate.cached_tokens}
    finished_at = fate.finished_at or fate.accepted_at
    return {
        "id": f"chatcmpl-{fate.id}",
        "object": "chat.completion",
        "created": int(finished_at.timestamp()),
        "model": fate.model,
        "choices": [{"index": 0, "logprobs": None, **answer}],
        "usage": usage,
        "fleet": fleet(fate),
    }


def fleet(fate: Fate) -> dict[str, Any]:
    """Say what ran it, what it cost and how long it took."""
    finished_at, claimed_at = fate.finished_at or fate.accepted_at, fate.claimed_at or fate.accepted_at
    return {
        "profile": fate.profile,
        "model": fate.model,
        "tier": fate.tier,
        "attempts": fate.attempts,
        "tokens_are_estimated": fate.tokens_are_estimated,
        "cost_usd": None if fate.cost_usd is None else plain(fate.cost_usd),
        "waited_s": round((claimed_at - fate.accepted_at).total_seconds(), 3),
        "ran_s": round((finished_at - claimed_at).total_seconds(), 3),
    }


def plain(usd: object) -> str:
    """Write money without an exponent and without trailing zeros: `0`, `0.0012`."""
    text = f"{usd:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
