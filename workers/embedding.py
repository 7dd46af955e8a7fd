"""`embed` and `similar` on a lane: look up what is known, compute the rest, then collect or search."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from config.models import Model
from config.settings import settings
from ledger.attempts import Claim
from ledger.embeddings import NewVector, Vector, hash_of
from ledger.passages import Collection, Passage
from routing.price import cost_usd
from workers.engines.base import Completion, Vectors
from workers.engines.errors import BadRequestError, CollectionError, TextTooLongError
from workers.lane import Lane
from workers.retention import NEVER, keep_text

MOST_ADDED = 100
"""Passages put into a collection by one statement: the index takes milliseconds for each, and others wait."""

MOST_DIMENSIONS = 4000
"""That pgvector can index. Source: its README, on halfvec, read 2026-11."""


@dataclass(frozen=True)
class Done:
    """What came of an attempt."""

    used: Completion
    answer: dict[str, Any]
    """What the ledger keeps of it, and the response is made of."""
    vectors: Mapping[bytes, Vector] = field(default_factory=dict[bytes, Vector])
    """Those that the answer names, by hash."""


def embed(lane: Lane, claim: Claim, model: Model, cancelled: Callable[[], bool]) -> Done:
    """Do what a task of the kind embedding asks.

    Raises:
        EngineError: it cannot be done; the subclass says why.
    """
    asked = claim.request
    name, k = asked.get("collection"), asked.get("k")
    collection = checked_collection(lane, model, name, is_searched=k is not None) if name else None
    prefix = model.prefixes.of(asked.get("input_type"))
    texts: list[str] = asked["input"]
    hashes = [hash_of(prefix + text) for text in texts]
    known = lane.vectors.computed(model.name, list(set(hashes)))
    missing = {key: prefix + text for key, text in zip(hashes, texts, strict=True) if key not in known}
    made = compute(lane, model, missing, hashes, cancelled) if missing else None
    vectors = {**known, **lane.vectors.computed(model.name, list(missing))} if missing else known
    answer: dict[str, Any]
    if k is not None and collection is not None:
        found = lane.vectors.nearest(collection, vectors[hashes[0]].numbers, k)
        answer = {
            "matches": [
                {"text": each.text, "score": round(each.score, 6), "sha256": each.hash.hex()}
                for each in found
            ]
        }
    else:
        if name:
            kept_in = collection or lane.vectors.make(name, model.name, len(vectors[hashes[0]].numbers))
            collect(lane, kept_in, texts, hashes)
        answer = {"hashes": [key.hex() for key in hashes]}
    cached = len(texts) - len(missing)
    return Done(used_for(model, hashes, vectors, made), {**answer, "cached": cached}, vectors)


def checked_collection(lane: Lane, model: Model, name: str, *, is_searched: bool) -> Collection | None:
    """Find a collection, before anything is computed for it; None: it is to be made.

    Raises:
        CollectionError: it is not there and to be searched, or another model's, or cannot be made.
    """
    found = lane.vectors.find(name)
    if found is None and is_searched:
        raise CollectionError(
            model.name, name, "is not there; `embed` makes it, `fleet collections list` names all"
        )
    if found is not None and found.model != model.name:
        why = (
            f"was made with {found.model}, and vectors of different models cannot be compared; name that one"
        )
        raise CollectionError(model.name, name, why)
    if found is None and (model.dimensions or 0) > MOST_DIMENSIONS:
        why = (
            f"cannot be indexed: pgvector takes {MOST_DIMENSIONS} dimensions, a vector has {model.dimensions}"
        )
        raise CollectionError(model.name, name, why)
    return found


def compute(
    lane: Lane,
    model: Model,
    missing: Mapping[bytes, str],
    hashes: Sequence[bytes],
    cancelled: Callable[[], bool],
) -> Vectors:
    """Compute what nobody has computed before, and keep it.

    Raises:
        EngineError: there are no vectors, or they are not as long as the catalog says.
    """
    try:
        with lane.embedder_for(model, cancelled) as embedder:
            made = embedder.embed(list(missing.values()), cancelled=cancelled)
    except TextTooLongError as error:
        # The caller counts all of its texts, not those that were missing.
        index = hashes.index(list(missing)[error.index])
        raise TextTooLongError(error.model, index, error.tokens, error.most_tokens) from error
    lengths = {len(vector) for vector in made.numbers} - {model.dimensions}
    if lengths:
        why = f"its vectors have {lengths.pop()} numbers, models.yaml says {model.dimensions}"
        failure = BadRequestError(model.name, f"{why}; correct `dimensions`")
        failure.used = Completion(
            "", "stop", prompt_tokens=sum(made.tokens), completion_tokens=0, cost_usd=made.cost_usd
        )
        raise failure
    new = map(NewVector, missing, made.numbers, made.tokens)
    lane.vectors.keep(model.name, list(new))
    return made


def collect(lane: Lane, collection: Collection, texts: Sequence[str], hashes: Sequence[bytes]) -> None:
    """Put texts into a collection; without their words, where texts are not kept."""
    is_kept = keep_text(lane.catalog, None, default=settings().keep_text) != NEVER
    new = [
        Passage(hash_of(text), text if is_kept else None, key)
        for text, key in zip(texts, hashes, strict=True)
    ]
    for start in range(0, len(new), MOST_ADDED):
        lane.vectors.add(collection, new[start : start + MOST_ADDED])


def used_for(
    model: Model, hashes: Sequence[bytes], vectors: Mapping[bytes, Vector], made: Vectors | None
) -> Completion:
    """Count the tokens of all texts, and as cached those that did not have to be read; they cost nothing."""
    every = sum(vectors[key].tokens for key in hashes)
    fresh = sum(made.tokens) if made else 0
    cost = Decimal(0)
    if made is not None:
        told = made.cost_usd
        today = datetime.now(UTC).date()
        cost = cost_usd(model, today, prompt_tokens=fresh, completion_tokens=0) if told is None else told
    return Completion(
        text="",
        finish_reason="stop",
        prompt_tokens=every,
        completion_tokens=0,
        cached_tokens=max(every - fresh, 0),
        cost_usd=cost,
        is_estimated=made is not None and made.is_estimated,
    )
