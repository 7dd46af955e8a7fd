"""The MLX engine on MLX's CPU backend, with a tiny model of random weights, and with a real one."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("mlx_lm", reason="the extra `mlx` is not installed")

from mlx_lm import load, stream_generate
from mlx_lm.sample_utils import make_sampler

from tests.mlx_models import smollm2, tiny
from workers.engines.answer import Answer
from workers.engines.base import Completion, Request
from workers.engines.errors import (
    BadRequestError,
    CancelledError,
    ContextTooLongError,
    DeadlineError,
    ModelUnavailableError,
)
from workers.engines.mlx import MlxEngine
from workers.engines.mlx_batch import Call

SYSTEM = "You answer in short and plain sentences, and you never use lists. " * 3

SHORT = 40
"""Tokens that the chat template itself begins with, which other tests' heads share; generously."""

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "people": {"type": "integer", "minimum": 0, "maximum": 99999999},
        "kind": {"enum": ["capital", "town"]},
    },
    "required": ["city", "people", "kind"],
    "additionalProperties": False,
}

AS_JSON = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[MlxEngine]:
    engine = MlxEngine("tiny", folder, context_tokens=2048, slots=8)
    yield engine
    engine.close()


def a_request(text: str, *, system: str = "Be brief.", **changes: object) -> Request:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    fields: dict[str, object] = {"messages": messages, "max_tokens": 24, "temperature": 0.0, **changes}
    return Request(**fields)  # pyright: ignore[reportArgumentType]


def ignore(_piece: str) -> None:
    """Show nothing."""


def never() -> bool:
    return False


def answer(engine: MlxEngine, request: Request, on_token: Callable[[str], None] = ignore) -> Completion:
    return engine.generate(request, on_token=on_token, cancelled=never)


def at_once(engine: MlxEngine, requests: list[Request]) -> list[Completion]:
    with ThreadPoolExecutor(len(requests)) as callers:
        return list(callers.map(lambda request: answer(engine, request), requests))


@pytest.fixture(scope="module")
def serial(folder: Path) -> Callable[[Request], tuple[str, str, int, int]]:
    """Answer as mlx-lm itself does, one request at a time: text, reason, prompt tokens, tokens."""
    model, tokenizer = load(str(folder))  # pyright: ignore[reportAssignmentType]

    def run(request: Request) -> tuple[str, str, int, int]:
        prompt: Any = tokenizer.apply_chat_template(list(request.messages), add_generation_prompt=True)
        pieces = list(
            stream_generate(
                model, tokenizer, prompt, max_tokens=request.max_tokens, sampler=make_sampler(0.0)
            )
        )
        last = pieces[-1]
        tokens = last.generation_tokens - (last.finish_reason == "stop")
        text = "".join(each.text for each in pieces)
        for token in tiny.SPECIAL:  # mlx-lm writes them out; an answer has none
            text = text.replace(token, "")
        return text, str(last.finish_reason), len(prompt), tokens

    return run


def test_two_hundred_staggered_calls_are_answered_as_one_by_one(
    engine: MlxEngine, serial: Callable[[Request], tuple[str, str, int, int]]
):
    """A mix-up, a token too many or a cancelled neighbour's trace would show as another text or count."""
    chance = Random(7)
    requests = [
        a_request(
            f"Question {number}{'?' * chance.randrange(40)}",
            system=chance.choice(["Be brief.", SYSTEM, SYSTEM + "You like ships."]),
            max_tokens=chance.randrange(1, 40),
        )
        for number in range(200)
    ]
    cancelled_after = {number: chance.randrange(6) for number in chance.sample(range(200), 36)}
    pauses = [chance.random() * 0.02 for _ in requests]

    def ask(number: int) -> Completion | None:
        time.sleep(pauses[number])
        pieces: list[str] = []

        def is_cancelled() -> bool:
            return number in cancelled_after and len(pieces) >= cancelled_after[number]

        try:
            return engine.generate(requests[number], on_token=pieces.append, cancelled=is_cancelled)
        except CancelledError:
            assert number in cancelled_after
            return None

    with ThreadPoolExecutor(16) as callers:
        completions = list(callers.map(ask, range(len(requests))))

    assert sum(each is None for each in completions) > 20
    for request, completion in zip(requests, completions, strict=True):
        if completion is not None:
            found = (
                completion.text,
                completion.finish_reason,
                completion.prompt_tokens,
                completion.completion_tokens,
            )
            assert found == serial(request)


