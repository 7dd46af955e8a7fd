"""Where a local model's file is on this host: one function for each kind of source. No network."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, assert_never

from config.models import FileSource, HuggingFaceSource, Model, OllamaSource, PypiSource, Source
from config.settings import ollama_stores, settings

OLLAMA_MODEL_LAYER = "application/vnd.ollama.image.model"

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def find(model: Model, source: Source) -> Path | None:
    """Find a model's file, or for a whole repository its folder; None: it is not (all) here."""
    match source:
        case FileSource():
            return file_or_folder(source.file.expanduser())
        case HuggingFaceSource():
            return find_in_hugging_face_cache(source)
        case PypiSource():
            return readable(unpacked(model, source))
        case OllamaSource():
            return find_in_ollama(source)
    assert_never(source)


def name_of(source: Source) -> str:
    """Name a source for a person."""
    match source:
        case FileSource():
            return str(source.file)
        case HuggingFaceSource():
            return "/".join(part for part in (source.hugging_face, source.filename) if part)
        case PypiSource():
            return f"the package {source.pypi}"
        case OllamaSource():
            return f"Ollama's {source.ollama}"
    assert_never(source)


def folder_of(model: Model) -> Path:
    """Name the folder in which what was fetched for a model is kept."""
    return settings().models / model.name


def unpacked(model: Model, source: PypiSource) -> Path:
    """Say where the file of a wheel is kept; another version of the package is another file."""
    return folder_of(model) / source.pypi.replace("==", "-") / Path(source.filename).name


def find_in_hugging_face_cache(source: HuggingFaceSource) -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - takes a third of a second

    def cached(filename: str) -> Path | None:
        found = try_to_load_from_cache(source.hugging_face, filename, revision=source.revision)
        return Path(found) if isinstance(found, str) else None

    if source.filename:
        return cached(source.filename)
    return whole_folder(cached)


def file_or_folder(path: Path) -> Path | None:
    """Give a file, or the folder of an MLX model that has all its parts."""
    if path.is_dir():
        return whole_folder(lambda name: readable(path / name))
    return readable(path)


def whole_folder(part: Callable[[str], Path | None]) -> Path | None:
    """Find the folder of a model of many files; None: some are missing.

    Args:
        part: finds a file of it by its name.
    """
    config = part("config.json")
    tokenizer = part("tokenizer.json") or part("tokenizer.model")
    if config is None or tokenizer is None:
        return None
    return (
        config.parent if all(part(shard) for shard in shards(part("model.safetensors.index.json"))) else None
    )


def shards(index: Path | None) -> list[str]:
    """List the files of weights that a repository needs to be whole."""
    if index is None:
        return ["model.safetensors"]
    return sorted(set(json.loads(index.read_text())["weight_map"].values()))


def find_in_ollama(source: OllamaSource) -> Path | None:
    for store in ollama_stores():
        for manifest in ollama_manifests(store, source.ollama):
            for digest in ollama_digests(manifest):
                blob = readable(store / "blobs" / digest.replace(":", "-"))
                if blob is not None:
                    return blob
    return None


def ollama_manifests(store: Path, tag: str) -> Iterator[Path]:
    """Find the manifests of a model, e.g. `qwen3:8b`, below Ollama's folder of manifests.

    They lie in a folder for each place that models were pulled from, one for Ollama's own among them.

    Source: ollama, types/model/name.go (Filepath and the defaults of a name), read 2026-11.
    """
    name, _, version = tag.partition(":")
    parts = name.split("/")
    if len(parts) == 1:
        parts = ["library", *parts]
    of_any_place = "*/" if len(parts) == 2 else ""
    yield from sorted((store / "manifests").glob(of_any_place + "/".join([*parts, version or "latest"])))


def ollama_digests(manifest: Path) -> Iterator[str]:
    """Read which blobs hold the weights of a model; none where there is no such model."""
    try:
        layers: list[dict[str, Any]] = json.loads(manifest.read_text())["layers"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for layer in layers:
        digest = str(layer.get("digest"))
        if layer.get("mediaType") == OLLAMA_MODEL_LAYER and DIGEST.fullmatch(digest):
            yield digest


def readable(path: Path) -> Path | None:
    """Give a file that this process may read; Ollama's may be another user's."""
    return path if path.is_file() and os.access(path, os.R_OK) else None
