"""`fleet selftest mlx`: what the MLX engine promises, tried with a real model on this host."""

import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

from rich.console import Console

from config.catalog import Catalog
from config.models import Model
from workers.absence import Absence
from workers.availability import availability, local_models
from workers.engines.base import Completion, Engine, Request
from workers.engines.errors import CancelledError
from workers.errors import NotThereError
from workers.lanes import ENGINE_OF
from workers.mlx_host import this_host
from workers.model_files import GB, locate
from workers.screen import fleet_version, print_rows

SLOTS = 8

QUICK_CANCEL_S = 2.0
"""How long a cancelled call may take to end: a step, and on a slow host a step with a prompt in it."""

SYSTEM = (
    "You answer in short and plain sentences, you never use lists, and you do not repeat the question. " * 12
)

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "is_capital": {"type": "boolean"}},
    "required": ["city", "is_capital"],
    "additionalProperties": False,
}

RUNS_AND_ENDS = """
import sys
from pathlib import Path
from workers.engines.base import Request
from workers.engines.mlx import MlxEngine
engine = MlxEngine("selftest", Path(sys.argv[1]), context_tokens=512, slots=1)
asked = Request([{"role": "user", "content": "Hello."}], max_tokens=4, temperature=0.7)
engine.generate(asked, on_token=print, cancelled=lambda: False)
engine.close()
"""


@dataclass(frozen=True)
class Check:
    """One thing that was tried."""

    name: str
    has_held: bool | None
    """None: a figure, to be judged by a person."""
    found: str


@dataclass(frozen=True)
class Report:
    """What was found on a host."""

    host: dict[str, str]
    checks: list[Check]

    @property
    def has_held(self) -> bool:
        return all(check.has_held is not False for check in self.checks)


def run(catalog: Catalog, lane: str, name: str | None, progress: Console, *, is_quick: bool) -> Report:
    """Try all of it, one after the other.

    Raises:
        NotThereError: this host cannot run the model; says what to do.
        ModelUnavailableError: it does not load.
    """
    model = chosen(catalog, lane, name)
    found = availability(model)
    if found.state != "ready":
        raise NotThereError(f"{model.name} cannot be run here: {found.why}", found.what_to_do or "")
    from workers.engines.mlx import load  # noqa: PLC0415 - takes seconds

    began = time.monotonic()
    engine = load(model, slots=SLOTS)
    checks = [Check("loads", has_held=True, found=f"{time.monotonic() - began:.1f} s")]
    try:
        for check in Trial(engine, tokens=16 if is_quick else 64).all():
            progress.print(f"{check.name}: {check.found}", highlight=False)
            checks.append(check)
        checks.append(memory_of())
    finally:
        engine.close()
    checks += [threads_left(), ends_well(model)]
    return Report(facts(model), checks)


def chosen(catalog: Catalog, lane: str, name: str | None) -> Model:
    """Find the model to try."""
    if name is not None:
        return catalog.model(name)
    models = [m for m in local_models(catalog.models.values()) if m.engine == ENGINE_OF[lane]]
    if not models:
        raise NotThereError(
            f"the catalog has no model of the engine {ENGINE_OF[lane]}", "add one to models.yaml"
        )
    return models[0]


def facts(model: Model) -> dict[str, str]:
    """Say what was tried where."""
    host = this_host()
    metal = f"{host.metal_bytes / GB:.1f} GB recommended" if host.metal_bytes else "no: MLX's CPU backend"
    return {
        "model": model.name,
        "fleet": fleet_version(),
        "mlx": f"{version('mlx')}, mlx-lm {version('mlx-lm')}",
        "system": f"{platform.system()} {platform.mac_ver()[0] or platform.release()}, {platform.machine()}",
        "Metal": metal,
    }


