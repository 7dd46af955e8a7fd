"""`embed` and `similar` from the message to the response, by a brain and a lane in this process."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from celery.exceptions import Ignore
from openai.types import CreateEmbeddingResponse
from redis import Redis

from config.settings import settings as settings_of_process
from ledger import passages
from ledger.attempts import hints
from ledger.connect import Connection
from tests.workers.made import fate_of, next_request, tick, wait_for_presence
from workers.attempt import run_attempt
from workers.brain import Brain
from workers.engines.base import Vectors
from workers.engines.echo_embed import EchoEmbedder
from workers.engines.errors import BadRequestError, CollectionError, TextTooLongError
from workers.errors import TextRemovedError
from workers.lane import Lane

POSTS = ["the cat sits on the mat", "a dog plays in the garden", "pasta with garlic and oil"]


class CountingEmbedder:
    """The echo engine, with a list of what it was given."""

    slots = 8
    is_closed = False

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.echo = EchoEmbedder("vectors", 64)

    def embed(self, texts: Sequence[str], *, cancelled: Callable[[], bool]) -> Vectors:
        self.calls.append(list(texts))
        if "endless" in texts:
            raise TextTooLongError("vectors", list(texts).index("endless"), 9000, 128)
        return self.echo.embed(texts, cancelled=cancelled)

    def close(self) -> None:
        pass


class Scene:
    def __init__(self, brain: Brain, lane: Lane, app: Celery, redis: Redis) -> None:
        self.brain, self.app, self.redis = brain, app, redis
        self.engine = CountingEmbedder()
        lane.engines["vectors"] = self.engine
        wait_for_presence(brain)

    def send(self, task: str, *args: Any, **kwargs: Any) -> UUID:
        return UUID(self.app.send_task(task, list(args), kwargs, queue="dispatch").id)

    def run(self, task: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.last = self.send(task, *args, **kwargs)
        tick(self.brain)
        model = kwargs.get("model", "vectors")
        try:
            return run_attempt(next_request(self.redis, f"echo.{model}"))
        finally:
            self.brain.learn(hints([(self.last, 1)]))


@pytest.fixture
def scene(brain: Brain, lane: Lane, app: Celery, redis: Redis) -> Scene:
    return Scene(brain, lane, app, redis)


def vectors_of(response: dict[str, Any]) -> list[list[float]]:
    return [each["embedding"] for each in response["data"]]


def used(db: Connection, task_id: UUID) -> Any:
    return db.execute(
        "SELECT prompt_tokens, cached_tokens, completion_tokens, cost_usd, outcome FROM attempts"
        " WHERE task_id = %s",
        [task_id],
    ).fetchone()


def test_embed_answers_as_openai_does(scene: Scene, db: Connection):
    """Agents hand the result to code that was written for OpenAI's client."""
    response = scene.run("embed", POSTS)

    CreateEmbeddingResponse.model_validate(response)
    assert [each["index"] for each in response["data"]] == [0, 1, 2]
    assert all(sum(n * n for n in vector) == pytest.approx(1, abs=1e-6) for vector in vectors_of(response))
    assert response["model"] == "vectors"
    assert response["usage"]["total_tokens"] == 17
    assert response["fleet"]["cached"] == 0
    assert used(db, scene.last) == (17, 0, 0, Decimal(0), "succeeded")


def test_the_same_text_is_never_computed_twice(scene: Scene, db: Connection):
    """A collection that is embedded anew each night would keep the processor busy with what it knows."""
    before = scene.run("embed", POSTS)
    after = scene.run("embed", [POSTS[2], "something new", POSTS[0], "something new"])

    assert scene.engine.calls == [POSTS, ["something new"]]
    assert vectors_of(after)[0] == vectors_of(before)[2]
    assert vectors_of(after)[2] == vectors_of(before)[0]
    assert vectors_of(after)[1] == vectors_of(after)[3] != vectors_of(after)[0]
    assert after["fleet"]["cached"] == 3
    assert used(db, scene.last) == (15, 13, 0, Decimal(0), "succeeded")


