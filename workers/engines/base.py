"""The shapes that engines have.

A chat model's gets a request, gives out tokens and returns a completion; an embedding model's turns texts
into vectors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

Message = Mapping[str, Any]
"""One OpenAI-style chat message: `role`, `content`, and what the provider passes through."""


@dataclass(frozen=True)
class Request:
    """What one model call is asked; every default has been filled in from the profile."""

    messages: Sequence[Message]
    max_tokens: int
    temperature: float
    top_p: float = 1.0
    top_k: int = 40
    """Only so many of the likeliest tokens are chosen from; 0: all. llama.cpp's default."""
    min_p: float = 0.05
    """Nor those with less than this share of the likeliest one's chance. llama.cpp's default."""
    presence_penalty: float = 0.0
    """Taken off the logits of tokens that the answer has; `frequency_penalty`: each time they occur."""
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    """Divides the logits of the last tokens of prompt and answer; as in llama.cpp."""
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    """Added to the logits of single tokens; the numbers are the model's own."""
    top_logprobs: int | None = None
    """How many likeliest tokens to tell the chances of, beside the chosen one's; None: tell none."""
    grammar: str | None = None
    """What the answer must be, in llama.cpp's GBNF."""
    stop: Sequence[str] = ()
    seed: int | None = None
    """None: a new one each time. The same seed, model and host give the same text."""
    response_format: Mapping[str, Any] | None = None
    """OpenAI's; only models that the catalog says can do it are given one. So with tools."""
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    deadline: datetime | None = None
    """Aware; past it nobody wants the answer any more."""


@dataclass(frozen=True)
class Completion:
    """What one model call gave."""

    text: str
    finish_reason: str
    """OpenAI's words: `stop`, `length` or `tool_calls`."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Those of `prompt_tokens` that were not computed again."""
    first_token_s: float | None = None
    """From the call to the first token."""
    cost_usd: Decimal | None = None
    """What the provider itself says that the call cost; None: it does not say."""
    is_estimated: bool = False
    """Whether the tokens are estimates, because nobody counted them."""
    extras: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the message has besides its content: tool calls, reasoning, and whatever else was given."""
    logprobs: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Vectors:
    """What one call of an embedding model gave."""

    numbers: Sequence[Sequence[float]]
    """A vector of length 1 for each text, in their order."""
    tokens: Sequence[int]
    """That the model read of each text."""
    cost_usd: Decimal | None = None
    """What the provider itself says that the call cost; None: it does not say."""
    is_estimated: bool = False
    """Whether the tokens are estimates, because nobody counted them."""


class Loaded(Protocol):
    """A model in the memory of this process, or a way to one; called from several threads."""

    slots: int
    """How many calls it runs at once; further ones wait."""

    @property
    def is_closed(self) -> bool:
        """Whether it has ended, by `close` or by a fault of its own; it has to be loaded again."""
        ...

    def close(self) -> None:
        """Free the model; the engine is not called again."""
        ...


class Embedder(Loaded, Protocol):
    """A library that runs one embedding model."""

    def embed(self, texts: Sequence[str], *, cancelled: Callable[[], bool]) -> Vectors:
        """Turn texts into vectors.

        Args:
            texts: at least one; with what the model wants to read before them.
            cancelled: asked now and then; once true, the engine stops and raises.

        Raises:
            EngineError: there are no vectors; the subclass says why.
        """
        ...


class Engine(Loaded, Protocol):
    """A library that runs one chat model."""

    def generate(
        self,
        request: Request,
        *,
        on_token: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Completion:
        """Answer a request.

        Args:
            on_token: gets each piece of text as it is made; the pieces add up to the text.
            cancelled: asked between tokens; once true, the engine stops and raises.

        Raises:
            EngineError: the model gave no answer; the subclass says why.
        """
        ...