def test_the_pieces_of_an_answer_add_up_to_its_text(engine: MlxEngine):
    """Whoever reads along must have read what is recorded."""
    pieces: list[str] = []

    completion = answer(engine, a_request("Go on.", max_tokens=60), pieces.append)

    assert "".join(pieces) == completion.text
    assert len(pieces) > 1


def test_an_answer_ends_before_a_stop_string(engine: MlxEngine):
    """A stop string has nothing to do with where tokens begin and end."""
    whole = answer(engine, a_request("Go on.", max_tokens=60)).text
    stop = whole[20:23]
    pieces: list[str] = []

    completion = answer(engine, a_request("Go on.", max_tokens=60, stop=[stop]), pieces.append)

    assert completion.text == whole[: whole.index(stop)]
    assert "".join(pieces) == completion.text
    assert completion.finish_reason == "stop"


def test_json_is_valid_beside_free_answers_and_at_any_temperature(engine: MlxEngine):
    """Random weights want everything but JSON: what is valid here is so because of the schema alone."""
    free = a_request("Go on.")
    alone = answer(engine, free).text
    requests = [
        a_request(f"Place {n}", max_tokens=120, temperature=n % 3 / 2, response_format=AS_JSON)
        for n in range(12)
    ]

    *described, beside = at_once(engine, [*requests, free])

    for each in described:
        place = json.loads(each.text)
        assert set(place) == {"city", "people", "kind"}
        assert place["kind"] in ("capital", "town")
        assert len(place["city"]) <= 12
        assert each.finish_reason == "stop"
    assert beside.text == alone


def test_a_schema_that_means_nothing_is_refused_at_once(engine: MlxEngine):
    """In the middle of a step it would end everybody's answers."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nope"}}}

    with pytest.raises(BadRequestError, match="JSON schema"):
        answer(engine, a_request("Go on.", response_format=form))

    assert answer(engine, a_request("Go on.")).text


def test_a_seed_gives_the_same_text_again_whoever_runs_beside_it(engine: MlxEngine):
    """Whoever looks for the reason of an answer must be able to get it again."""
    seeded = a_request("A story.", temperature=1.0, seed=7)
    others = [a_request("A story.", temperature=1.0) for _ in range(5)]
    alone = answer(engine, seeded).text

    beside, *unseeded = at_once(engine, [seeded, *others])

    assert beside.text == alone
    assert len({each.text for each in unseeded}) > 1
    assert answer(engine, a_request("A story.", temperature=1.0, seed=8)).text != alone


@pytest.mark.parametrize("extreme", [{"top_k": 100_000}, {"min_p": 7.0}, {"top_p": -1.0}, {"top_k": 0}])
def test_sampling_values_out_of_bounds_harm_nobody(engine: MlxEngine, extreme: dict[str, Any]):
    """What raises inside a step ends everybody's answers."""
    request = a_request("A story.", temperature=0.8, seed=1, **extreme)

    assert answer(engine, request).completion_tokens > 0


def test_a_shared_system_prompt_is_computed_once(engine: MlxEngine):
    """Agents send the same system prompt thousands of times; it is most of what they send."""
    system = f"You speak of ships. {SYSTEM}"
    first = answer(engine, a_request("What do you like?", system=system))
    second = answer(engine, a_request("What else?", system=system))

    assert first.cached_tokens < SHORT
    assert len(SYSTEM) < second.cached_tokens < second.prompt_tokens