def test_where_all_is_known_no_engine_is_asked(scene: Scene, db: Connection):
    """Not even one that would have to be loaded first."""
    first = scene.run("embed", POSTS)
    again = scene.run("embed", POSTS)

    assert len(scene.engine.calls) == 1
    assert vectors_of(again) == vectors_of(first)
    assert used(db, scene.last) == (17, 17, 0, Decimal(0), "succeeded")


def test_only_what_is_computed_is_paid_for(scene: Scene, db: Connection):
    """A paid model's price is for the tokens that were sent to it."""
    scene.run("embed", POSTS, model="other-vectors")
    assert used(db, scene.last) == (17, 0, 0, Decimal("0.017"), "succeeded")

    scene.run("embed", [POSTS[0], "four words are new"], model="other-vectors")
    assert used(db, scene.last) == (10, 6, 0, Decimal("0.004"), "succeeded")


def test_the_kind_of_a_text_puts_the_models_prefix_before_it(scene: Scene):
    """nomic's models find less without; and a query's vector is not that of the same text as a document."""
    plain = scene.run("embed", ["pizza"])
    query = scene.run("embed", ["pizza"], input_type="query")
    document = scene.run("embed", ["pizza"], input_type="document")

    assert scene.engine.calls == [["pizza"], ["search_query: pizza"], ["search_document: pizza"]]
    assert len({tuple(vectors_of(each)[0]) for each in (plain, query, document)}) == 3


def test_similar_finds_what_was_embedded(scene: Scene, db: Connection):
    """The reason for all of it."""
    scene.run("embed", POSTS, collection="posts")
    scene.run("embed", ["a cat in another collection"], collection="others")

    found = scene.run("similar", "cat on mat", collection="posts", k=2)

    assert found["data"][0]["text"] == POSTS[0]
    assert len(found["data"]) == 2
    assert found["data"][0]["score"] > found["data"][1]["score"]
    assert found["data"][0].keys() == {"index", "text", "score", "sha256"}
    assert scene.engine.calls[-1] == ["search_query: cat on mat"]
    assert scene.engine.calls[0] == [f"search_document: {post}" for post in POSTS]
    assert fate_of(db, scene.last).state == "succeeded"


def test_a_text_is_in_a_collection_once(scene: Scene, db: Connection):
    """A journal that is embedded from its beginning each day would be found many times over."""
    for _ in range(2):
        scene.run("embed", [*POSTS, POSTS[0]], collection="posts")

    assert [(each.name, each.passages) for each in passages.sizes(db)] == [("posts", 3)]


def test_a_collection_belongs_to_one_model(scene: Scene):
    """Vectors of different models have nothing to say to each other."""
    scene.run("embed", POSTS, collection="posts")

    with pytest.raises(CollectionError, match="was made with vectors"):
        scene.run("embed", ["more"], collection="posts", model="other-vectors")
    with pytest.raises(CollectionError, match="was made with vectors"):
        scene.run("similar", "more", collection="posts", model="other-vectors")


def test_a_collection_that_is_not_there_is_named(scene: Scene, db: Connection):
    """An empty answer would be taken for: there is nothing like it."""
    with pytest.raises(CollectionError, match="'postss' is not there"):
        scene.run("similar", "cat", collection="postss")

    assert scene.engine.calls == []
    assert fate_of(db, scene.last).state == "failed"


def test_a_text_that_is_too_long_is_named_by_its_place_in_the_call(scene: Scene, db: Connection):
    """The engine counts only what it is given; the caller has two thousand texts."""
    scene.run("embed", POSTS)

    with pytest.raises(TextTooLongError, match=r"texts\[3\] has 9000 tokens, it reads 128"):
        scene.run("embed", [*POSTS, "endless"])

    assert fate_of(db, scene.last).state == "failed"


