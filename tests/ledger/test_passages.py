"""Vectors and collections on a real pgvector."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from ledger import embeddings, passages
from ledger.connect import Connection, connect
from ledger.embeddings import NewVector, hash_of
from ledger.passages import Collection, Passage
from ledger.pgvector import Pgvector

MODEL = "m"
DIMENSIONS = 48


def some_vectors(count: int, topics: int = 40) -> NDArray[np.float64]:
    """Make unit vectors that lie around topics, as those of texts do."""
    chance = np.random.default_rng(3)
    centres = chance.normal(size=(topics, DIMENSIONS))
    found = centres[chance.integers(0, topics, count)] + 0.5 * chance.normal(size=(count, DIMENSIONS))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def fill(db: Connection, name: str, vectors: NDArray[np.float64]) -> Collection:
    keys = [hash_of(f"{name} {number}") for number in range(len(vectors))]
    new = [NewVector(key, vector.tolist(), 3) for key, vector in zip(keys, vectors, strict=True)]
    embeddings.keep(db, MODEL, new)
    collection = passages.make(db, name, MODEL, DIMENSIONS)
    passages.add(db, collection, (Passage(key, f"text {n}", key) for n, key in enumerate(keys)))
    return collection


def test_a_vector_comes_back_as_it_went_in(db: Connection):
    """A second caller must not get other numbers than the first."""
    vector = some_vectors(1)[0].astype(np.float32)
    embeddings.keep(db, MODEL, [NewVector(hash_of("x"), vector.tolist(), 7)])

    [found] = embeddings.computed(db, MODEL, [hash_of("x"), hash_of("y")]).values()

    assert np.asarray(found.numbers, np.float32).tolist() == vector.tolist()
    assert found.tokens == 7


def test_a_vector_is_another_models_no_more_than_another_texts(db: Connection):
    embeddings.keep(db, MODEL, [NewVector(hash_of("x"), [1.0, 0.0], 7)])

    assert embeddings.computed(db, "another", [hash_of("x")]) == {}


def test_what_is_kept_twice_stays_as_it_was(db: Connection):
    """Two workers may compute the same text at the same moment; who has read the first keeps it."""
    embeddings.keep(db, MODEL, [NewVector(hash_of("x"), [1.0, 0.0], 7)])
    embeddings.keep(db, MODEL, [NewVector(hash_of("x"), [0.0, 1.0], 7)])

    assert embeddings.computed(db, MODEL, [hash_of("x")])[hash_of("x")].numbers == [1.0, 0.0]


def test_a_large_collection_is_searched_by_its_index(db: Connection):
    """Reading half a million vectors for each question takes seconds."""
    vectors = some_vectors(3000)
    posts = fill(db, "posts", vectors)
    db.execute("ANALYZE passages")

    plan = db.execute(
        "EXPLAIN " + passages.NEAREST.format(**passages.parts(posts)).as_string(db),  # type: ignore[arg-type]
        {"query": embeddings.written(vectors[0].tolist()), "k": 5},
        prepare=False,
    ).fetchall()

    assert any("Index Scan using passages_" in line and "vector" in line for (line,) in plan), plan


def test_the_index_finds_what_a_look_at_all_vectors_finds(db: Connection):
    """An index is allowed to miss some; not so many that a search is of no use."""
    vectors = some_vectors(3000)
    posts = fill(db, "posts", vectors)
    fill(db, "others", some_vectors(500) * -1)
    db.execute("ANALYZE passages")
    found = right = 0

    for query in some_vectors(3050)[3000:]:
        nearest = {f"text {n}" for n in np.argsort(-vectors @ query)[:10]}
        matches = passages.nearest(db, posts, query.tolist(), 10)
        assert [match.score for match in matches] == sorted((m.score for m in matches), reverse=True)
        found += len(matches)
        right += len(nearest & {match.text for match in matches})

    assert found == 500
    assert right / found > 0.9


def test_the_score_is_the_cosine(db: Connection):
    posts = fill(db, "posts", np.eye(2, DIMENSIONS))
    query = [0.6, 0.8, *[0.0] * (DIMENSIONS - 2)]

    found = passages.nearest(db, posts, query, 5)

    assert [(match.text, round(match.score, 3)) for match in found] == [("text 1", 0.8), ("text 0", 0.6)]


def test_many_results_can_be_asked_for(db: Connection):
    """An index gives no more than it is told to keep in view."""
    posts = fill(db, "posts", some_vectors(1200))
    db.execute("SET enable_seqscan = off; SET enable_sort = off")

    assert len(passages.nearest(db, posts, some_vectors(1)[0].tolist(), 1000)) > 950


def test_two_processes_make_a_collection_once(db_url: str):
    """Two tasks that are the first for a collection run at the same moment on two workers."""

    def make(_: int) -> Collection:
        with connect(db_url, name="test") as db:
            return passages.make(db, "posts", MODEL, DIMENSIONS)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(make, range(4)))

    assert len(set(made)) == 1


def test_a_collection_that_is_dropped_leaves_nothing_but_vectors(db: Connection):
    """What people wrote is gone at once; what it cost to compute is not."""
    fill(db, "posts", some_vectors(10))

    assert passages.drop(db, "posts")

    assert not passages.drop(db, "posts")
    assert passages.find(db, "posts") is None
    assert passages.sizes(db) == []
    assert db.execute("SELECT count(*) FROM passages").fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM embeddings").fetchone() == (10,)
    assert db.execute("SELECT count(*) FROM pg_class WHERE relname ~ '^passages_[0-9]+$'").fetchone() == (0,)


def test_a_text_that_was_not_kept_is_added_later(db: Connection):
    """FLEET_KEEP_TEXT was 0, and is not any more."""
    posts = fill(db, "posts", some_vectors(1))
    key = hash_of("posts 0")
    db.execute("UPDATE passages SET text = NULL")

    passages.add(db, posts, [Passage(key, "kept now", key)])

    assert db.execute("SELECT text FROM passages").fetchall() == [("kept now",)]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (Pgvector(None, None), "this Postgres does not have it"),
        (Pgvector("0.6.2", None), "its version 0.6.2 is too old"),
        (Pgvector("0.8.1", "0.5.0"), "its version 0.5.0 is too old"),
        (Pgvector("0.7.0", None), None),
        (Pgvector("0.8.1", "0.8.1"), None),
        (Pgvector("0.10.0", None), None),
    ],
)
def test_a_postgres_without_pgvector_is_told_what_to_do(found: Pgvector, says: str | None):
    """`fleet db migrate` and `fleet doctor` say it in the same words."""
    assert (found.fault or (None,))[0] == says


def test_a_user_who_may_not_create_it_is_told_who_may(database_url: str, copy_names):
    """Most managed servers let only an administrator create extensions."""
    from ledger.errors import NoVectorsError
    from ledger.pgvector import make_sure

    name = f"bare_{next(copy_names)}"
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
        admin.execute(f'CREATE ROLE "{name}" LOGIN')  # type: ignore[arg-type]
    url = database_url.replace("///postgres", f"///{name}").replace("///fleet", f"///{name}")
    with (
        connect(url.replace("user=postgres", f"user={name}"), name="test") as db,
        pytest.raises(NoVectorsError, match="let a superuser run `CREATE EXTENSION vector`"),
    ):
        make_sure(db)
    with connect(url, name="test") as db:
        make_sure(db)
        assert db.execute("SELECT count(*) FROM pg_extension WHERE extname = 'vector'").fetchone() == (1,)
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')  # type: ignore[arg-type]
        admin.execute(f'DROP ROLE "{name}"')  # type: ignore[arg-type]
