"""The llama engine, with a real model."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from routing.tokens import estimate_tokens
from tests.routing.test_tokens import SENTENCES
from workers.engines.base import Completion, Request
from workers.engines.errors import (
    BadRequestError,
    CancelledError,
    ContextTooLongError,
    DeadlineError,
    ModelUnavailableError,
)
from workers.engines.llama import LlamaEngine

BRIEF = "Be brief."

SYSTEM = (
    "You answer in short and plain sentences, you never use lists, and you do not repeat the question. " * 3
)


def a_request(text: str, *, system: str = BRIEF, **changes: object) -> Request:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    fields: dict[str, object] = {"messages": messages, "max_tokens": 24, "temperature": 0.0, **changes}
    return Request(**fields)  # pyright: ignore[reportArgumentType]


def ignore(_piece: str) -> None:
    """Show nothing."""


def never() -> bool:
    return False


def answer(engine: LlamaEngine, request: Request, on_token: Callable[[str], None] = ignore) -> Completion:
    return engine.generate(request, on_token=on_token, cancelled=never)


def at_once(engine: LlamaEngine, requests: list[Request]) -> list[Completion]:
    with ThreadPoolExecutor(len(requests)) as callers:
        return list(callers.map(lambda request: answer(engine, request), requests))


def test_a_real_model_answers(engine: LlamaEngine):
    """Everything else is worth nothing if the words make no sense."""
    completion = answer(engine, a_request("What is the capital of France?"))

    assert completion.text == "The capital of France is Paris."
    assert completion.finish_reason == "stop"
    assert completion.first_token_s is not None


def test_tokens_are_counted_exactly(engine: LlamaEngine):
    """Tokens are what budgets and reports are made of."""
    rendered = (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    model = engine._loaded.model

    completion = answer(engine, a_request("What is the capital of France?"))

    assert completion.prompt_tokens == len(model.tokenize(rendered, adds_bos=False))
    assert completion.completion_tokens == len(model.tokenize(completion.text, adds_bos=False))


def test_the_estimate_of_a_prompt_is_never_too_low_in_any_script(engine: LlamaEngine):
    """A prompt that was thought to fit and does not costs a call to find out."""
    requests = [a_request(text, max_tokens=1) for text in SENTENCES.values()]

    counted = [completion.prompt_tokens for completion in at_once(engine, requests)]

    estimated = [estimate_tokens(request.messages) for request in requests]
    assert all(count <= estimate for count, estimate in zip(counted, estimated, strict=True)), SENTENCES


def test_max_tokens_cuts_the_answer(engine: LlamaEngine):
    """The caller who pays for ten tokens gets ten, and is told that there would be more."""
    completion = answer(engine, a_request("Tell me about the sea.", max_tokens=10))

    assert (completion.completion_tokens, completion.finish_reason) == (10, "length")


def test_answers_made_at_once_are_those_made_one_by_one(engine: LlamaEngine):
    """A mix-up of sequences would show; and whoever looks for the reason of an answer can get it again."""
    lengths = (3, 50, 1, 20, 90, 2, 33, 7)
    requests = [
        a_request(f"What is {length} plus 1? {'Please. ' * length}", system=SYSTEM, max_tokens=16)
        for length in lengths
    ]
    alone = [answer(engine, request).text for request in requests]

    together = [completion.text for completion in at_once(engine, requests)]

    assert together == alone


def test_a_shared_system_prompt_is_computed_once(engine: LlamaEngine):
    """Agents send the same system prompt thousands of times; it is most of what they send."""
    system = f"{SYSTEM} You speak of ships."
    first = answer(engine, a_request("What do you like?", system=system))
    second = answer(engine, a_request("What do you like?", system=system))

    assert first.cached_tokens == 0
    assert len(SYSTEM.split()) < second.cached_tokens < second.prompt_tokens
    assert first.prompt_tokens == second.prompt_tokens
    assert first.text == second.text


def test_more_system_prompts_than_there_is_room_for_are_answered(engine: LlamaEngine):
    """The least used prefix goes; no call may wait for room that never comes."""
    requests = [
        a_request("Hello.", system=f"{SYSTEM[:200]} Style {number % 4}.", max_tokens=2) for number in range(8)
    ]

    assert len(at_once(engine, requests)) == 8


def test_a_seed_gives_the_same_text_again(engine: LlamaEngine):
    """Whoever looks for the reason of an answer must be able to get it again."""
    request = a_request("Tell me a story.", temperature=0.9, seed=7)
    other = a_request("Tell me a story.", temperature=0.9, seed=8)

    assert answer(engine, request).text == answer(engine, request).text
    assert answer(engine, request).text != answer(engine, other).text


def test_a_seed_of_any_size_is_taken(engine: LlamaEngine):
    """`complete` allows seeds of 63 bits."""
    assert answer(engine, a_request("Hello.", temperature=0.9, seed=2**63 - 1, max_tokens=2)).text


def test_a_stop_string_across_tokens_ends_the_answer(engine: LlamaEngine):
    """Tokens do not end where stop strings do."""
    whole = answer(engine, a_request("What is the capital of France?")).text
    pieces: list[str] = []

    for stop in ("ital of Fra", "is Par", "f F"):
        pieces.clear()
        cut = answer(engine, a_request("What is the capital of France?", stop=(stop,)), pieces.append)
        assert cut.text == whole[: whole.find(stop)]
        assert cut.finish_reason == "stop"
        assert "".join(pieces) == cut.text


def test_pieces_add_up_to_the_text(engine: LlamaEngine):
    """An emoji is four bytes and often as many tokens; a piece with half of one breaks whoever prints it."""
    for text in ("Say: 日本語 🦊 😀 naïve", "Repeat exactly: 🎉🎉🎉🦊🦊🦊"):
        pieces: list[str] = []
        completion = answer(engine, a_request(text, temperature=0.7, seed=3), pieces.append)

        assert "".join(pieces) == completion.text
        assert all(piece for piece in pieces)
        assert "\ufffd" not in completion.text


def test_a_cancelled_answer_ends_within_a_step(engine: LlamaEngine):
    """A slot that works on for nobody is a slot lost."""
    cancelled_at = 0.0

    def cancel(_piece: str) -> None:
        nonlocal cancelled_at
        cancelled_at = cancelled_at or time.monotonic()

    with pytest.raises(CancelledError):
        engine.generate(
            a_request("Tell me a long story.", max_tokens=800),
            on_token=cancel,
            cancelled=lambda: cancelled_at > 0,
        )

    assert time.monotonic() - cancelled_at < 1
    assert answer(engine, a_request("What is the capital of France?")).text.endswith("Paris.")


def test_a_call_that_waits_can_be_cancelled(engine: LlamaEngine):
    """A task whose deadline passes in the queue must not take a slot first."""
    stop = threading.Event()
    cancel = threading.Event()

    def long_call() -> None:
        with pytest.raises(CancelledError):
            engine.generate(a_request("Count.", max_tokens=800), on_token=ignore, cancelled=stop.is_set)

    with ThreadPoolExecutor(engine.slots) as callers:
        running = [callers.submit(long_call) for _ in range(engine.slots)]
        threading.Timer(0.3, cancel.set).start()
        started = time.monotonic()
        with pytest.raises(CancelledError):
            engine.generate(a_request("Hello."), on_token=ignore, cancelled=cancel.is_set)
        took_s = time.monotonic() - started
        stop.set()
        for each in running:
            each.result()

    assert took_s < 2


def test_an_answer_ends_at_its_deadline(engine: LlamaEngine):
    """Nobody wants it afterwards, and others wait for the slot."""
    began = time.monotonic()
    deadline = datetime.now(UTC) + timedelta(seconds=0.5)

    with pytest.raises(DeadlineError):
        answer(engine, a_request("Count.", max_tokens=900, logit_bias=endless(engine), deadline=deadline))

    assert 0.4 < time.monotonic() - began < 3


def test_a_call_whose_deadline_has_passed_is_not_begun(engine: LlamaEngine):
    """It may have waited behind others on its way to the engine."""
    with pytest.raises(DeadlineError):
        answer(engine, a_request("Hello.", deadline=datetime.now(UTC)), pytest.fail)


def endless(engine: LlamaEngine) -> dict[int, float]:
    return dict.fromkeys(engine._loaded.model.end_tokens, -100.0)


def test_too_long_a_prompt_is_refused_before_any_work(engine: LlamaEngine):
    """The brain then plans a larger model; tokens computed first would be lost."""
    began = time.monotonic()

    with pytest.raises(ContextTooLongError) as refused:
        answer(engine, a_request("word " * 2000), on_token=pytest.fail)

    assert refused.value.context_tokens == engine.context_tokens
    assert refused.value.needed_tokens > 2000
    assert time.monotonic() - began < 1


def test_an_answer_without_room_is_refused_too(engine: LlamaEngine):
    """max_tokens counts: an answer that ends where the context does would look complete."""
    with pytest.raises(ContextTooLongError):
        answer(engine, a_request("Hello.", max_tokens=engine.context_tokens))


def test_a_long_prompt_is_read_in_parts(engine: LlamaEngine):
    """A prompt longer than a batch must give the answer it gives at once, and let the others go on."""
    shown_at: list[float] = []
    long = a_request("The sea is wide. " * 110 + "What is the capital of France?", max_tokens=8)
    with ThreadPoolExecutor(2) as callers:
        story = a_request("Tell me a story.", max_tokens=60)
        running = callers.submit(answer, engine, story, lambda _piece: shown_at.append(time.monotonic()))
        while len(shown_at) < 5:
            time.sleep(0.005)
        began = time.monotonic()
        completion = answer(engine, long)
        ended = time.monotonic()
        running.result()

    assert completion.prompt_tokens > 512
    assert sum(began < at < ended for at in shown_at) >= 4


def test_a_callback_that_fails_ends_its_own_call_only(engine: LlamaEngine):
    """One caller's bug must not take the answers of the others."""

    def fail(_piece: str) -> None:
        raise ZeroDivisionError

    with ThreadPoolExecutor(1) as callers:
        other = callers.submit(answer, engine, a_request("What is the capital of France?"))
        with pytest.raises(ZeroDivisionError):
            answer(engine, a_request("Hello."), fail)

        assert other.result().text.endswith("Paris.")


