"""The echo engine."""

import threading
import time

import pytest

from workers.engines.base import Completion, Engine, Request
from workers.engines.echo import EchoEngine
from workers.engines.errors import BadRequestError, CancelledError


def a_request(text: str = "one two three", **changes: object) -> Request:
    fields: dict[str, object] = {
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}],
        "max_tokens": 100,
        "temperature": 0.0,
        **changes,
    }
    return Request(**fields)  # pyright: ignore[reportArgumentType]


def answer(engine: Engine, request: Request) -> tuple[Completion, list[str]]:
    pieces: list[str] = []
    return engine.generate(request, on_token=pieces.append, cancelled=lambda: False), pieces


def test_it_answers_with_the_last_user_message():
    """Tests and dry runs recognise their own task by its answer."""
    completion, pieces = answer(EchoEngine(), a_request())

    assert completion.text == "one two three"
    assert completion.finish_reason == "stop"
    assert pieces == ["one ", "two ", "three"]


def test_words_are_counted_as_tokens():
    """The ledger's sums are checked with the echo engine, so its counts must be exact."""
    completion, _ = answer(EchoEngine(), a_request())

    assert (completion.prompt_tokens, completion.completion_tokens) == (5, 3)


def test_max_tokens_cuts_the_answer():
    """A dry run that ignores max_tokens hides the truncation that the real model will show."""
    completion, _ = answer(EchoEngine(), a_request(max_tokens=2))

    assert (completion.text, completion.finish_reason) == ("one two ", "length")
    assert completion.completion_tokens == 2


def test_a_stop_string_ends_the_answer():
    """What comes after a stop string must not be in a dry run either."""
    completion, pieces = answer(EchoEngine(), a_request(stop=("o th",)))

    assert (completion.text, completion.finish_reason) == ("one tw", "stop")
    assert "".join(pieces) == "one tw"


def test_text_parts_are_read_as_one_text():
    """OpenAI clients send content as a list of parts."""
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    completion, _ = answer(EchoEngine(), a_request(messages=[{"role": "user", "content": parts}]))

    assert completion.text == "one two"


def test_an_image_is_refused():
    """A picture that is silently dropped would be answered as if it had been seen."""
    parts = [{"type": "image_url", "image_url": {"url": "data:..."}}]

    with pytest.raises(BadRequestError, match="text only"):
        answer(EchoEngine(), a_request(messages=[{"role": "user", "content": parts}]))


def test_a_cancelled_call_ends_before_its_delay():
    """A slot that waits out its delay for nobody is a slot lost."""
    cancel = threading.Event()
    threading.Timer(0.05, cancel.set).start()
    started = time.monotonic()

    with pytest.raises(CancelledError):
        EchoEngine(delay_s=5).generate(a_request(), on_token=print, cancelled=cancel.is_set)

    assert time.monotonic() - started < 1


def test_no_more_calls_run_at_once_than_there_are_slots():
    """Benchmarks of the dispatcher rely on the engine to be as narrow as it says."""
    engine = EchoEngine(delay_s=0.1, slots=2)
    started = time.monotonic()
    callers = [threading.Thread(target=answer, args=(engine, a_request())) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()

    assert time.monotonic() - started >= 0.2
