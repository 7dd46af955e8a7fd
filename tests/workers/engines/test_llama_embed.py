"""The embedding engine on a real model: llama.cpp reads texts of several tasks in one step."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import pytest

from config.models import Model
from config.settings import settings
from tests.embedding_model import CONTEXT_TOKENS, DIMENSIONS, make_embedding_model
from workers.engines.base import Vectors
from workers.engines.errors import CancelledError, ModelUnavailableError, TextTooLongError
from workers.engines.llama_embed import Job, LlamaEmbedder, load

TEXTS = ["the cat sits outside", "pasta and pizza", "a dog plays the piano", "the cat sleeps outside"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_embedding_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def engine(file: Path) -> Iterator[LlamaEmbedder]:
    engine = LlamaEmbedder("tiny", file, context_tokens=2048, threads=1)
    yield engine
    engine.close()


def embed(engine: LlamaEmbedder, texts: list[str]) -> Vectors:
    return engine.embed(texts, cancelled=lambda: False)


def alike(one: list[float], other: list[float]) -> float:
    return sum(left * right for left, right in zip(one, other, strict=True))


def test_texts_that_say_the_same_are_nearest(engine: LlamaEmbedder):
    """Vectors of the wrong sequence, or of all tokens together, would pass every test of form."""
    cat, pasta, dog, sleeping_cat = (list(vector) for vector in embed(engine, TEXTS).numbers)

    assert alike(cat, sleeping_cat) > 0.7
    assert max(alike(cat, pasta), alike(cat, dog), alike(pasta, dog)) < 0.5


def test_a_vector_has_length_one_and_the_models_dimensions(engine: LlamaEmbedder):
    found = embed(engine, TEXTS)

    assert {len(vector) for vector in found.numbers} == {DIMENSIONS} == {engine.dimensions}
    assert [alike(list(vector), list(vector)) for vector in found.numbers] == pytest.approx([1.0] * 4)


def test_a_text_has_the_same_vector_alone_and_among_others(engine: LlamaEmbedder):
    """It is kept and never computed again: what it was computed beside must not be seen in it."""
    together = embed(engine, TEXTS * 40)

    for index, text in enumerate(TEXTS * 2):
        [alone] = embed(engine, [text]).numbers
        assert alike(list(alone), list(together.numbers[index])) == pytest.approx(1.0, abs=1e-3)
    assert together.numbers[0] != together.numbers[1]


def jobs_of(engine: LlamaEmbedder) -> list[Job]:
    """List the calls that the engine has, also those that its thread has not taken in yet."""
    return [*engine._thread.work.waiting, *engine._thread._arrived]


def test_tokens_are_counted_exactly(engine: LlamaEmbedder):
    """With the marks that the model puts around a text; what looks like a mark in it is only text."""
    assert embed(engine, ["the cat", "the cat sits"]).tokens == [4, 5]
    assert embed(engine, ["[SEP]"]).tokens[0] > 3


def test_tasks_that_come_together_share_steps(engine: LlamaEmbedder, monkeypatch: pytest.MonkeyPatch):
    """A step of one short text costs nearly as much as one of twenty."""
    steps: list[int] = []
    model = engine._thread.work.model
    compute = model.compute
    began = threading.Event()

    def counting(texts: list[list[int]]) -> list[list[float]]:
        steps.append(len(texts))
        began.wait(10)
        return compute(texts)

    monkeypatch.setattr(model, "compute", counting)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(embed, engine, ["the cat"])
        while not steps:
            time.sleep(0.001)
        others = [pool.submit(embed, engine, [f"the cat number {n}"]) for n in range(6)]
        while len(jobs_of(engine)) < 7:
            time.sleep(0.001)
        began.set()
        assert all(future.result(30) for future in (first, *others))

    assert steps == [1, 6]


def test_a_question_does_not_wait_for_somebodys_documents(engine: LlamaEmbedder):
    """Two thousand documents take minutes on a real model; a search is for somebody who waits."""
    ended: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        many = pool.submit(embed, engine, [f"document {n} a b c d e f g h" for n in range(2000)])
        many.add_done_callback(lambda _: ended.append("many"))
        while not any(job.vectors for job in jobs_of(engine)):
            time.sleep(0.001)
        one = pool.submit(embed, engine, ["query"])
        one.add_done_callback(lambda _: ended.append("one"))
        assert len(many.result(60).numbers) == 2000

    assert ended == ["one", "many"]


def test_a_text_that_is_too_long_is_named_before_any_work(engine: LlamaEmbedder):
    """The file says how much the model was trained to read, and that is less than what was asked for."""
    with pytest.raises(TextTooLongError) as refused:
        embed(engine, ["fine", "cat " * 200])

    assert refused.value.args == ("tiny", 1, 202, CONTEXT_TOKENS)


def test_a_long_text_and_short_ones_come_back_in_order(engine: LlamaEmbedder):
    texts = ["cat", "dog " * 100, "film", "music " * 120, "pizza"] * 8

    found = embed(engine, texts)

    assert found.numbers[0] == pytest.approx(found.numbers[5], abs=1e-3)
    assert found.numbers[1] == pytest.approx(found.numbers[6], abs=1e-3)
    assert found.tokens[:5] == [3, 102, 3, 122, 3]


def test_a_task_that_nobody_wants_any_more_ends(engine: LlamaEmbedder):
    with pytest.raises(CancelledError):
        engine.embed(["cat"] * 2000, cancelled=lambda: True)

    assert len(embed(engine, ["cat"]).numbers) == 1


def test_a_caller_whose_own_function_fails_gets_that_error(engine: LlamaEmbedder):
    def fails() -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.embed(["cat"], cancelled=fails)

    assert len(embed(engine, ["cat"]).numbers) == 1


def test_a_closed_engine_says_so(file: Path):
    engine = LlamaEmbedder("tiny", file, context_tokens=64, threads=1)
    engine.close()

    assert engine.is_closed
    with pytest.raises(ModelUnavailableError, match="was closed"):
        embed(engine, ["cat"])


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FLEET_MODELS", str(tmp_path / "models"))
    settings.cache_clear()
    yield
    settings.cache_clear()


def an_entry(file: Path, dimensions: int = DIMENSIONS) -> Model:
    return Model.model_validate(
        {
            "name": "tiny",
            "tier": "local",
            "kind": "embedding",
            "engine": "llama",
            "sources": [{"file": str(file)}],
            "context_tokens": 64,
            "dimensions": dimensions,
        }
    )


@pytest.mark.usefixtures("own_models")
def test_a_catalog_that_says_other_dimensions_is_refused(file: Path):
    """Vectors of another length would fail at the first search, after a night of embedding."""
    load(an_entry(file), slots=1).close()

    with pytest.raises(ModelUnavailableError, match=f"have {DIMENSIONS} numbers, models.yaml says 768"):
        load(an_entry(file, 768), slots=1)


@pytest.mark.usefixtures("own_models")
def test_a_file_that_makes_llama_cpp_abort_is_a_sentence(tmp_path: Path, file: Path):
    """The vocabulary has a word twice, at which llama.cpp ends the process that loads it."""
    broken = tmp_path / "broken.gguf"
    content = file.read_bytes()
    assert content.count("\u2581dog".encode()) == 1
    broken.write_bytes(content.replace("\u2581dog".encode(), "\u2581cat".encode()))

    with pytest.raises(ModelUnavailableError, match=r"llama\.cpp crashes with it"):
        load(an_entry(broken), slots=1)


def test_a_model_that_does_not_say_how_to_pool_takes_the_mean(tmp_path: Path, engine: LlamaEmbedder):
    """A vector for each token is none for the text."""
    file = make_embedding_model(tmp_path / "none.gguf", pooling=gguf.PoolingType.NONE)
    other = LlamaEmbedder("tiny", file, context_tokens=128, threads=1)

    assert embed(other, TEXTS).numbers[0] == pytest.approx(embed(engine, TEXTS).numbers[0], abs=1e-3)
    other.close()
