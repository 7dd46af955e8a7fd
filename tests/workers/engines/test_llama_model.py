"""GGUF files that are not what they should be, and the proof that a build can run one."""

import os
import signal
import sys
from pathlib import Path

import pytest

from config.models import Model
from config.settings import settings
from workers.engines import llama_check
from workers.engines.errors import ModelUnavailableError
from workers.engines.llama import LlamaEngine, load
from workers.engines.llama_check import fault_of, prove
from workers.lanes import proven_models


def changed(starter: Path, goal: Path, old: bytes, new: bytes) -> Path:
    """Copy a model with some bytes of its metadata changed for as many others."""
    content = starter.read_bytes()
    assert len(old) == len(new)
    assert old in content
    goal.write_bytes(content.replace(old, new, 1))
    return goal


def why_not(path: Path) -> str:
    with pytest.raises(ModelUnavailableError) as refused:
        LlamaEngine("broken", path, context_tokens=256)
    return refused.value.why


def test_a_missing_file_is_named(tmp_path: Path):
    """The worker stays up for its other models, and says what this one lacks."""
    assert "none.gguf cannot be read: No such file" in why_not(tmp_path / "none.gguf")


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path):
    """An error page saved under the model's name is the most common broken download."""
    page = tmp_path / "page.gguf"
    page.write_text("<html>Not found</html>")

    assert why_not(page) == "page.gguf is not a GGUF file; fetch it again"


@pytest.mark.parametrize("size", [4, 30, 1000, 5_000_000])
def test_a_truncated_file_is_refused(starter: Path, tmp_path: Path, size: int):
    """A download that was cut off must be a sentence, not a crash at the first answer."""
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(starter.read_bytes()[:size])

    assert why_not(cut).startswith("llama.cpp cannot load cut.gguf: ")