class Trial:
    """A loaded engine, and what is tried with it."""

    def __init__(self, engine: Engine, tokens: int) -> None:
        self.engine = engine
        self.tokens = tokens

    def all(self) -> Iterator[Check]:
        """Try one thing after the other."""
        yield self.answers()
        yield self.is_the_same_at_once()
        yield self.keeps_a_seed()
        yield self.fits_a_schema()
        yield self.stops()
        yield self.cancels()
        yield self.shares_heads()
        yield from self.speeds()

    def ask(self, text: str, show: Callable[[str], None] | None = None, **changes: Any) -> Completion:  # noqa: ANN401 - fields of a Request
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
        request = replace(Request(messages, max_tokens=self.tokens, temperature=0.0), **changes)
        return self.engine.generate(request, on_token=show or ignore, cancelled=lambda: False)

    def at_once(self, texts: Sequence[str], **changes: Any) -> list[Completion]:  # noqa: ANN401 - as above
        with ThreadPoolExecutor(len(texts)) as callers:
            return list(callers.map(lambda text: self.ask(text, **changes), texts))

    def answers(self) -> Check:
        pieces: list[str] = []
        completion = self.ask("What is the capital of France?", pieces.append)
        is_whole = "".join(pieces) == completion.text and completion.completion_tokens > 0
        return Check("answers, and streams what it answers", is_whole, repr(completion.text[:60]))

    def is_the_same_at_once(self) -> Check:
        """Compare with serial answers; a GPU may round differently for more rows, so a person judges."""
        texts = [f"What is {number} plus {number}?" for number in range(SLOTS)]
        alone = [self.ask(text).text for text in texts]
        together = [completion.text for completion in self.at_once(texts)]
        same = sum(one == other for one, other in zip(alone, together, strict=True))
        return Check("greedy answers at once equal those one by one", None, f"{same} of {SLOTS}")

    def keeps_a_seed(self) -> Check:
        first, second, other = (
            self.ask("Tell me a story.", temperature=1.0, seed=seed).text for seed in (7, 7, 8)
        )
        return Check(
            "a seed gives the same text again",
            first == second,
            "another seed: " + ("another text" if other != first else "the same text"),
        )

    def fits_a_schema(self) -> Check:
        form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
        texts = [f"Describe city number {number}." for number in range(SLOTS)]
        made = self.at_once(texts, temperature=1.0, response_format=form, max_tokens=100)
        valid = sum(is_place(each.text) for each in made)
        return Check("answers fit a JSON schema", valid == SLOTS, f"{valid} of {SLOTS}")

    def stops(self) -> Check:
        whole = self.ask("Tell me about the sea.").text
        stop = whole[len(whole) // 2 :][:3]
        text = self.ask("Tell me about the sea.", stop=[stop]).text if stop else ""
        return Check(
            "an answer ends before a stop string",
            bool(stop) and text == whole[: whole.index(stop)],
            repr(stop),
        )

    def cancels(self) -> Check:
        said_at: list[float] = []
        request = Request(
            [{"role": "user", "content": "Tell me a long story."}], max_tokens=400, temperature=0.7
        )

        def note(_piece: str) -> None:
            said_at.append(time.monotonic())

        try:
            self.engine.generate(request, on_token=note, cancelled=lambda: len(said_at) > 3)
        except CancelledError:
            took = time.monotonic() - said_at[3]
            return Check("a cancelled call ends at once", took < QUICK_CANCEL_S, f"{took * 1000:.0f} ms")
        return Check("a cancelled call ends at once", has_held=None, found="it had ended by itself")

    def shares_heads(self) -> Check:
        """Compare the first token of a system prompt that is new with one that is kept."""
        system = f"You are number {time.time_ns()}. {SYSTEM}"
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "Hello."}]
        request = Request(messages, max_tokens=2, temperature=0.0)
        asked = partial(self.engine.generate, request, on_token=ignore, cancelled=lambda: False)
        new, kept = asked(), asked()
        times = f"{new.first_token_s or 0:.2f} s, then {kept.first_token_s or 0:.2f} s"
        found = f"{times} to the first token ({kept.cached_tokens} of {kept.prompt_tokens} tokens kept)"
        return Check("a system prompt is computed once", kept.cached_tokens > new.cached_tokens, found)

    def speeds(self) -> Iterator[Check]:
        for callers in (1, 4, SLOTS):
            began = time.monotonic()
            made = self.at_once(
                [f"Tell me a story about number {n}." for n in range(callers)], temperature=0.7
            )
            rate = sum(each.completion_tokens for each in made) / (time.monotonic() - began)
            yield Check(f"tokens a second, {callers} at once", None, f"{rate:.1f}")


def ignore(_piece: str) -> None:
    """Show nothing."""


def is_place(text: str) -> bool:
    try:
        place = json.loads(text)
    except ValueError:
        return False
    return isinstance(place, dict) and set(place) == {"city", "is_capital"}


def memory_of() -> Check:
    """Compare the most memory that MLX used with what Metal recommends."""
    import mlx.core as mx  # noqa: PLC0415 - where it runs only

    peak, most = mx.get_peak_memory(), this_host().metal_bytes
    return Check("memory, at most", None if most is None else peak <= most, f"{peak / GB:.2f} GB")


def threads_left() -> Check:
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("engine-")]
    return Check("no thread is left", not left, ", ".join(left) or "none")


def ends_well(model: Model) -> Check:
    """Let a process run the model and end: MLX aborts those that leave streams behind."""
    found = locate(model)
    path = "" if isinstance(found, Absence) else str(found.path)
    ended = subprocess.run(
        [sys.executable, "-c", RUNS_AND_ENDS, path], capture_output=True, text=True, check=False
    )
    return Check("a process that ran it ends well", ended.returncode == 0, f"exit status {ended.returncode}")


def as_json(report: Report) -> dict[str, Any]:
    return {**asdict(report), "has_held": report.has_held}


def show(console: Console, report: Report) -> None:
    """Print the report."""
    print_rows(console, list(report.host.items()))
    console.print()
    marks = {True: "held  ", False: "FAILED", None: "      "}
    print_rows(console, [(check.name, f"{marks[check.has_held]} {check.found}") for check in report.checks])
