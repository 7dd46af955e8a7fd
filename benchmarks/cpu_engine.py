"""The engine on the processor, against llama.cpp's own server and llama-cpp-python's `Llama`, in one run.

All have the same model, the same kernels, threads and cache. 32 chat requests with one system prompt come at
once, as when a profile's tasks come to a worker; the server has as many slots as the engine. In each round
the system prompt is a new one for all; then the same number of other questions comes with it once more. The
requests also go through the whole fleet, from the caller to the row in Postgres. Nothing else should run on
the machine: each step waits for its slowest thread.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

import psycopg

from benchmarks.figures import Figure, report
from benchmarks.llama_peer import CONTEXT_TOKENS
from benchmarks.llama_server import LlamaServer, llama_server
from benchmarks.pipeline import processes, services
from config.catalog import load_catalog
from config.settings import SHIPPED_CONFIG, Settings
from workers.engines.llama_check import prove
from workers.engines.llama_context import physical_cores
from workers.model_files import pull

ROOT = Path(__file__).parents[1]
REQUESTS = 32
LIMIT_S = 120

SENTENCE = (
    "You work in the newsroom of a harbour town. You answer in short, plain sentences, you name no people, "
    "you never use lists, you do not repeat the question, and where you do not know something you say so. "
)
"""Some 50 tokens."""

TOPICS = ("tides", "queues", "lighthouses", "rope", "fog", "cranes", "salt", "ferries")
QUESTIONS = ("What are {} for?", "Tell me about {}.", "Who needs {}, and why?", "What is hard about {}?")

CATALOG = """
models:
  small:
    tier: local
    engine: llama
    sources: [{{file: "{file}"}}]
    context_tokens: {context}
    capabilities: {{logit_bias: true}}
"""
PROFILES = """
profiles:
  bench: {model: small, fallbacks: [], temperature: 0, max_tokens: 64, prompt: Hello.}
