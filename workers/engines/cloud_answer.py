"""A chat completion while its stream comes in: the message, why it ended, and what it cost."""

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from config.models import NANODOLLAR

GROWING = ("content", "refusal", "reasoning", "reasoning_content")
"""Texts of a message that come in pieces."""


class Usage(NamedTuple):
    """What the provider says was used."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost_usd: Decimal | None
    """None: it does not say."""


class StreamedAnswer:
    """Puts the chunks of one answer together; nothing that the provider gave is left out."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        """None: the answer has not come to its end."""
        self.usage: Usage | None = None
        self._texts: dict[str, list[str]] = {}
        self._tool_calls: dict[int, dict[str, Any]] = {}
        self._others: dict[str, Any] = {}
        self._logprobs: dict[str, list[Any]] = {}

    def take(self, chunk: Mapping[str, Any]) -> tuple[str, bool]:
        """Take a chunk, or a whole completion.

        Returns:
            (text that the chunk adds to the content, whether it adds anything at all).

        Raises:
            ValueError, TypeError, KeyError, AttributeError: it has not the form of one.
        """
        self.usage = usage_in(chunk) or self.usage
        choices: Sequence[Mapping[str, Any]] = chunk.get("choices") or ()
        if not choices:
            return "", False
        choice = choices[0]
        self.usage = usage_in(choice) or self.usage
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        for kind, entries in (choice.get("logprobs") or {}).items():
            if entries:
                self._logprobs.setdefault(kind, []).extend(entries)
        delta: Mapping[str, Any] = choice.get("delta") or choice.get("message") or {}
        has_grown = False
        for key, value in delta.items():
            if value in (None, "", []) or key == "role":
                continue
            has_grown = True
            self._add(key, value)
        text = delta.get("content")
        return (text if isinstance(text, str) else ""), has_grown

    def _add(self, key: str, value: Any) -> None:  # noqa: ANN401 - JSON
        if key in GROWING and isinstance(value, str):
            self._texts.setdefault(key, []).append(value)
        elif key == "tool_calls":
            for place, call in enumerate(value):
                self._add_to_call(call, place)
        elif isinstance(value, list):
            self._others.setdefault(key, []).extend(value)
        else:
            self._others[key] = value

    def _add_to_call(self, piece: Mapping[str, Any], place: int) -> None:
        call = self._tool_calls.setdefault(piece.get("index", place), {})
        function = piece.get("function") or {}
        call |= {key: value for key, value in piece.items() if key not in ("index", "function") and value}
        if function:
            known = call.setdefault("function", {"name": "", "arguments": ""})
            known["name"] = known["name"] or function.get("name") or ""
            known["arguments"] += function.get("arguments") or ""

    @property
    def text(self) -> str:
        return "".join(self._texts.get("content", ()))

    @property
    def all_text(self) -> str:
        """Everything that the model wrote: the thoughts and the tool calls too."""
        texts = [piece for pieces in self._texts.values() for piece in pieces]
        return "".join([*texts, *(str(call.get("function", "")) for call in self._tool_calls.values())])

    @property
    def extras(self) -> dict[str, Any]:
        """What the message has besides its content."""
        texts = {key: "".join(pieces) for key, pieces in self._texts.items() if key != "content"}
        calls = [self._tool_calls[index] for index in sorted(self._tool_calls)]
        return {**self._others, **texts, **({"tool_calls": calls} if calls else {})}

    @property
    def logprobs(self) -> dict[str, Any] | None:
        return self._logprobs or None


def usage_in(found: Mapping[str, Any]) -> Usage | None:
    """Read the usage beside a choice, or inside it, where Moonshot puts it."""
    usage = found.get("usage")
    if not isinstance(usage, Mapping):
        return None
    prompt, completion = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    details = usage.get("prompt_tokens_details") or {}
    cached = count(details.get("cached_tokens")) or count(usage.get("cached_tokens")) or 0
    return Usage(prompt, completion, min(cached, prompt), dollars(usage.get("cost")))


def count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def dollars(value: object) -> Decimal | None:
    """Read an amount; None: it is none."""
    if value is None or isinstance(value, bool):
        return None
    try:
        usd = Decimal(str(value))
        return usd.quantize(NANODOLLAR) if usd >= 0 else None
    except InvalidOperation:
        return None
