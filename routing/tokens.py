"""How many tokens a text will be, before any model has counted them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

BYTES_PER_TOKEN = 2.0
"""English prose has about 4.5 bytes a token, code 3, Chinese 3 to 4, so this is never too low for them."""

TOKENS_PER_MESSAGE = 8
"""A chat template's own words around each message: role, start and end marks."""


def estimate_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """Estimate the tokens of a prompt, rather too high than too low."""
    return sum(TOKENS_PER_MESSAGE + math.ceil(bytes_of(message) / BYTES_PER_TOKEN) for message in messages)


def bytes_of(message: Mapping[str, Any]) -> int:
    """Count the UTF-8 bytes of a message's text."""
    content = message.get("content") or ""
    parts = [content] if isinstance(content, str) else [str(part.get("text", "")) for part in content]
    return sum(len(part.encode()) for part in parts)
