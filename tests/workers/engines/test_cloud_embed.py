"""Embeddings of a provider: what its answers become, and what its faults."""

from collections.abc import Iterator
from typing import Any

import pytest

from config.models import Model, Timeouts
from config.models import Provider as Entry
from tests.provider import FAULTS, Provider
from workers.engines.base import Vectors
from workers.engines.cloud_embed import load, vectors_in
from workers.engines.errors import (
    CancelledError,
    ConnectionLostError,
    EngineError,
    KeyRefusedError,
    MalformedAnswerError,
    OverloadedError,
    RateLimitedError,
    SilentError,
)

TEXTS = ["one three", "seventeen words", "a"]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


def embed(provider: Provider, texts: list[str] = TEXTS, **fields: Any) -> Vectors:
    known: dict[str, Any] = {"tier": "free", "kind": "embedding", "engine": "cloud", "context_tokens": 8192}
    model = Model(name="vectors", provider="somebody", upstream="text-embedding-1", dimensions=3, **known)
    entry = Entry(
        name="somebody", api_base=provider.url, timeouts=Timeouts(total_s=fields.get("total_s", 20))
    )
    engine = load(model, entry, fields.get("key"), slots=1)
    try:
        return engine.embed(texts, cancelled=fields.get("cancelled", lambda: False))
    finally:
        engine.close()


def test_vectors_come_in_the_order_of_the_texts(provider: Provider):
    """The provider sends the last one first, as it may: `index` says whose each is."""
    found = embed(provider)

    lengths = [[3, 5, 1], [9, 5, 1], [1, 1, 1]]
    for vector, length in zip(found.numbers, lengths, strict=True):
        assert sum(number * number for number in vector) == pytest.approx(1)
        assert [round(number / vector[2]) for number in vector] == length
    assert sum(found.tokens) == 5
    assert not found.is_estimated


def test_one_attempt_is_one_request(provider: Provider):
    """Limits are counted by attempts."""
    embed(provider)

    [served] = provider.books.served
    assert served.body == {"model": "text-embedding-1", "input": TEXTS, "encoding_format": "float"}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("rate_limited", RateLimitedError),
        ("wrong_key", KeyRefusedError),
        ("broken", OverloadedError),
        ("reset", ConnectionLostError),
        ("silent", SilentError),
    ],
)
def test_a_fault_is_what_it_is_for_a_completion(provider: Provider, fault: str, error: type[EngineError]):
    """The brain learns from the same few errors."""
    provider.always(FAULTS[fault])

    with pytest.raises(error):
        embed(provider, total_s=0.5)

    assert len(provider.books.served) == 1


def test_a_call_that_nobody_wants_any_more_ends(provider: Provider):
    provider.always(FAULTS["silent"])

    with pytest.raises(CancelledError):
        embed(provider, cancelled=lambda: True)


def test_an_answer_to_a_chat_is_no_embedding(provider: Provider):
    """A gateway that knows only chats answers with status 200; it may have been paid for."""

    async def chat(call: Any) -> None:
        await call.refuse((200, {}, b'{"object": "chat.completion", "choices": []}'))

    provider.always(chat)

    with pytest.raises(MalformedAnswerError) as refused:
        embed(provider)

    assert refused.value.used is not None


@pytest.mark.parametrize(
    "data",
    [
        [{"index": 0, "embedding": [1, 0]}],
        [{"index": 0, "embedding": [1, 0]}, {"index": 0, "embedding": [1, 0]}],
        [{"index": 0, "embedding": [1, 0]}, {"index": 1, "embedding": [0, 0]}],
        [{"index": 0, "embedding": [1, 0]}, {"index": 1, "embedding": "AAAA"}],
    ],
)
def test_what_is_not_one_vector_for_each_text_is_refused(data: list[dict[str, Any]]):
    """A vector that is taken for another text's is found by nobody."""
    with pytest.raises((ValueError, TypeError)):
        vectors_in({"data": data}, ["one", "two"])


def test_tokens_that_nobody_counted_are_estimated():
    found = vectors_in({"data": [{"index": 0, "embedding": [3, 4]}]}, ["some words here"])

    assert found.is_estimated
    assert found.tokens[0] >= 3
    assert found.numbers == [[0.6, 0.8]]