def test_vectors_of_another_length_than_the_catalogs_are_refused(scene: Scene, db: Connection, lane: Lane):
    """Its provider charges for them all the same; in a collection they would break every search."""
    lane.engines["other-vectors"] = EchoEmbedder("other-vectors", 95)

    with pytest.raises(BadRequestError, match=r"have 95 numbers, models\.yaml says 96"):
        scene.run("embed", POSTS, collection="posts", model="other-vectors")

    assert used(db, scene.last) == (17, 0, 0, Decimal("0.017"), "failed")
    assert passages.find(db, "posts") is None


def test_without_kept_texts_a_collection_has_none(
    scene: Scene, db: Connection, monkeypatch: pytest.MonkeyPatch
):
    """FLEET_KEEP_TEXT=0 says that what people write stays nowhere."""
    monkeypatch.setenv("FLEET_KEEP_TEXT", "0")
    settings_of_process.cache_clear()
    try:
        scene.run("embed", POSTS, collection="posts")
        found = scene.run("similar", "cat on mat", collection="posts", k=1)
    finally:
        monkeypatch.undo()
        settings_of_process.cache_clear()

    assert found["data"][0]["text"] is None
    assert found["data"][0]["sha256"] == passage_hash(POSTS[0])
    assert fate_of(db, scene.last).answer is None
    kept = db.execute("SELECT count(text), count(*) FROM passages").fetchone()
    assert kept == (0, 3)


def passage_hash(text: str) -> str:
    from hashlib import sha256

    return sha256(text.encode()).hexdigest()


@pytest.mark.usefixtures("in_the_environment")
@pytest.mark.parametrize("task", ["embed", "similar"])
def test_a_result_that_redis_lost_is_made_from_the_ledger(scene: Scene, task: str):
    """Vectors are in Postgres once, not a second time as an answer."""
    response = scene.run("embed", POSTS, collection="posts")
    if task == "similar":
        response = scene.run("similar", "cat on mat", collection="posts", k=2)
    scene.redis.flushall()

    recovered = scene.app.AsyncResult(str(scene.last)).get(timeout=10)

    assert recovered["data"] == response["data"]
    assert recovered["usage"] == response["usage"]


@pytest.mark.usefixtures("in_the_environment")
def test_a_result_whose_vectors_were_removed_says_so(scene: Scene, db: Connection):
    """Whoever clears the cache must not leave callers waiting."""
    scene.run("embed", POSTS)
    scene.redis.flushall()
    db.execute("DELETE FROM embeddings")

    with pytest.raises(TextRemovedError):
        scene.app.AsyncResult(str(scene.last)).get(timeout=10)


def test_a_chat_model_embeds_nothing_and_an_embedding_model_answers_nothing(scene: Scene, db: Connection):
    """A prompt that goes to the wrong kind of model fails there, after it has waited."""
    embed = scene.send("embed", ["x"], model="echo")
    complete = scene.send("complete", "x", model="vectors")
    tick(scene.brain)

    for task, what in ((embed, "an embedding model, got 'echo'"), (complete, "a chat model, got 'vectors'")):
        error = fate_of(db, task).error
        assert error is not None
        assert what in error["text"]
    assert fate_of(db, embed).error["text"].startswith("embed: ")  # type: ignore[index]


def test_a_delivery_that_comes_twice_is_dropped(scene: Scene):
    """Redis may deliver a message twice, of whatever task."""
    scene.send("embed", POSTS)
    tick(scene.brain)
    request = next_request(scene.redis, "echo.vectors")
    run_attempt(request)

    with pytest.raises(Ignore):
        run_attempt(request)


def test_the_errors_come_through_celery_as_they_are():
    """Celery rebuilds an error from its args; one that does not fit comes back as a bare Exception."""
    for error in (TextTooLongError("m", 3, 9000, 128), CollectionError("m", "posts", "is not there")):
        assert str(type(error)(*error.args)) == str(error)
        assert isinstance(error, BadRequestError)
