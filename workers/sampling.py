"""How tokens are chosen, beyond temperature, top_p and seed: checked, and as an engine takes it."""

from collections.abc import Mapping
from typing import Any

from config.models import Capability
from workers.errors import InvalidCallError
from workers.values import kind, real, storable, whole

RANGES: Mapping[str, tuple[float, float]] = {
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repeat_penalty": (0.1, 10),
}
"""OpenAI's, and for llama.cpp's own what still gives sentences."""

MOST_TOP_K = 100_000
MOST_LOGPROBS = 20
MOST_BIASES = 1024
STRONGEST_BIAS = 100.0


def checked_sampling(
    *,
    top_k: object,
    logit_bias: object,
    logprobs: object,
    top_logprobs: object,
    grammar: object,
    has_form: bool,
    **numbers: object,
) -> dict[str, Any]:
    """Check what a caller named of it; what is left out is the model's.

    Args:
        has_form: whether `response_format` says already what the answer must be.
        numbers: those of RANGES.

    Raises:
        InvalidCallError: one is not what it should be.
    """
    checked: dict[str, Any] = {
        "top_k": whole("top_k", top_k, 0, MOST_TOP_K),
        "logit_bias": biases(logit_bias),
        "top_logprobs": told(logprobs, top_logprobs),
        "grammar": rules(grammar, has_form=has_form),
    }
    for name, value in numbers.items():
        checked[name] = None if value is None else real(name, value, *RANGES[name], default=0)
    return {name: value for name, value in checked.items() if value is not None}


def sampling_needs(sampling: Mapping[str, Any]) -> list[Capability]:
    """List what a model must be able to do for it."""
    needed: dict[Capability, str] = {
        "grammar": "grammar",
        "logprobs": "top_logprobs",
        "logit_bias": "logit_bias",
    }
    return [capability for capability, name in needed.items() if name in sampling]


def engine_form(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Turn it from what the ledger keeps into fields of an engine's request."""
    if "logit_bias" not in sampling:
        return dict(sampling)
    return {**sampling, "logit_bias": {int(token): bias for token, bias in sampling["logit_bias"].items()}}


def told(logprobs: object, top_logprobs: object) -> int | None:
    """Say how many chances are told beside the chosen token's; None: none at all."""
    if logprobs is not None and not isinstance(logprobs, bool):
        raise InvalidCallError("logprobs", f"true or false, got {kind(logprobs)}")
    count = whole("top_logprobs", top_logprobs, 0, MOST_LOGPROBS)
    if count is not None and not logprobs:
        raise InvalidCallError("top_logprobs", "given with logprobs=True only")
    return (count or 0) if logprobs else None


def biases(value: object) -> dict[str, float] | None:
    """Check OpenAI's `logit_bias`: from a token's number to what is added to its logit."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or len(value) > MOST_BIASES:
        raise InvalidCallError(
            "logit_bias", f"a mapping of at most {MOST_BIASES} tokens to numbers, got {kind(value)}"
        )
    checked: dict[str, float] = {}
    for token, bias in value.items():
        if not str(token).isdecimal():
            raise InvalidCallError("logit_bias", f"numbers of tokens as keys, got {token!r}")
        where = f"logit_bias[{token}]"
        checked[str(token)] = real(where, bias, -STRONGEST_BIAS, STRONGEST_BIAS, default=0)
    return checked or None


def rules(value: object, *, has_form: bool) -> str | None:
    """Check a grammar as far as that can be done without llama.cpp."""
    if value is None:
        return None
    if not isinstance(value, str) or "root" not in value:
        raise InvalidCallError("grammar", f"a text in GBNF with a rule `root`, got {kind(value)}")
    if has_form:
        raise InvalidCallError("grammar", "left out beside response_format: both say what the answer must be")
    return storable("grammar", value)
