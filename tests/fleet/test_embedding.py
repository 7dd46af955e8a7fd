"""`embed` and `similar` through the Procfile's own processes, as an agent and a shell use them."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import psycopg
import pytest
import yaml
from celery import Celery, chain, chord, group
from openai.types import CreateEmbeddingResponse

from config.settings import Settings
from tests.embedding_model import CONTEXT_TOKENS, DIMENSIONS, make_embedding_model
from tests.fleet.conftest import ECHO_CATALOG
from tests.fleet.processes import Fleet, run_fleet
from workers import complete, embed, similar
from workers.errors import InvalidCallError

WAIT_S = 30

POSTS = ["the cat sits outside", "pasta and pizza", "a dog plays the piano"]


def shell(environment: dict[str, str], *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return run_fleet(environment, *arguments, timeout_s=WAIT_S * 2, given=given)


@pytest.mark.usefixtures("app")
class TestInAnAgent:
    def test_texts_become_vectors(self):
        """The call that the README shows."""
        found = embed.delay(["one", "two"], model="vectors").get(timeout=WAIT_S)

        CreateEmbeddingResponse.model_validate(found)
        assert len(found["data"]) == 2

    def test_what_was_embedded_is_found(self):
        embed.delay(POSTS, collection="agent").get(timeout=WAIT_S)

        found = similar.delay("the dog plays", k=1, collection="agent").get(timeout=WAIT_S)

        assert [each["text"] for each in found["data"]] == [POSTS[2]]

    def test_a_wrong_call_raises_at_once(self):
        """In the caller's process, with the name of the task that was called."""
        with pytest.raises(InvalidCallError, match="embed: model must be an embedding model"):
            embed.delay(["x"], model="echo")
        with pytest.raises(InvalidCallError, match="similar: k must be a whole number"):
            similar.delay("x", collection="agent", k=0)

    def test_an_answer_is_embedded_by_a_chain(self):
        """The text of a completion, not its JSON."""
        both = chain(complete.s("an answer to embed", profile="social"), embed.s(collection="chained"))()

        assert both is not None
        both.get(timeout=WAIT_S)

        found = similar.delay("an answer", collection="chained").get(timeout=WAIT_S)
        assert [each["text"] for each in found["data"]] == ["an answer to embed"]

    def test_a_group_gives_its_results_in_order(self):
        found = group(embed.s([post]) for post in POSTS)().get(timeout=WAIT_S)

        [together] = [embed.delay(POSTS).get(timeout=WAIT_S)]
        assert [each["data"][0]["embedding"] for each in found] == [
            each["embedding"] for each in together["data"]
        ]

    def test_a_chord_embeds_what_its_completions_said(self):
        said = chord(
            (complete.s(text, profile="social") for text in ("first words", "second words")),
            embed.s(collection="chorded"),
        )

        assert len(said.apply_async().get(timeout=WAIT_S)["data"]) == 2

    def test_a_program_that_has_only_celery_can_call_it(self, bare_app: Celery):
        sent = bare_app.send_task("embed", [["one", "two", "three"]], queue="dispatch")

        assert len(sent.get(timeout=WAIT_S)["data"]) == 3

    def test_an_idempotency_key_is_the_same_task(self):
        one, other = (embed.delay(["keyed"], idempotency_key="vectors-1") for _ in range(2))

        assert one.id == other.id
        assert one.get(timeout=WAIT_S) == other.get(timeout=WAIT_S)

    def test_prompts_are_in_no_message_to_a_worker(self, fleet: Settings):
        """Texts stay in Postgres, as with `complete`; Flower shows the model alone."""
        result = embed.delay(["a secret text"])
        result.get(timeout=WAIT_S)

        with psycopg.connect(fleet.database_url) as db:
            row = db.execute("SELECT envelope::text FROM tasks WHERE id = %s", [result.id]).fetchone()
        assert row is not None
        assert "secret" not in row[0]


