"""Collections: texts with their vectors, searched by an index of their own.

Each collection is a partition of `passages` with an HNSW index. So a search looks at nothing else, the
planner reads a small collection whole and a large one by its index, and a collection is dropped with all that
it has in one step.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row
from psycopg.sql import SQL, Composed, Identifier, Literal

from ledger.connect import Connection
from ledger.embeddings import written

FIND = """
    SELECT id, name, model, dimensions, made_at
      FROM collections
     WHERE name = %(name)s
"""

ALL = """
    SELECT collections.name, model, dimensions, made_at, passages, texts, last_added_at
      FROM collections
      LEFT JOIN (SELECT collection, count(*) AS passages, count(text) AS texts, max(added_at) AS last_added_at
                   FROM passages
                  GROUP BY collection) AS counted ON counted.collection = collections.id
     ORDER BY collections.name
"""

NEW = """
    INSERT INTO collections (name, model, dimensions)
    VALUES (%(name)s, %(model)s, %(dimensions)s)
        ON CONFLICT (name) DO NOTHING
    RETURNING id, name, model, dimensions, made_at
"""

MAKE = SQL("""
    CREATE TABLE {name} (LIKE passages INCLUDING ALL);
    CREATE INDEX ON {name} USING hnsw (({vector}) halfvec_cosine_ops);
    ALTER TABLE passages ATTACH PARTITION {name} FOR VALUES IN ({collection})
""")
"""Attached when it is whole: that takes no lock that a search waits for."""

ADD = """
    INSERT INTO passages (collection, hash, text, vector)
    SELECT %(collection)s, new.hash, new.text, embeddings.vector::halfvec
      FROM unnest(%(hash)s::bytea[], %(text)s::text[], %(embedding)s::bytea[]) AS new (hash, text, embedding)
      JOIN embeddings ON embeddings.model = %(model)s AND embeddings.hash = new.embedding
     ORDER BY new.hash
        ON CONFLICT (collection, hash) DO UPDATE SET text = excluded.text WHERE passages.text IS NULL
"""

NEAREST = SQL("""
    SELECT *
      FROM (SELECT text, 1 - ({vector} <=> %(query)s::halfvec) AS score, hash
              FROM {name}
             ORDER BY {vector} <=> %(query)s::halfvec
             LIMIT %(k)s) AS nearest
     ORDER BY score DESC -- the index gives them in this order only approximately
""")

LOOK_AT = "SELECT set_config('hnsw.ef_search', %(candidates)s, true)"

LEAST_CANDIDATES = 100
"""That a search keeps in view; more find more surely and take longer. pgvector's default is 40."""

GIVE_UP = "SET LOCAL lock_timeout = '5s'"

REMOVE = "DELETE FROM collections WHERE name = %(name)s RETURNING id, name, model, dimensions, made_at"

DROP = SQL("DROP TABLE {name}")


@dataclass(frozen=True)
class Collection:
    """Texts that one model has embedded."""

    id: int
    name: str
    model: str
    dimensions: int
    made_at: datetime


@dataclass(frozen=True)
class CollectionSize:
    """A collection, and how much is in it."""

    name: str
    model: str
    dimensions: int
    made_at: datetime
    passages: int | None
    """None: nothing."""
    texts: int | None
    """Those of them whose text is kept."""
    last_added_at: datetime | None


@dataclass(frozen=True)
class Passage:
    """A text on its way into a collection; its vector is among the embeddings."""

    hash: bytes
    text: str | None
    """None: it is not to be kept."""
    embedding: bytes
    """The hash of what the model read."""


@dataclass(frozen=True)
class Match:
    """A passage that was found."""

    text: str | None
    score: float
    hash: bytes


def find(db: Connection, name: str) -> Collection | None:
    """Find a collection; None: there is none of that name."""
    with db.cursor(row_factory=class_row(Collection)) as cursor:
        return cursor.execute(FIND, {"name": name}).fetchone()


def sizes(db: Connection) -> list[CollectionSize]:
    """List all collections by name; each of them is counted."""
    with db.cursor(row_factory=class_row(CollectionSize)) as cursor:
        return cursor.execute(ALL).fetchall()


def make(db: Connection, name: str, model: str, dimensions: int) -> Collection:
    """Make a collection with its index, unless it is there; several processes may call this at once."""
    with db.transaction():
        with db.cursor(row_factory=class_row(Collection)) as cursor:
            made = cursor.execute(NEW, {"name": name, "model": model, "dimensions": dimensions}).fetchone()
        if made is not None:
            db.execute(MAKE.format(**parts(made), collection=Literal(made.id)))
    found = made or find(db, name)
    if found is None:
        raise LookupError(name)
    return found


def add(db: Connection, to: Collection, new: Iterable[Passage]) -> None:
    """Put texts into a collection; one that is there is not put there twice."""
    rows = list({row.hash: row for row in new}.values())
    columns = {
        "hash": [row.hash for row in rows],
        "text": [row.text for row in rows],
        "embedding": [row.embedding for row in rows],
    }
    db.execute(ADD, {"collection": to.id, "model": to.model, **columns})


def nearest(db: Connection, collection: Collection, vector: Sequence[float], k: int) -> list[Match]:
    """Find the passages that are nearest to a vector, best first.

    Args:
        collection: whose model made the vector.
        vector: of as many numbers as it has dimensions.
        k: how many; fewer are found where there are fewer.
    """
    query = {"query": written(vector), "k": k}
    with db.transaction(), db.cursor(row_factory=class_row(Match)) as cursor:
        db.execute(LOOK_AT, {"candidates": str(max(k, LEAST_CANDIDATES))})
        # Not prepared: a plan that was made when the collection was small would read all of it for ever.
        return cursor.execute(NEAREST.format(**parts(collection)), query, prepare=False).fetchall()


def drop(db: Connection, name: str) -> bool:
    """Drop a collection with its texts; the vectors that were computed stay.

    Returns:
        Whether there was one.

    Raises:
        psycopg.errors.LockNotAvailable: somebody reads collections at length; nothing was dropped.
    """
    with db.transaction(), db.cursor(row_factory=class_row(Collection)) as cursor:
        db.execute(GIVE_UP)
        gone = cursor.execute(REMOVE, {"name": name}).fetchone()
        if gone is not None:
            db.execute(DROP.format(name=parts(gone)["name"]))
    return gone is not None


def parts(collection: Collection) -> dict[str, Identifier | Composed]:
    """Name a collection's partition, and its vectors as they are indexed: of a known length."""
    return {
        "name": Identifier(f"passages_{collection.id}"),
        "vector": SQL("vector::halfvec({})").format(Literal(collection.dimensions)),
    }