def test_what_a_text_model_cannot_read_is_refused(engine: LlamaEngine):
    """A picture that is silently dropped would be answered as if it had been seen."""
    picture = [{"type": "image_url", "image_url": {"url": "data:..."}}]

    with pytest.raises(BadRequestError, match="text only"):
        answer(engine, a_request("", messages=[{"role": "user", "content": picture}]))


def test_a_developer_message_is_a_system_message(engine: LlamaEngine):
    """OpenAI's newer clients write `developer`, which no chat template knows."""
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello."}]

    new = answer(engine, a_request("", messages=messages))

    assert new.text == answer(engine, a_request("Hello.")).text


def test_calls_wait_where_the_cache_is_small(starter: Path):
    """With little memory the youngest call waits; none fails."""
    engine = LlamaEngine(
        "smollm2", starter, context_tokens=256, slots=4, prefixes=2, threads=1, kv_budget_bytes=300 * 23040
    )
    requests = [a_request(f"What is {number} plus 1?", system=SYSTEM, max_tokens=40) for number in range(6)]
    try:
        completions = at_once(engine, requests)
    finally:
        engine.close()

    assert all(completion.text for completion in completions)


def test_a_context_that_does_not_fit_the_memory_is_refused(starter: Path):
    """A worker that starts to swap takes the whole host down."""
    with pytest.raises(ModelUnavailableError, match="context_tokens"):
        LlamaEngine("smollm2", starter, context_tokens=1024, kv_budget_bytes=1_000_000)


def test_closing_ends_the_calls_and_the_thread(starter: Path):
    """A worker that is told to stop must not hang on an answer."""
    engine = LlamaEngine("closing", starter, context_tokens=1024, slots=1, threads=1)
    begun = threading.Event()
    with ThreadPoolExecutor(2) as callers:
        calls = [
            callers.submit(answer, engine, a_request("Count.", max_tokens=900), lambda _piece: begun.set())
            for _ in range(2)
        ]
        assert begun.wait(30)
        engine.close()
        for call in calls:
            with pytest.raises(ModelUnavailableError, match="closed"):
                call.result()

    assert "engine-closing" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(ModelUnavailableError, match="closed"):
        answer(engine, a_request("Hello."))
