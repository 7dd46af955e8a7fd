"""How many tokens a text will be, before any model has counted them."""

import json
import math
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

TOKENS_PER_MESSAGE = 8
"""A chat template's own words around each message: role, start and end marks."""

TOKENS_PER_IMAGE = 2000
"""Of a large one. Source: the providers' pages on images, 2026-11: 85 to about 1,600."""

LETTERS = string.ascii_letters.encode()

LETTERS_PER_TOKEN = 2
"""English has about 4.5 a token; random ones, as in a key, have a little more than 2."""

SAMPLE = 2000
"""Characters that tell the script of a text."""


def estimate_tokens(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] = ()) -> int:
    """Estimate the tokens of a prompt, rather too high than too low.

    A vocabulary falls back to single bytes where it knows nothing larger, so bytes bound the tokens; only
    ASCII letters are counted at less.
    """
    of_messages = sum(TOKENS_PER_MESSAGE + tokens_of(message) for message in messages)
    return of_messages + (tokens_in(json.dumps(tools)) + TOKENS_PER_MESSAGE if tools else 0)


def tokens_of(message: Mapping[str, Any]) -> int:
    """Estimate a message: its text, its images, the tools that it calls."""
    images = sum(part.get("type") != "text" for part in parts_of(message))
    called = json.dumps(message["tool_calls"]) if message.get("tool_calls") else ""
    return tokens_in(text_of(message)) + tokens_in(called) + images * TOKENS_PER_IMAGE


def tokens_in(text: str) -> int:
    """Estimate a text."""
    raw = text.encode()
    letters = len(raw) - len(raw.translate(None, LETTERS))
    return len(raw) - letters + math.ceil(letters / LETTERS_PER_TOKEN)


def script_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """Name the script that most of a prompt is written in, as Unicode does: `LATIN`, `CJK`, `THAI`.

    A model's vocabulary knows some scripts better than others, so its estimate is corrected for each.
    """
    text = "".join(text_of(message) for message in messages)
    sample = text[:: max(1, len(text) // SAMPLE)]
    scripts = Counter(unicodedata.name(letter, "?").split(" ")[0] for letter in sample if letter.isalpha())
    return scripts.most_common(1)[0][0] if scripts else "NONE"


def text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(str(p.get("text", "")) for p in parts_of(message))


def parts_of(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else ()