def test_an_unknown_architecture_is_named(starter: Path, tmp_path: Path):
    """A model newer than llama.cpp: the word tells which version to look for."""
    new = changed(starter, tmp_path / "new.gguf", b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lmaal")

    assert "lmaal" in why_not(new)


def test_a_model_without_a_chat_template_is_refused(starter: Path, tmp_path: Path):
    """A base model fed with a guessed template answers nonsense that looks like an answer."""
    base = changed(starter, tmp_path / "base.gguf", b"tokenizer.chat_template", b"tokenizer.chat_xxxxxxxx")

    assert "no chat template" in why_not(base)


def test_loading_says_nothing(starter: Path, capfd: pytest.CaptureFixture[str]):
    """llama.cpp prints hundreds of lines; a worker's log holds events."""
    LlamaEngine("smollm2", starter, context_tokens=256, slots=1).close()

    assert capfd.readouterr() == ("", "")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLEET_MODELS", str(tmp_path / "models"))
    settings.cache_clear()
    yield tmp_path / "models"
    settings.cache_clear()


def test_a_good_build_is_proven_once(starter: Path, models: Path):
    """The proof costs a load of the model; a worker that restarts must not pay it again."""
    proven = prove("smollm2", starter)
    (proof,) = (models / ".proven").iterdir()
    before = proof.stat().st_mtime_ns

    assert prove("smollm2", starter) == proven
    assert proof.stat().st_mtime_ns == before


def test_a_proof_measures_what_the_weights_take(starter: Path, models: Path):
    """Whether a model fits is known then, not guessed."""
    proof = prove("smollm2", starter)

    size = starter.stat().st_size
    assert 0.8 * size < proof.weights_bytes < 2 * size


def test_a_proof_that_cannot_be_read_is_made_again(starter: Path, models: Path):
    """It may be of another version, or cut by a full disk."""
    proven = prove("smollm2", starter)
    (kept,) = (models / ".proven").iterdir()
    kept.write_text('{"name": "smollm2"')

    assert prove("smollm2", starter).weights_bytes == pytest.approx(proven.weights_bytes, rel=0.1)


def test_a_file_that_changed_is_proven_again(starter: Path, models: Path, tmp_path: Path):
    """What held of the old one says nothing of the new one."""
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(starter.read_bytes())
    prove("copy", copy)
    os.utime(copy, (0, 0))

    assert llama_check.proven(copy) is None


def test_a_refused_file_is_not_proven(tmp_path: Path, models: Path):
    """The child's sentence is the worker's."""
    page = tmp_path / "page.gguf"
    page.write_text("<html>Not found</html>")

    with pytest.raises(ModelUnavailableError, match="is not a GGUF file"):
        prove("page", page)
    assert list((models / ".proven").iterdir()) == []


def test_a_crash_of_the_child_becomes_a_sentence():
    """A build that crashes takes the worker along; the child goes first, and tells the remedy."""
    crash = f"import os; os.kill(os.getpid(), {signal.SIGSEGV.value})"

    why = fault_of([sys.executable, "-c", crash], 30)

    assert why is not None
    assert "SIGSEGV" in why
    assert "make clean env" in why


def test_a_child_that_hangs_becomes_a_sentence():
    """A worker that waits for ever at its start looks like one that is not there."""
    why = fault_of([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)

    assert why is not None
    assert "no step" in why


def test_a_child_that_fails_becomes_a_sentence():
    """A library that is missing shows as the child's last line."""
    why = fault_of([sys.executable, "-c", "raise SystemExit('libgomp.so.1 is missing')"], 30)

    assert why is not None
    assert "libgomp.so.1 is missing" in why


def test_a_catalog_model_is_loaded_from_where_it_is(starter: Path, models: Path):
    """This is the way a worker goes."""
    model = Model.model_validate(
        {
            "name": "mine",
            "tier": "local",
            "engine": "llama",
            "context_tokens": 300,
            "sources": [{"file": os.fspath(starter)}],
        }
    )

    engine = load(model, slots=3)

    assert (engine.slots, engine.context_tokens) == (3, 300)
    engine.close()


def test_a_catalog_model_that_is_not_here_says_what_to_do(models: Path):
    """The line ends up with the task that asked for it."""
    model = Model.model_validate(
        {
            "name": "mine",
            "tier": "local",
            "engine": "llama",
            "context_tokens": 300,
            "sources": [{"file": "/nowhere/mine.gguf"}],
        }
    )

    with pytest.raises(ModelUnavailableError, match=r"/nowhere/mine\.gguf"):
        load(model, slots=1)


def test_a_file_without_a_chat_template_takes_the_catalogs(starter: Path, tmp_path: Path, models: Path):
    """Base models and some conversions have none; whoever knows it can give it."""
    base = changed(starter, tmp_path / "base.gguf", b"tokenizer.chat_template", b"tokenizer.chat_templatX")
    entry = {
        "name": "base",
        "tier": "local",
        "engine": "llama",
        "context_tokens": 300,
        "sources": [{"file": os.fspath(base)}],
    }
    with pytest.raises(ModelUnavailableError, match="chat_template in models"):
        load(Model.model_validate(entry), slots=1)

    template = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
    engine = load(Model.model_validate({**entry, "chat_template": template}), slots=1)
    try:
        rendered = engine._loaded.model.render([{"role": "user", "content": "Hello there."}])
        assert rendered == engine._loaded.model.tokenize("Hello there.\n", adds_bos=False)
    finally:
        engine.close()


def test_a_model_that_does_not_run_is_left_out_and_the_others_are_served(
    starter: Path, tmp_path: Path, models: Path
):
    """One broken file must not take the worker's other models away."""
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(starter.read_bytes()[: starter.stat().st_size // 2])
    entries = [
        Model.model_validate(
            {
                "name": name,
                "tier": "local",
                "engine": "llama",
                "context_tokens": 300,
                "sources": [{"file": os.fspath(file)}],
            }
        )
        for name, file in (("cut", cut), ("whole", starter))
    ]

    running, refused = proven_models(entries)

    assert [model.name for model in running] == ["whole"]
    assert [name for name, _ in refused] == ["cut"]
    assert "cut.gguf" in refused[0][1]