def test_calls_that_come_together_share_the_computing_of_their_head(engine: MlxEngine):
    """A burst of a profile's tasks comes right after a start, when nothing is computed yet."""
    system = f"Trains are what you speak of. {SYSTEM}"

    completions = at_once(engine, [a_request(f"Train {n}", system=system) for n in range(6)])

    assert sum(each.cached_tokens < SHORT for each in completions) == 1


def test_more_heads_than_are_kept_are_answered(engine: MlxEngine):
    """The oldest goes; no call may wait for one that was given up."""
    requests = [a_request("Hello.", system=f"{n} {SYSTEM}", max_tokens=2) for n in range(40)]

    assert len(at_once(engine, requests)) == 40


def test_an_answer_ends_at_its_deadline(engine: MlxEngine):
    """A task that is late is not finished for nobody."""
    soon = datetime.now(UTC) + timedelta(seconds=0.2)

    with pytest.raises(DeadlineError):
        answer(engine, a_request("A story.", max_tokens=1500, deadline=soon), lambda _: time.sleep(0.1))
    with pytest.raises(DeadlineError):
        answer(engine, a_request("A story.", deadline=datetime.now(UTC)), pytest.fail)


def test_calls_that_are_cancelled_leave_at_once(engine: MlxEngine):
    """An answer that nobody waits for takes a slot from somebody who waits."""
    pieces: list[str] = []

    with pytest.raises(CancelledError):
        engine.generate(
            a_request("A story.", max_tokens=1500), on_token=pieces.append, cancelled=lambda: len(pieces) > 3
        )

    assert len(pieces) < 10


def test_a_callers_own_error_is_that_callers(engine: MlxEngine):
    """One bad callback must not take the engine from the others."""

    with pytest.raises(LookupError):
        answer(engine, a_request("A story."), fall)

    assert not engine.is_closed
    assert answer(engine, a_request("A story.")).text


def test_what_does_not_fit_is_refused_before_any_work(engine: MlxEngine):
    """The brain then takes a model with a larger context."""
    with pytest.raises(ContextTooLongError) as refused:
        answer(engine, a_request("word " * 500))

    assert refused.value.context_tokens == 2048


