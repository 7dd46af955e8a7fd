"""Whether a host can run a local model, said in time and with what mends it."""

import sys
import time
from pathlib import Path

import pytest

from config.models import Model
from config.settings import settings
from workers.availability import ModelFacts, availabilities, availability, state_of_files
from workers.mlx_host import MlxHost, judge

A_MAC = MlxHost("Darwin", "arm64", is_installed=True, metal_bytes=11_000_000_000)


def a_model(engine: str = "mlx", name: str = "tiny", **source: str) -> Model:
    return Model.model_validate(
        {"name": name, "tier": "local", "engine": engine, "context_tokens": 64, "sources": [source]}
    )


@pytest.mark.parametrize(
    ("host", "on_cpu", "lack", "says"),
    [
        (A_MAC, False, None, ""),
        (MlxHost("Linux", "x86_64", is_installed=True), False, "no_mac", "this host is not one"),
        (MlxHost("Darwin", "x86_64", is_installed=True), False, "no_mac", "this Mac has none"),
        (MlxHost("Darwin", "arm64", is_installed=False), False, "no_library", "aria-fleet[mlx]"),
        (MlxHost("Darwin", "arm64", is_installed=True, fault="no libmlx"), False, "no_library", "no libmlx"),
        (MlxHost("Darwin", "arm64", is_installed=True), False, "no_metal", "no GPU"),
        (MlxHost("Linux", "x86_64", is_installed=True), True, None, ""),
        (MlxHost("Linux", "x86_64", is_installed=False), True, "no_library", "not installed"),
    ],
)
def test_what_a_host_lacks_is_named_with_what_mends_it(
    *, host: MlxHost, on_cpu: bool, lack: str | None, says: str
):
    """ "It does not work on my Mac" has five causes, and each another remedy."""
    found = judge(host, on_cpu=on_cpu)

    assert (found.lack if found else None) == lack
    if found:
        assert says in str(found)


def test_a_host_that_is_no_mac_does_not_load_mlx():
    """Every worker and every `fleet models --check` asks; MLX is for those that can use it."""
    if sys.platform == "darwin":
        pytest.skip("this is a Mac")
    assert availability(a_model(hugging_face="nobody/tiny")).state == "no_mac"


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    pytest.importorskip("mlx.core")
    monkeypatch.setenv("FLEET_MLX_ON_CPU", "1")
    monkeypatch.setenv("FLEET_MODELS", str(tmp_path / "models"))
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))  # read at import
    settings.cache_clear()
    yield tmp_path / "hub/models--nobody--tiny"
    settings.cache_clear()


def a_snapshot(repository: Path, *files: str) -> None:
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs/main").write_text("0" * 40)
    for name in files:
        (snapshot / name).write_text("{}")


def test_a_repository_goes_from_missing_over_half_to_ready(on_cpu: Path):
    """The audit's open question: is the MLX model really there?"""
    model = a_model(hugging_face="nobody/tiny")

    states = [availability(model)]
    a_snapshot(on_cpu, "config.json", "tokenizer.json")
    states.append(availability(model))
    a_snapshot(on_cpu, "model.safetensors")
    states.append(availability(model))

    assert [each.state for each in states] == ["missing", "partial", "ready"]
    assert [each.what_to_do for each in states] == [
        "fetch it with `fleet pull tiny`",
        "go on with `fleet pull tiny`",
        None,
    ]


def test_a_folder_of_files_is_a_model_when_it_is_whole(on_cpu: Path, tmp_path: Path):
    """A model that was copied by hand has no repository."""
    folder = tmp_path / "copied"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    model = a_model(file=str(folder))

    assert availability(model).state == "missing"
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    assert availability(model).state == "ready"


def test_a_model_too_large_for_the_memory_is_not_ready_unless_it_is_loaded(on_cpu: Path):
    """A Mac that swaps answers nobody; one that has it in memory already needs no more."""
    model = a_model(hugging_face="nobody/tiny")

    state, absence, _ = state_of_files(ModelFacts(model, "here", 10**13, None))

    assert state == "no_memory"
    assert "choose a smaller model" in str(absence)
    assert availability(model, is_loaded=True).state == "ready"


def test_all_local_models_are_told_apart_from_those_of_providers(on_cpu: Path):
    """What a worker says of its host goes to the ledger every few seconds."""
    cloud = Model.model_validate({"name": "far", "tier": "free", "engine": "cloud", "context_tokens": 64})
    began = time.monotonic()

    said = availabilities([a_model(hugging_face="nobody/tiny"), cloud], loaded=["tiny"])

    assert said == {"tiny": "ready"}
    assert time.monotonic() - began < 1
