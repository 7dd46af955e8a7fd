"""The text of answers as it comes, from the workers' own processes to callers of every kind."""

import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as NoAnswerYet
from celery.result import AsyncResult
from redis import Redis

from config.catalog import load_catalog
from config.settings import SHIPPED_CONFIG
from tests.fleet.processes import ROOT, WAIT_S, Fleet
from tests.provider import FAULTS, Provider
from workers import embedded, stream
from workers.engines.errors import ContentRefusedError
from workers.errors import StreamRestartedError
from workers.model_files import pull
from workers.streaming import KEPT_S, key_of

BETWEEN_S = 0.1

WORDS = " ".join(f"word{number}" for number in range(20))
"""Two seconds of speech."""

CONFIG = """
providers:
  giver: {{api_base: "{url}"}}
models:
  drip: {{tier: local, engine: cloud, provider: giver, upstream: drip, context_tokens: 65536}}
  twin: {{tier: local, engine: cloud, provider: giver, upstream: twin, context_tokens: 65536}}
  echo: {{tier: local, engine: echo, upstream: "0.5", context_tokens: 4096}}
"""

PROFILES = """
profiles:
  drip: {model: drip, fallbacks: [twin], temperature: 0, max_tokens: 100, prompt: Hello.}
  secret: {model: drip, fallbacks: [], temperature: 0, max_tokens: 100, prompt: Hello., keep_text: 0}
  huge: {model: drip, fallbacks: [], temperature: 0, max_tokens: 1000, prompt: Hello.}
  echo: {model: echo, fallbacks: [], temperature: 0, max_tokens: 100, prompt: Hello.}
  llama: {model: smollm2, fallbacks: [], temperature: 0, max_tokens: 200, prompt: Hello.}
routing: {primary: drip}
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider("openai", between_s=BETWEEN_S) as provider:
        yield provider


@pytest.fixture(scope="module")
def fleet(short_folder: Callable[[], Path], provider: Provider) -> Iterator[Fleet]:
    """Run a worker for each engine; the one of the cloud has a provider that drips."""
    starter = load_catalog(SHIPPED_CONFIG).model("smollm2")
    pull(starter, lambda _done, _total, _label: None)
    home = short_folder()
    config = home / "config"
    config.mkdir()
    models = yaml.safe_load(CONFIG.format(url=provider.url))
    shipped = yaml.safe_load((SHIPPED_CONFIG / "models.yaml").read_text())
    models["models"]["smollm2"] = shipped["models"]["smollm2"]
    (config / "models.yaml").write_text(yaml.safe_dump(models))
    (config / "profiles.yaml").write_text(PROFILES)
    (config / "schedule.yaml").write_text("schedule: {}\n")
    fleet = Fleet(home)
    try:
        fleet.start("dispatcher")
        for arguments in (("local",), ("echo", "--model", "echo"), ("cpu", "--slots", "2")):
            fleet.start("worker", *arguments)
        fleet.wait_for("SELECT count(*) FROM workers", 3)
        yield fleet
    finally:
        fleet.end()


@pytest.fixture(autouse=True)
def behaved(provider: Provider) -> Iterator[None]:
    yield
    provider.faults.clear()
    provider.queued.clear()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def redis(fleet: Fleet) -> Iterator[Redis]:
    with Redis.from_url(fleet.settings.redis_url) as redis:
        yield redis


def text_of(result: AsyncResult) -> str:
    answer: Any = result.get(timeout=WAIT_S)
    return answer["choices"][0]["message"]["content"]


def timed(result: AsyncResult) -> list[tuple[float, str]]:
    """Read a stream, with the moment at which each piece came."""
    return [(time.monotonic(), piece) for piece in stream(result, timeout=WAIT_S)]


def wait_for_words(provider: Provider, count: int) -> None:
    """Wait until the provider has said so many words of its last answer."""
    before = len(provider.books.served)
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if len(provider.books.served) > 0 and provider.books.served[-1].completion_tokens >= count:
            return
        time.sleep(0.01)
    pytest.fail(f"the provider did not say {count} words; it had {before} requests")


@pytest.mark.parametrize(
    ("profile", "least_pieces", "options"),
    [("drip", 8, {}), ("llama", 4, {"grammar": "root ::= [a-z ]{400}"})],
)
def test_the_text_comes_while_the_task_runs(
    fleet: Fleet, profile: str, least_pieces: int, options: dict[str, Any]
):
    """Somebody looks at a screen and waits; a small model says its words in a moment, so it must say many."""
    result = fleet.send(WORDS, profile=profile, **options)

    pieces = timed(result)

    assert "".join(piece for _, piece in pieces) == text_of(result)
    assert len(pieces) >= least_pieces
    assert pieces[-1][0] - pieces[0][0] > 0.05


def test_an_engine_that_says_all_at_once_is_heard_too(fleet: Fleet):
    """Whatever the engine, the pieces are the answer."""
    result = fleet.send(WORDS, profile="echo")

    assert "".join(stream(result, timeout=WAIT_S)) == WORDS


def test_who_comes_late_gets_it_from_the_start(fleet: Fleet, provider: Provider, pool: ThreadPoolExecutor):
    """A page that is opened again must not begin in the middle of a sentence."""
    served = len(provider.books.served)
    result = fleet.send(WORDS, profile="drip")
    while len(provider.books.served) == served:
        time.sleep(0.01)
    wait_for_words(provider, 8)

    late = pool.submit(timed, result)
    also = pool.submit(timed, fleet.app.AsyncResult(result.id))

    for reader in (late, also):
        pieces = reader.result(WAIT_S)
        assert "".join(piece for _, piece in pieces) == WORDS
        assert len(pieces) > 3
        assert pieces[0][1].startswith("word0 word1 word2")
    assert list(stream(result, timeout=WAIT_S)) == [WORDS]


def test_who_reads_slowly_slows_nobody(fleet: Fleet):
    """A terminal that was stopped must not hold up a worker."""
    began = time.monotonic()
    result = fleet.send(WORDS, profile="drip")
    reading = stream(result, timeout=WAIT_S)
    first = next(reading)

    text = text_of(result)
    took_s = time.monotonic() - began

    assert took_s < BETWEEN_S * 20 + 10
    assert first + "".join(reading) == text == WORDS


def test_text_of_an_attempt_that_failed_is_called_void(fleet: Fleet, provider: Provider):
    """Two halves of different answers, one after the other, would look like one."""
    provider.always(FAULTS["cut"], "drip")
    result = fleet.send(WORDS, profile="drip")
    heard: list[str] = []

    with pytest.raises(StreamRestartedError) as restarted:
        heard.extend(stream(result, timeout=WAIT_S))
    again = "".join(stream(result, timeout=WAIT_S))

    assert restarted.value.task_id == result.id
    assert restarted.value.attempt == 2
    assert again == text_of(result) == WORDS
    answer: Any = result.get(timeout=WAIT_S)
    assert answer["fleet"]["model"] == "twin"


def test_a_failed_task_raises_its_error(fleet: Fleet, provider: Provider):
    """As `get()` does."""
    provider.always(FAULTS["refused_content"])
    result = fleet.send(WORDS, profile="drip")

    with pytest.raises(ContentRefusedError):
        list(stream(result, timeout=WAIT_S))


def test_a_cancelled_task_ends_its_stream(fleet: Fleet):
    """Otherwise its reader would wait for ever."""
    result = fleet.send(WORDS, profile="drip")
    reading = stream(result, timeout=WAIT_S)
    next(reading)

    result.revoke()

    with pytest.raises(TaskRevokedError):
        list(reading)


def test_a_task_that_waits_is_waited_for(fleet: Fleet):
    """A stream may be opened long before a model is free."""
    result = fleet.app.send_task("complete", [WORDS], {"profile": "drip"}, queue="dispatch", countdown=2)

    with pytest.raises(NoAnswerYet):
        list(stream(result, timeout=0.5))
    pieces = timed(result)

    assert len(pieces) > 3
    assert "".join(piece for _, piece in pieces) == WORDS


def test_a_stream_that_redis_loses_is_begun_again(fleet: Fleet, redis: Redis):
    """`FLUSHALL` takes the stream; nothing is missing and nothing comes twice."""
    result = fleet.send(WORDS, profile="drip")
    heard: list[str] = []
    for piece in stream(result, timeout=WAIT_S):
        heard.append(piece)
        if len(heard) == 3:
            redis.delete(key_of(result.id))

    assert "".join(heard) == WORDS
    assert len(heard) > 4


def test_a_redis_that_is_away_for_a_moment_costs_no_text(fleet: Fleet):
    """The engine goes on, and what was not written is written later, or comes with the result."""
    result = fleet.send(WORDS, profile="drip")
    reading = stream(result, timeout=WAIT_S)
    heard = [next(reading)]

    embedded.stop_redis(fleet.settings.home, fleet.settings.sockets)
    fleet.start_redis()

    assert "".join([*heard, *reading]) == WORDS


def test_a_stream_is_gone_soon_and_is_not_there_unless_asked_for(fleet: Fleet, redis: Redis):
    """It is text at rest, also that of profiles which keep none."""
    asked, unasked = fleet.send(WORDS, profile="secret"), fleet.send(WORDS, profile="secret")

    assert "".join(stream(asked, timeout=WAIT_S)) == text_of(unasked) == WORDS

    assert 0 < redis.ttl(key_of(asked.id)) <= KEPT_S
    assert not redis.exists(key_of(unasked.id))


def test_an_answer_that_is_too_long_for_a_stream_is_whole(fleet: Fleet, provider: Provider, redis: Redis):
    """A stream is bounded; what is beyond comes with the result."""
    provider.always(FAULTS["huge"])
    result = fleet.send("Write ten megabytes.", profile="huge")
    size = 0
    pieces: list[str] = []
    for piece in stream(result, timeout=WAIT_S):
        pieces.append(piece)
        size = max(size, int(redis.memory_usage(key_of(result.id)) or 0))

    assert "".join(pieces) == text_of(result)
    assert len("".join(pieces)) > 10_000_000
    assert size < 3_000_000


def test_a_terminal_shows_the_text_as_it_comes(fleet: Fleet):
    """`fleet complete` is where somebody looks on."""
    mine, its = pty.openpty()
    command = [sys.executable, "-m", "workers.cli", "complete", WORDS, "--profile", "drip"]
    with subprocess.Popen(command, env=fleet.environment, cwd=ROOT, stdout=its, stderr=its) as running:
        os.close(its)
        came: list[tuple[float, bytes]] = []
        with suppress(OSError):  # the other side has closed
            while piece := os.read(mine, 4096):
                came.append((time.monotonic(), piece))
        os.close(mine)
        assert running.wait(WAIT_S) == 0
    shown = b"".join(piece for _, piece in came).decode().replace("\r\n", "\n")

    assert shown.startswith(f"{WORDS}\n")
    assert "drip (local)" in shown
    assert len(came) > 5


def test_a_pipe_gets_the_text_once(fleet: Fleet):
    """Programs read whole answers."""
    assert fleet.run("complete", "one two", "--profile", "drip").stdout == "one two\n"


def test_many_streams_at_once_are_all_whole(fleet: Fleet, pool: ThreadPoolExecutor):
    """Each slot of a worker writes its own."""
    results = [fleet.send(f"{WORDS} {number}", profile="drip") for number in range(4)]

    reading: list[Future[list[tuple[float, str]]]] = [pool.submit(timed, result) for result in results]

    for number, reader in enumerate(reading):
        assert "".join(piece for _, piece in reader.result(WAIT_S)) == f"{WORDS} {number}"
