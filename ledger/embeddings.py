"""Vectors that were computed: the same text is not computed again by the same model."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from ledger.connect import Connection

COMPUTED = """
    SELECT hash, vector::text, tokens
      FROM embeddings
     WHERE model = %(model)s
       AND hash = ANY (%(hashes)s)
"""

KEEP = """
    INSERT INTO embeddings (model, hash, vector, tokens)
    SELECT %(model)s, hash, vector::vector, tokens
      FROM unnest(%(hash)s::bytea[], %(vector)s::text[], %(tokens)s::integer[]) AS new (hash, vector, tokens)
     ORDER BY hash -- so that two who bring the same ones do not wait for each other
        ON CONFLICT (model, hash) DO NOTHING
"""


class Vector(NamedTuple):
    """A vector, and how many tokens the model read for it."""

    numbers: list[float]
    tokens: int


@dataclass(frozen=True)
class NewVector:
    """A vector that was just computed."""

    hash: bytes
    numbers: Sequence[float]
    tokens: int


def hash_of(text: str) -> bytes:
    """Name a text by its content."""
    return sha256(text.encode()).digest()


def computed(db: Connection, model: str, hashes: Collection[bytes]) -> dict[bytes, Vector]:
    """Read the vectors that are there, by hash."""
    rows = db.execute(COMPUTED, {"model": model, "hashes": list(hashes)})
    return {bytes(key): Vector(json.loads(vector), tokens) for key, vector, tokens in rows}


def keep(db: Connection, model: str, new: Iterable[NewVector]) -> None:
    """Write vectors; one that is there already stays as it is."""
    rows = list(new)
    columns = {
        "hash": [row.hash for row in rows],
        "vector": [written(row.numbers) for row in rows],
        "tokens": [row.tokens for row in rows],
    }
    db.execute(KEEP, {"model": model, **columns})


def written(numbers: Iterable[float]) -> str:
    """Write a vector as pgvector reads it: nine digits say exactly which 32-bit float is meant."""
    return f"[{','.join(f'{number:.9g}' for number in numbers)}]"