def test_memory_bounds_what_runs_at_once(folder: Path):
    """On a Mac, key-value caches that outgrow the memory end the process and all its answers."""
    peak: list[int] = []
    with MlxEngineForTest(folder, kv_bytes=600_000) as engine:
        room = engine.context_tokens
        requests = [a_request("x" * (room // 3), max_tokens=20 + n) for n in range(6)]
        with engine._thread.visit() as batch, ThreadPoolExecutor(len(requests)) as callers:
            watch = partial(answer, engine, on_token=lambda _: peak.append(len(batch.running)))
            completions = list(callers.map(watch, requests))

    assert 600 < room < 1000
    assert [each.completion_tokens for each in completions] == [20, 21, 22, 23, 24, 25]
    assert max(peak) == 2


class MlxEngineForTest:
    """An engine of a test's own, closed at its end."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.engine = MlxEngine("tiny", folder, context_tokens=2048, slots=8, **options)

    def __enter__(self) -> MlxEngine:
        return self.engine

    def __exit__(self, *_: object) -> None:
        self.engine.close()


def test_two_engines_run_side_by_side(folder: Path, engine: MlxEngine):
    """A worker serves each of its models with a thread of its own; MLX's streams belong to threads."""
    alone = [answer(engine, a_request(f"Question {n}")).text for n in range(6)]
    with MlxEngineForTest(folder) as other, ThreadPoolExecutor(12) as callers:
        engines = [engine, other] * 6
        requests = [a_request(f"Question {n // 2}", temperature=0.0) for n in range(12)]
        texts = [each.text for each in callers.map(answer, engines, requests)]

    assert texts == [text for text in alone for _ in range(2)]
    assert answer(engine, a_request("Question 0")).text == alone[0]


def test_calls_fail_when_the_engine_is_closed(folder: Path):
    """A worker that stops must not leave a caller waiting."""
    with MlxEngineForTest(folder) as engine:
        begun = threading.Event()
        with ThreadPoolExecutor(1) as caller:
            long = a_request("A story.", max_tokens=1500)
            pending = caller.submit(answer, engine, long, lambda _: begun.set())
            begun.wait(20)
            engine.close()
            with pytest.raises(ModelUnavailableError, match="closed"):
                pending.result(20)

        assert engine.is_closed
        with pytest.raises(ModelUnavailableError, match="closed"):
            answer(engine, a_request("Hello."))


def fall(*_: object) -> Any:
    raise LookupError("something of MLX's")


def test_a_step_that_fails_says_why_and_closes_the_engine(folder: Path):
    """The lane loads a closed engine anew; one that only looks alive would take every task."""
    with MlxEngineForTest(folder) as engine:
        asked = a_request("Hello.")
        with engine._thread.visit() as batch:
            prompt = batch.model.render(asked.messages)
            call = Call(asked, prompt, (), ignore, never, fall, Answer(), 0.0)  # pyright: ignore[reportArgumentType]
            engine._thread.begin(call)

        with pytest.raises(ModelUnavailableError, match="a step failed: LookupError"):
            call.done.result()

        assert engine.is_closed


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", '{"model_type": "unheard"}', "unheard not supported"),
        ("model.safetensors", "cut", "cannot load"),
        ("tokenizer_config.json", '{"tokenizer_class": "PreTrainedTokenizerFast"}', "no chat template"),
    ],
)
def test_a_folder_that_is_no_chat_model_is_named_as_such(tmp_path: Path, name: str, content: str, says: str):
    """`fleet doctor` and the task's error show this sentence to a person."""
    broken = tiny.make(tmp_path / "broken")
    (broken / name).write_text(content)

    with pytest.raises(ModelUnavailableError, match=says):
        MlxEngine("broken", broken, context_tokens=2048)


ENDS_BY_ITSELF = """
import sys, threading
from pathlib import Path
from workers.engines.answer import Answer
from workers.engines.base import Request
from workers.engines.mlx import MlxEngine
from workers.engines.mlx_batch import Call
engine = MlxEngine("tiny", Path(sys.argv[1]), context_tokens=2048)
asked = Request([{"role": "user", "content": "Hello."}], max_tokens=8, temperature=0.7)
engine.generate(asked, on_token=print, cancelled=lambda: False)
engine.close()
print("threads:", [thread.name for thread in threading.enumerate()])
"""


def test_a_process_that_ran_a_model_ends_well(folder: Path):
    """MLX aborts a process that ends with streams of a thread which is gone."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_BY_ITSELF, str(folder)], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr
    assert "threads: ['MainThread']" in ended.stdout


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlxEngine]:
    folder = smollm2.make(tmp_path_factory.mktemp("smollm2"))
    engine = MlxEngine("smollm2-mlx", folder, context_tokens=1024, slots=4)
    yield engine
    engine.close()


def test_a_real_model_answers(real: MlxEngine):
    """Everything else is worth nothing if the words make no sense."""
    completion = answer(real, a_request("What is the capital of France?"))

    assert completion.text == "The capital of France is Paris."
    assert (completion.finish_reason, completion.completion_tokens) == ("stop", 7)


def test_a_real_model_goes_on_with_a_conversation(real: MlxEngine):
    """The chat template has to be the model's own, and all turns have to be in it."""
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is Paris."},
        {"role": "user", "content": "And of Italy?"},
    ]

    assert "Rome" in answer(real, Request(messages, max_tokens=24, temperature=0.0)).text


def test_a_real_model_fills_in_a_schema(real: MlxEngine):
    """The words come from the model, the form from the schema."""
    completion = answer(real, a_request("Describe Paris.", max_tokens=60, response_format=AS_JSON))

    assert json.loads(completion.text)["city"].startswith("Paris")