routing: {primary: small}
"""

RATIOS = (
    ("slots8_vs_llama_server", "ours 8", "server 8", 1.1),
    ("slots16_vs_llama_server", "ours 16", "server 16", 1.15),
    ("prompt_seen_vs_llama_server", "ours 8, prompt seen", "server 8, prompt seen", 1.0),
    ("single_vs_llama", "ours 1", "Llama", 1.0),
    ("fleet_vs_engine", "fleet 8", "ours 8", 0.95),
)
"""Figures: who is compared with whom, and what is to be reached."""


class Peer:
    """A model in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "benchmarks.llama_peer", *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self.process.stdin is None or self.process.stdout is None:
            raise BrokenPipeError
        self.writing, self.reading = self.process.stdin, self.process.stdout

    def __enter__(self) -> Self:
        """Wait until it is loaded."""
        self.end_tokens: list[int] = json.loads(self.reading.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def ask(
        self, conversations: Sequence[Any], max_tokens: int, *, at_once: bool, is_endless: bool = True
    ) -> dict[str, Any]:
        """Let it answer; all at once, or one after the other."""
        asked = {"conversations": conversations, "max_tokens": max_tokens}
        self.writing.write(json.dumps({**asked, "at_once": at_once, "is_endless": is_endless}) + "\n")
        self.writing.flush()
        return json.loads(self.reading.readline())

    def tokens_per_s(self, *asked: Any, **how: Any) -> float:  # noqa: ANN401 - as `ask`
        answered = self.ask(*asked, **how)
        return sum(answer["tokens"] for answer in answered["answers"]) / answered["took_s"]


def conversations(edition: int, number: int = 0) -> list[Any]:
    """Make chat requests: one system prompt for an edition, other questions for each number."""
    asked = [question.format(topic) for question, topic in itertools.product(QUESTIONS, TOPICS)]
    system = f"Edition {edition}. {SENTENCE * 3}"
    return [chat(system, f"{question} ({number})") for question in asked]


def chat(system: str, text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


def in_turns(peers: tuple[Peer, Peer], number: int, count: int, max_tokens: int) -> list[list[float]]:
    """Ask two peers one question after the other, each of them first every other time; tokens a second."""
    speeds: list[list[float]] = [[], []]
    for at, messages in enumerate(conversations(-1, number)[len(TOPICS) :][:count]):
        for which in (0, 1) if at % 2 else (1, 0):
            answered = peers[which].tokens_per_s([messages], max_tokens, at_once=False, is_endless=False)
            speeds[which].append(answered)
    return speeds


def first_token_s(engine: Peer, prompts: int) -> tuple[float, float]:
    """Time the first token of a new system prompt of some 400 tokens, and of one that was seen before."""
    times: list[tuple[float, float]] = []
    for number in range(prompts):
        system = f"Edition {number}. {SENTENCE * 8}"
        asked = [chat(system, "What do ropes do?"), chat(system, "Why is fog grey?")]
        answers = engine.ask(asked, 2, at_once=False)["answers"]
        times.append((answers[0]["first_token_s"], answers[1]["first_token_s"]))
    new, seen = (statistics.median(column) for column in zip(*times, strict=True))
    return new, seen


def same_texts(engine: Peer, asked: Sequence[Any], max_tokens: int) -> int:
    """Count the greedy answers that come out the same alone and beside others."""
    alone = engine.ask(asked, max_tokens, at_once=False)["answers"]
    together = engine.ask(asked, max_tokens, at_once=True)["answers"]
    return sum(one["text"] == other["text"] for one, other in zip(alone, together, strict=True))


def through_the_fleet(
    using: Settings, asked: Sequence[Any], max_tokens: int, bias: dict[str, float]
) -> float:
    """Enqueue requests and wait until all are in Postgres; tokens a second."""
    from workers.tasks import complete  # noqa: PLC0415 - reads the settings that `services` made

    with psycopg.connect(using.database_url, autocommit=True) as db:
        before, began = written(db), time.perf_counter()
        for messages in asked:
            complete.delay(messages=messages, profile="bench", max_tokens=max_tokens, logit_bias=bias)
        while (now := written(db))[0] < before[0] + len(asked):
            if time.perf_counter() - began > LIMIT_S:
                message = f"only {now[0] - before[0]} of {len(asked)} tasks were done in {LIMIT_S} s"
                raise TimeoutError(message)
            time.sleep(0.02)
        return (now[1] - before[1]) / (time.perf_counter() - began)


def written(db: psycopg.Connection) -> tuple[int, int]:
    """Count the answers in the ledger, and their tokens."""
    query = "SELECT count(*), coalesce(sum(completion_tokens), 0) FROM attempts WHERE outcome = 'succeeded'"
    count, tokens = db.execute(query).fetchone() or (0, 0)
    return count, tokens


def write_catalog(home: Path, file: Path) -> Path:
    """Write a catalog with the one model."""
    config = home / "config"
    config.mkdir()
    (config / "models.yaml").write_text(CATALOG.format(file=file, context=CONTEXT_TOKENS))
    (config / "profiles.yaml").write_text(PROFILES)
    (config / "schedule.yaml").write_text("schedule: {}\n")
    return config


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shorter answers, one round: under 50 s")
    quick = parser.parse_args().quick
    tokens, rounds, single, prompts = (16, 1, 4, 1) if quick else (64, 3, 8, 5)
    more = () if quick else (16,)
    llama_server()
    file = pull(load_catalog(SHIPPED_CONFIG).model("smollm2"), lambda *_: None).path
    cores = str(physical_cores())
    tuning = prove("benchmark", file).tuning  # what the engine has found to be the fastest, for all
    options = ("--threads", cores, "--threads-batch", cores)
    options += ("--flash-attn", "on" if tuning.flash_attention else "off")
    options += ("--cache-type-k", tuning.kv_type, "--cache-type-v", tuning.kv_type)
    with ExitStack() as stack:
        server = {
            slots: stack.enter_context(LlamaServer(file, slots, CONTEXT_TOKENS, options))
            for slots in (8, *more)
        }
        ours = {slots: stack.enter_context(Peer("engine", str(file), str(slots))) for slots in (8, *more)}
        plain = stack.enter_context(Peer("llama", str(file)))
        using = stack.enter_context(services(partial(write_catalog, file=file)))
        stack.enter_context(
            processes(("workers.cli", "dispatcher"), ("workers.cli", "worker", "cpu", "--slots", "8"))
        )
        endless = {str(token): -100.0 for token in ours[8].end_tokens}
        found: dict[str, list[float]] = {}
        for number in range(-1, rounds):  # the first round warms up and does not count
            asked = conversations(number)[: None if number >= 0 else 4]
            ways: dict[str, Callable[[], float]] = {}
            for slots in (8, *more):
                ways[f"server {slots}"] = partial(server[slots].tokens_per_s, asked, tokens)
                ways[f"ours {slots}"] = partial(ours[slots].tokens_per_s, asked, tokens, at_once=True)
            ways["fleet 8"] = partial(through_the_fleet, using, asked, tokens, endless)
            if not quick:
                again = conversations(number, 1)
                ways["server 8, prompt seen"] = partial(server[8].tokens_per_s, again, tokens)
                ways["ours 8, prompt seen"] = partial(ours[8].tokens_per_s, again, tokens, at_once=True)
            speeds = {way: [measure()] for way, measure in ways.items()}
            speeds["Llama"], speeds["ours 1"] = in_turns((plain, ours[8]), number, single, tokens)
            if number >= 0:
                for way, some in speeds.items():
                    found.setdefault(way, []).extend(some)
        new_s, seen_s = first_token_s(ours[8], prompts)
        same = same_texts(ours[8], conversations(rounds), 8 if quick else tokens)
    speed = {way: statistics.median(speeds) for way, speeds in found.items()}
    report(
        f"{REQUESTS} chat requests at once, {tokens} tokens each, medians of {rounds}",
        [
            *((f"{way}, tokens/s", f"{each:.0f}") for way, each in speed.items()),
            ("first token, new system prompt and seen one", f"{new_s * 1000:.0f} ms, {seen_s * 1000:.0f} ms"),
            ("greedy answers that are the same at 8 slots", f"{same} of {REQUESTS}"),
        ],
        [
            *(
                Figure(f"cpu_engine.{key}", speed[ours] / speed[peer], goal, "x")
                for key, ours, peer, goal in RATIOS
                if ours in speed
            ),
            Figure("cpu_engine.first_token_seen_vs_new", seen_s / new_s, 0.3, "x", is_ceiling=True),
            Figure("cpu_engine.same_at_8_slots", same, 30, f"of {REQUESTS}"),
        ],
    )


if __name__ == "__main__":
    main()
