"""A worker with GGUF models, as a process: what is asked reaches the model, and broken files stay out."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from config.catalog import load_catalog
from config.settings import SHIPPED_CONFIG, Settings, read_settings
from tests.fleet.conftest import process, servers, wait_for
from workers.app import make_app
from workers.model_files import pull

MODEL = """
  {name}:
    tier: local
    engine: llama
    sources: [{{file: "{file}"}}]
    context_tokens: 1024
    capabilities: {{json_schema: true, grammar: true, logprobs: true}}
"""

PROFILES = """
profiles:
  small: {model: whole, fallbacks: [], temperature: 0, max_tokens: 60, prompt: Hello.}
routing: {primary: whole}
"""


@pytest.fixture(scope="module")
def cpu_fleet(short_folder: Callable[[], Path]) -> Iterator[Settings]:
    """Run a dispatcher and a worker whose catalog has a model that is whole and one that is cut."""
    config = short_folder()
    whole = pull(load_catalog(SHIPPED_CONFIG).model("smollm2"), lambda *_: None).path
    cut = config / "cut.gguf"
    cut.write_bytes(whole.read_bytes()[:1_000_000])
    models = MODEL.format(name="whole", file=whole) + MODEL.format(name="cut", file=cut)
    (config / "models.yaml").write_text(f"models:\n{models}")
    (config / "profiles.yaml").write_text(PROFILES)
    (config / "schedule.yaml").write_text("schedule: {}\n")
    with servers(short_folder(), config) as environment, ExitStack() as stack:
        settings = read_settings(environment)
        for arguments in (("dispatcher",), ("worker", "cpu")):
            stack.enter_context(process(environment, "workers.cli", *arguments))
        wait_for(settings, "SELECT count(*) FROM workers", 1, timeout_s=100)
        yield settings


@pytest.fixture
def ask(cpu_fleet: Settings) -> Iterator[Callable[..., Any]]:
    app = make_app(cpu_fleet)

    def send(text: str, **arguments: Any) -> Any:
        sent = app.send_task("complete", [text], {"profile": "small", **arguments}, queue="dispatch")
        return sent.get(timeout=60)["choices"][0]

    yield send
    app.close()


def test_a_broken_file_is_not_served_and_the_other_model_is(cpu_fleet: Settings, ask: Callable[..., Any]):
    """What is not offered is not planned, and its tasks go to others at once."""
    wait_for(cpu_fleet, "SELECT string_agg(key, ' ') FROM workers, jsonb_each(slots - name)", "cpu.whole")

    assert ask("What is the capital of France?")["message"]["content"]


def test_a_schema_goes_all_the_way_to_the_tokens(ask: Callable[..., Any]):
    """The brain sends it to a model that can; the engine keeps to it; the worker checks it."""
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "integer"}},
        "required": ["sum"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}

    choice = ask("What is 2 plus 3?", response_format=form)

    assert isinstance(json.loads(choice["message"]["content"])["sum"], int)


def test_a_grammar_and_chances_too(ask: Callable[..., Any]):
    """A classifier wants one of its words, and how sure the model was."""
    choice = ask("Is water wet?", grammar='root ::= "yes" | "no"', logprobs=True, top_logprobs=2)

    assert choice["message"]["content"] in ("yes", "no")
    assert choice["logprobs"]["content"][0]["logprob"] <= 0
    assert len(choice["logprobs"]["content"][0]["top_logprobs"]) == 2
