"""The arguments of `embed` and `similar`, checked: in the caller's process, and again at acceptance."""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

from config.catalog import Catalog
from config.models import InputType
from routing.tokens import tokens_in
from workers.arguments import check_names, checked_metadata
from workers.call import completion_text, is_completion
from workers.errors import InvalidCallError
from workers.values import kind, name, one_of, storable, whole

INPUT_TYPES: tuple[InputType, ...] = get_args(InputType)

MOST_TEXTS = 2048
"""In one task; OpenAI's limit too."""

MOST_RESULTS = 1000
"""pgvector looks at no more candidates in an HNSW index."""

DEFAULT_RESULTS = 5

COLLECTION = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

TOKENS_PER_TEXT = 16
"""Marks around a text, and its prefix."""


@dataclass(frozen=True)
class EmbedCall:
    """What a caller of `embed` or `similar` asks, with the defaults filled in."""

    task: str
    model: str
    agent: str
    texts: tuple[str, ...]
    input_type: InputType | None
    collection: str | None
    k: int | None = None
    """How many results are wanted; None: none, the texts are only embedded."""
    metadata: dict[str, Any] | None = None
    profile: None = None
    """Of `complete` alone, like `focus`: a profile names chat models."""
    focus: None = None

    @property
    def request(self) -> dict[str, Any]:
        """What the model is asked, as the ledger keeps it."""
        special = {"input_type": self.input_type, "collection": self.collection, "k": self.k}
        return {
            "task": self.task,
            "input": list(self.texts),
            **{name: value for name, value in special.items() if value is not None},
        }

    @property
    def needs(self) -> dict[str, Any]:
        """What a plan looks at, as the ledger keeps it."""
        tokens = sum(tokens_in(text) + TOKENS_PER_TEXT for text in self.texts)
        return {"kind": "embedding", "prompt_tokens": tokens, "max_tokens": 0}


def check_embed(
    catalog: Catalog,
    texts: object = None,
    *,
    model: object = None,
    input_type: object = None,
    collection: object = None,
    agent: object = None,
    metadata: object = None,
) -> EmbedCall:
    """Check what `embed` was called with and fill in what it left open.

    Raises:
        InvalidCallError: an argument is not what it should be; says which, and what was expected.
        UnknownNameError: the model is not in the catalog; says which are.
    """
    kept_in = checked_collection(collection)
    found = one_of("input_type", input_type, INPUT_TYPES) or ("document" if kept_in else None)
    return EmbedCall(
        task="embed",
        model=embedding_model(catalog, model),
        agent=name("agent", agent) or "default",
        texts=checked_texts(texts),
        input_type=next((known for known in INPUT_TYPES if known == found), None),
        collection=kept_in,
        metadata=checked_metadata(metadata),
    )


def check_similar(
    catalog: Catalog,
    text: object = None,
    *,
    collection: object = None,
    k: object = None,
    model: object = None,
    agent: object = None,
    metadata: object = None,
) -> EmbedCall:
    """Check what `similar` was called with and fill in what it left open.

    Raises:
        InvalidCallError: an argument is not what it should be; says which, and what was expected.
        UnknownNameError: the model is not in the catalog; says which are.
    """
    searched = checked_collection(collection)
    if searched is None:
        raise InvalidCallError("collection", "the name of the collection to search, got nothing")
    return EmbedCall(
        task="similar",
        model=embedding_model(catalog, model),
        agent=name("agent", agent) or "default",
        texts=(checked_text("text", text),),
        input_type="query",
        collection=searched,
        k=whole("k", k, 1, MOST_RESULTS) or DEFAULT_RESULTS,
        metadata=checked_metadata(metadata),
    )


def check_embed_arguments(catalog: Catalog, args: Sequence[Any], kwargs: Mapping[str, Any]) -> EmbedCall:
    """Check arguments of `embed` as a message carries them; raises as `check_embed` does."""
    return checked("embed", check_embed, catalog, args, kwargs)


def check_similar_arguments(catalog: Catalog, args: Sequence[Any], kwargs: Mapping[str, Any]) -> EmbedCall:
    """Check arguments of `similar` as a message carries them; raises as `check_similar` does."""
    return checked("similar", check_similar, catalog, args, kwargs)


def checked(
    task: str,
    check: Callable[..., EmbedCall],
    catalog: Catalog,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> EmbedCall:
    with said_of(task):
        check_names(check, args, kwargs)
        return check(catalog, *args, **kwargs)


@contextmanager
def said_of(task: str) -> Generator[None]:
    """Let an error about a value name the task that it was given to."""
    try:
        yield
    except InvalidCallError as error:
        raise InvalidCallError(error.argument, error.expected, task) from error


def embedding_model(catalog: Catalog, named: object) -> str:
    """Find the model: the caller's, else the catalog's."""
    found = name("model", named) or catalog.routing.embedding
    if found is None:
        raise InvalidCallError(
            "model", "the name of an embedding model: the catalog has no routing.embedding"
        )
    if catalog.model(found).kind != "embedding":
        raise InvalidCallError("model", f"an embedding model, got {found!r}, which answers in text")
    return found


def checked_texts(texts: object) -> tuple[str, ...]:
    """Take the texts: one or several, or what earlier completions of a chain or chord said."""
    if isinstance(texts, str) or is_completion(texts):
        return (checked_text("texts", texts),)
    if not isinstance(texts, Sequence) or isinstance(texts, bytes):
        raise InvalidCallError("texts", f"a list of strings, got {kind(texts)}")
    if not 1 <= len(texts) <= MOST_TEXTS:
        raise InvalidCallError("texts", f"a list of 1 to {MOST_TEXTS} strings, got {len(texts)}")
    return tuple(checked_text(f"texts[{index}]", text) for index, text in enumerate(texts))


def checked_text(where: str, value: object) -> str:
    text = completion_text(value) if is_completion(value) else value
    if not isinstance(text, str):
        raise InvalidCallError(where, f"a string, got {kind(text)}")
    if not text.strip():
        raise InvalidCallError(where, "a text that is not empty")
    return storable(where, text)


def checked_collection(value: object) -> str | None:
    found = name("collection", value)
    if found is not None and not COLLECTION.fullmatch(found):
        expected = "at most 64 lower-case letters, digits, dots, hyphens and underscores"
        raise InvalidCallError("collection", f"{expected}, got {found!r}")
    return found
