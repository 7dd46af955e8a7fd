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

TOKENS_PER_PROMPT = 100
"""What a template says of its own accord: a default system prompt, the date, the model's name."""

TOKENS_PER_IMAGE = 2000
"""Of a large one. Source: the providers' pages on images, 2026-11: 85 to about 1,600."""

LETTERS = string.ascii_letters.encode()

LETTERS_PER_TOKEN = 2
"""English has about 4.5 a token; random ones, as in a key, have a little more than 2."""

ASCII = "ASCII"
LAST_OF_ASCII = 127
NOT_ASCII = bytes(range(LAST_OF_ASCII + 1, 256))

SAMPLE = 2000
"""Characters that tell the script of a text."""


def estimate_tokens(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] = ()) -> int:
    """Estimate the tokens of a prompt, rather too high than too low.

    A vocabulary falls back to single bytes where it knows nothing larger, so bytes bound the tokens; only
    ASCII letters are counted at less.
    """
    of_messages = sum(TOKENS_PER_MESSAGE + tokens_of(message) for message in messages)
    of_tools = tokens_in(json.dumps(tools)) + TOKENS_PER_MESSAGE if tools else 0
    return TOKENS_PER_PROMPT + of_messages + of_tools


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


def wide_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """Tell how many tokens of an estimate are for characters beyond ASCII, which most models pack tighter."""
    raw = "".join(text_of(message) for message in messages).encode()
    return len(raw) - len(raw.translate(None, NOT_ASCII))


def script_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """Name the script that most of a prompt beyond ASCII is written in, as Unicode does: `CJK`, `THAI`.

    A model's vocabulary knows some scripts better than others, so its estimate is corrected for each.
    """
    text = "".join(text_of(message) for message in messages)
    if text.isascii():
        return ASCII
    wide = [letter for letter in text if ord(letter) > LAST_OF_ASCII and letter.isalpha()]
    sample = wide[:: max(1, len(wide) // SAMPLE)]
    scripts = Counter(unicodedata.name(letter, "?").split(" ")[0] for letter in sample)
    return scripts.most_common(1)[0][0] if scripts else ASCII


def text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(str(p.get("text", "")) for p in parts_of(message))


def parts_of(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else ()