class TestInAShell:
    def test_similar_prints_what_is_nearest(self, environment: dict[str, str], fleet: Settings):
        """Lines in, the nearest one out."""
        added = shell(environment, "embed", "--collection", "notes", given="\n".join([*POSTS, "a note"]))
        assert added.stdout == f"4 texts, 3 known before, {DIMENSIONS} numbers each\n", added.stderr

        found = shell(environment, "similar", "pizza and pasta", "--collection", "notes", "-k", "1")

        assert found.returncode == 0, found.stderr
        assert found.stdout.split("  ")[1] == "pasta and pizza\n"
        assert "vectors (local)" in found.stderr

    def test_json_is_for_programs(self, environment: dict[str, str], fleet: Settings):
        shell(environment, "embed", "--collection", "json", *POSTS)

        found = shell(environment, "similar", "pasta", "--collection", "json", "--json")

        assert json.loads(found.stdout)["data"][0]["text"] == "pasta and pizza"

    def test_collections_are_listed_and_dropped(self, environment: dict[str, str], fleet: Settings):
        """What people wrote can be taken out again."""
        shell(environment, "embed", "--collection", "passing", *POSTS)
        assert "passing: 3 texts, vectors, 64 numbers" in shell(environment, "collections", "list").stdout

        dropped = shell(environment, "collections", "drop", "passing")
        again = shell(environment, "collections", "drop", "passing")

        assert (dropped.stdout, dropped.returncode) == ("dropped passing\n", 0)
        assert "no collection is named 'passing'" in again.stderr
        assert again.returncode == 1
        with psycopg.connect(fleet.database_url) as db:
            assert db.execute("SELECT count(*) FROM collections WHERE name = 'passing'").fetchone() == (0,)

    def test_a_collection_that_is_not_there_is_a_sentence(self, environment: dict[str, str], fleet: Settings):
        missed = shell(environment, "similar", "x", "--collection", "nowhere")

        assert missed.returncode == 1
        assert "'nowhere' is not there" in missed.stderr


@pytest.fixture
def real(short_folder: Any) -> Iterator[Fleet]:
    """Run a dispatcher and a worker whose one model is a GGUF."""
    home: Path = short_folder()
    copytree(ECHO_CATALOG, home / "config")
    models = yaml.safe_load((home / "config/models.yaml").read_text(encoding="utf-8"))
    models["models"]["vectors"] |= {
        "engine": "llama",
        "sources": [{"file": str(make_embedding_model(home / "tiny.gguf"))}],
        "context_tokens": CONTEXT_TOKENS,
        "dimensions": DIMENSIONS,
    }
    (home / "config/models.yaml").write_text(json.dumps(models, default=str), encoding="utf-8")
    fleet = Fleet(home)
    fleet.environment |= {"FLEET_MODELS": str(home / "models")}
    if os.geteuid() == 0:
        home.chmod(0o755)
    fleet.start("dispatcher")
    fleet.start("worker", "cpu", "--slots", "2")
    yield fleet
    fleet.end()


def test_a_real_model_embeds_and_is_searched(real: Fleet):
    """From the shell to llama.cpp and back, with its row in the ledger."""
    added = real.run("embed", "--collection", "posts", *POSTS, "--json")
    assert added.returncode == 0, added.stderr + real.log.read_text()

    found = json.loads(real.run("similar", "dog piano", "--collection", "posts", "-k", "2", "--json").stdout)
    again = json.loads(real.run("embed", "--collection", "posts", *POSTS, "--json").stdout)

    assert found["data"][0]["text"] == POSTS[2]
    assert len(found["data"]) == 2
    assert again["fleet"]["cached"] == 3
    assert again["data"] == json.loads(added.stdout)["data"]
    assert (
        real.ask("SELECT count(*) FROM attempts WHERE queue = 'cpu.vectors' AND outcome = 'succeeded'") == 3
    )
    assert real.ask("SELECT sum(prompt_tokens - cached_tokens) FROM attempts WHERE number = 1") > 0
