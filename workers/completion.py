"""What a caller gets: an OpenAI chat.completion with one extra key, `fleet`."""

from typing import Any

from ledger.tasks import Fate


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
    finished_at, claimed_at = fate.finished_at or fate.accepted_at, fate.claimed_at or fate.accepted_at
    return {
        "id": f"chatcmpl-{fate.id}",
        "object": "chat.completion",
        "created": int(finished_at.timestamp()),
        "model": fate.model,
        "choices": [{"index": 0, "logprobs": None, **answer}],
        "usage": usage,
        "fleet": {
            "profile": fate.profile,
            "model": fate.model,
            "tier": fate.tier,
            "attempts": fate.attempts,
            "tokens_are_estimated": fate.tokens_are_estimated,
            "cost_usd": None if fate.cost_usd is None else plain(fate.cost_usd),
            "waited_s": round((claimed_at - fate.accepted_at).total_seconds(), 3),
            "ran_s": round((finished_at - claimed_at).total_seconds(), 3),
        },
    }


def plain(usd: object) -> str:
    """Write money without an exponent and without trailing zeros: `0`, `0.0012`."""
    text = f"{usd:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
